"""How well each exit of a network answers."""

import keras
import numpy as np

from sd_keras.analysis.inputs import checked_labels
from sd_keras.analysis.predictions import weighted_gap
from sd_keras.data.stream import saying_why
from sd_keras.inference import ensemble_logits
from sd_keras.inference.arrays import class_numbers, exits_of, log_softmax
from sd_keras.models.exits import exit_names


def evaluate_exits(network, images, labels=None, batch_size=256, bins=15):
    """Measures each exit and the ensemble on labelled images.

    Args:
        network: made by `attach_exits`.
        images: `(n, h, w, c)`, raw pixels; or a `sd_keras.data.Stream`, read from its beginning
            without the images that are bad.
        labels: class numbers `(n,)`; None for a Stream.
        batch_size: images per forward pass; a Stream has its own.
        bins: of the calibration error.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict with `accuracy`, `top_5`
        (shares of 1; top_5 is 1 with at most 5 classes), `cross_entropy` (nats) and
        `calibration_error` (see `calibration_error`).

    Raises:
        ValueError: for labels that do not fit, logits that are not finite, or a Stream with
            too many bad images.
    """
    if labels is None:
        if not hasattr(images, "dataset"):
            raise ValueError(
                "`labels` must be class numbers (n,), unless `images` is a sd_keras.data.Stream. "
                f"Received: labels=None, images of type {type(images).__name__}"
            )
        parts = []
        with saying_why(images):
            for batch, numbers, weights in images.dataset().as_numpy_iterator():
                outputs = network.predict_on_batch(batch[weights > 0])
                parts.append(_answers(network, outputs, numbers[weights > 0]))
    else:
        labels = checked_labels(network, images, labels)
        outputs = network.predict(images, batch_size=batch_size, verbose=0)
        parts = [_answers(network, outputs, labels)]
    names = [*exit_names(network), "ensemble"]
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}
    return {name: _measures(values, bins) for name, values in joined.items()}


def evaluate_logits(logits, labels, bins=15):
    """Measures each exit and the ensemble from logits that are there already.

    Args:
        logits: `{"exit_1": (n, classes), …}`; other names are left out.
        labels: class numbers `(n,)`.
        bins: of the calibration error.

    Returns:
        The dict of `evaluate_exits`.

    Raises:
        ValueError: for logits or labels that do not fit, or logits that are not finite.
    """
    exits = exits_of(logits)
    labels = class_numbers(labels, *exits[0].shape)
    by_name = {f"exit_{index}": values for index, values in enumerate(exits, start=1)}
    return {n: _measures(answer, bins) for n, answer in _with_ensemble(by_name, labels).items()}


def _answers(network, outputs, labels):
    """Returns by exit what `_measures` needs of each image: `(4, n)`."""
    logits = {name: np.asarray(outputs[name]) for name in exit_names(network)}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ValueError(
            "`network` gives logits that are not finite: its training went wrong. "
            f"Received: network {network.name!r}"
        )
    return _with_ensemble(logits, labels)


def _with_ensemble(logits, labels):
    """Returns the same of logits by exit, which are finite."""
    mean = keras.ops.convert_to_numpy(ensemble_logits(list(logits.values())))
    logits = {**logits, "ensemble": mean}
    return {name: _answer(values, labels) for name, values in logits.items()}


def _answer(logits, labels):
    """Returns log probability and rank of the true class, confidence and correctness."""
    log_probabilities = log_softmax(logits)
    true = log_probabilities[np.arange(len(labels)), labels]
    # Rank of the true class; among equals the lower class number comes first, as in argmax.
    equal = log_probabilities == true[:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((log_probabilities > true[:, None]) | (equal & before)).sum(1)
    correct = log_probabilities.argmax(1) == labels
    return np.stack([true, rank, np.exp(log_probabilities).max(1), correct])


def _measures(answers, bins):
    true, rank, confidence, correct = answers
    return {
        "accuracy": float(correct.mean()),
        "top_5": float((rank < 5).mean()),
        "cross_entropy": float(-true.mean()),
        "calibration_error": weighted_gap(confidence, correct, bins),
    }
