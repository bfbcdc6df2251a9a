"""How well each exit answers to corrupted images."""

import itertools

import numpy as np

from sd_keras import corruptions
from sd_keras.analysis.evaluation import Evaluation, by_measure, checked


def robustness(
    network, images, labels, kinds=None, severities=corruptions.SEVERITIES, seed=0, batch_size=256
):
    """Accuracy and cross entropy under corruptions the network was not trained on.

    The kinds are those of Hendrycks & Dietterich 2019, made here with parameters of our own
    (see `sd_keras.corruptions`): networks compare, published figures on CIFAR-100-C do not.

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
    for kind, severity in itertools.product(kinds, severities):
        corruptions.check(images, kind, severity, seed)
    evaluation = Evaluation(network, batch_size=batch_size)
    clean = evaluation(images, labels)
    found = [
        [evaluation(corruptions.corrupt(images, kind, s, seed), labels) for s in severities]
        for kind in kinds
    ]
    whole = by_measure(evaluation.names, clean)
    return {
        name: own | {f"clean_{key}": float(value) for key, value in whole[name].items()}
        for name, own in by_measure(evaluation.names, np.array(found)).items()
    }
