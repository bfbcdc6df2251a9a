"""How far the confidence of an exit tells how often it is right."""

import keras
import numpy as np

from sd_keras.analysis.inputs import integer, logits_with_ensemble
from sd_keras.inference.arrays import class_numbers, log_softmax


def calibration_error(probabilities, labels, bins=15):
    """Expected calibration error (Guo et al. 2017, eq. 3), equally wide bins.

    Args:
        probabilities: `(n, classes)`.
        labels: class numbers `(n,)`.
        bins: number of bins of the confidence.

    Returns:
        Mean gap between confidence and accuracy over the bins, weighted by their size; 0…1.

    Raises:
        ValueError: for probabilities, labels or bins that do not fit.
    """
    bins = integer("bins", bins)
    p = np.asarray(keras.ops.convert_to_numpy(probabilities))
    if p.ndim != 2 or not p.size or not (p >= 0).all() or np.abs(p.sum(1) - 1).max() > 1e-2:
        raise ValueError(
            "`probabilities` must be softmax probabilities (n, classes), each row with the sum 1. "
            f"Received: probabilities of shape {p.shape}"
        )
    return weighted_gap(p.max(1), p.argmax(1) == class_numbers(labels, *p.shape), bins)


def weighted_gap(confidence, correct, bins):
    """Returns the calibration error of answers `(n,)` with a confidence and their correctness."""
    gaps = np.bincount(_bin_of(confidence, bins), confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(logits, labels, bins=15):
    """Accuracy by confidence (Guo et al. 2017, fig. 1), equally wide bins.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        labels: class numbers `(n,)`.
        bins: how many, between confidence 0 and 1.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of arrays `(bins,)`: `count`, how
        many images are in the bin; their mean `confidence` and `accuracy`, shares of 1, NaN
        in empty bins.

    Raises:
        ValueError: for logits, labels or bins that do not fit.
    """
    bins = integer("bins", bins)
    named = logits_with_ensemble(logits)
    labels = class_numbers(labels, *named["ensemble"].shape)
    return {name: _diagram(z, labels, bins) for name, z in named.items()}


def _diagram(logits, labels, bins):
    log_probabilities = log_softmax(logits)
    confidence = np.exp(log_probabilities.max(1))
    index = _bin_of(confidence, bins)
    count = np.bincount(index, minlength=bins)
    values = {"confidence": confidence, "accuracy": log_probabilities.argmax(1) == labels}
    with np.errstate(invalid="ignore"):  # 0 / 0 of empty bins is the NaN that is promised
        means = {name: np.bincount(index, v, bins) / count for name, v in values.items()}
    return {"count": count, **means}


def _bin_of(confidence, bins):
    return np.minimum((confidence * bins).astype(int), bins - 1)
