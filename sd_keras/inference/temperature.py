"""Temperatures that make probabilities say how often they are right."""

import warnings

import numpy as np

from sd_keras.inference.arrays import blocks, class_numbers, exits_of

# Beyond these no further likelihood is worth having: the data do not hold the minimum.
BOUNDS = (0.05, 20.0)


def fit_temperature(logits, labels, bounds=BOUNDS):
    """Finds the temperature of least cross entropy (Guo et al. 2017, section 4.2).

    The cross entropy of softmax(logits / T) is convex in 1 / T; its minimum is found to 1e-9.

    Args:
        logits: `(n, classes)` of one exit; held-out images.
        labels: class numbers `(n,)`.
        bounds: smallest and largest temperature. Where every row is classified rightly the
            cross entropy falls for ever as T goes to 0, and where logits tell nothing as T
            goes to infinity; the bound is returned then, with a warning.

    Returns:
        The temperature, a float.

    Raises:
        ValueError: for logits, labels or bounds that do not fit.
    """
    from scipy import optimize

    (logits,) = exits_of([logits])
    labels = class_numbers(labels, *logits.shape)
    try:
        smallest, largest = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        smallest = largest = 0.0
    if not 0 < smallest < largest < np.inf:
        raise ValueError(
            f"`bounds` must be two temperatures 0 < smallest < largest. Received: bounds={bounds!r}"
        )
    low, high = 1 / largest, 1 / smallest
    for inverse, bound, why in (
        (low, largest, "the logits tell next to nothing about the labels"),
        (high, smallest, "next to every row is classified rightly"),
    ):
        slope = _slope(inverse, logits, labels)
        if slope >= 0 if inverse == low else slope <= 0:
            warnings.warn(
                f"the temperature is at its bound {bound:g}: {why}", RuntimeWarning, stacklevel=2
            )
            return bound
    return float(1 / optimize.brentq(_slope, low, high, (logits, labels), rtol=1e-9))


def fit_temperatures(logits, labels, bounds=BOUNDS):
    """Finds the temperature of each exit by `fit_temperature`.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list; held-out images.
        labels: class numbers `(n,)`.
        bounds: as there.

    Returns:
        A tuple of C floats, shallow to deep, as `Policy` takes them.
    """
    return tuple(fit_temperature(exit_logits, labels, bounds) for exit_logits in exits_of(logits))


def _slope(inverse, logits, labels):
    """Derivative of the mean cross entropy with respect to 1 / T, which only rises."""
    slope = 0.0
    for block in blocks(len(labels)):
        z = logits[block].astype("float64")
        z -= z[np.arange(len(z)), labels[block]][:, None]
        scaled = inverse * z
        p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        slope += ((p * z).sum(axis=1) / p.sum(axis=1)).sum()
    return slope / len(labels)
