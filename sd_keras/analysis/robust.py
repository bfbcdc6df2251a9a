"""How well each exit answers to corrupted images."""

import numpy as np

from sd_keras import corruptions
from sd_keras.analysis.evaluation import Evaluation, checked


def robustness(
    network, images, labels, kinds=None, severities=corruptions.SEVERITIES, seed=0, batch_size=256
):
    """Accuracy and cross entropy under corruptions the network was not trained on.

    Kinds and severities are those of Hendrycks & Dietterich 2019, section 4; the corruptions
    are made here, with parameters of their own (see `sd_keras.corruptions`): compare networks by
    these figures, but not with published ones on CIFAR-100-C.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)` uint8, 1 or 3 channels.
        labels: class numbers `(n,)`.
        kinds: of `corruptions.KINDS`; None for all 15.
        severities: integers 1…5.
        seed: of the corruptions, drawn alike for each severity.
        batch_size: images per forward pass.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of `accuracy` (shares of 1) and
        `cross_entropy` (nats), arrays `(kinds, severities)`, and `clean_accuracy` and
        `clean_cross_entropy`, numbers.

    Raises:
        ValueError: for an argument that does not fit.
    """
    images, labels = checked(network, images, labels)
    kinds, severities = list(corruptions.KINDS if kinds is None else kinds), list(severities)
    for kind in kinds:
        for severity in severities:
            corruptions.check(images[:1], kind, severity)
    evaluation = Evaluation(network, batch_size=batch_size)
    clean = evaluation(images, labels)
    found = np.empty((len(kinds), len(severities), *clean.shape))
    for row, kind in enumerate(kinds):
        for column, severity in enumerate(severities):
            corrupted = corruptions.corrupt(images, kind, severity, seed)
            found[row, column] = evaluation(corrupted, labels)
    return {
        name: {
            "accuracy": found[:, :, index, 0],
            "cross_entropy": found[:, :, index, 1],
            "clean_accuracy": float(clean[index, 0]),
            "clean_cross_entropy": float(clean[index, 1]),
        }
        for index, name in enumerate(evaluation.names)
    }
