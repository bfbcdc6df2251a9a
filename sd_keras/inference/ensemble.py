"""The exits together: their mean, weights for it, and temperatures of their probabilities."""

import math
import warnings

import numpy as np
from keras import ops

from sd_keras.inference.arrays import (
    blocks,
    class_numbers,
    exits_of,
    log_softmax,
    per_exit,
)

MEANS = ("probabilities", "logits")
# Temperatures beyond which no further likelihood is worth having: the data do not hold the minimum.
BOUNDS = (0.05, 20.0)


def ensemble_logits(logits, weights=None, of="probabilities"):
    """Returns the exits' mean answer (BYOT section 4.2, "ensemble", is that of probabilities).

    Args:
        logits: list of `(n, classes)`, one per exit that takes part.
        weights: a number of at least 0 per exit, scaled to a sum of 1; None for equal ones.
        of: `"probabilities"`, or `"logits"` for a geometric mean of the probabilities.

    Returns:
        `(n, classes)`, float32. Of probabilities: the log of their mean, so that its softmax
        is that mean. Of logits: their mean.

    Raises:
        ValueError: for weights that do not fit, or another `of`.
    """
    if of not in MEANS:
        raise ValueError(f"`of` must be one of {MEANS}. Received: of={of!r}")
    if weights is not None:
        shares = per_exit("weights", weights, len(logits))
        if not shares.sum():
            raise ValueError(f"`weights` must not all be 0. Received: weights={weights!r}")
        # An exit of weight 0 would bring the log of 0.
        logits = [z for z, share in zip(logits, shares) if share]
        shares = (shares[shares > 0] / shares.sum()).astype("float32")[:, None, None]
    stacked = ops.stack([ops.cast(z, "float32") for z in logits])
    if of == "logits":
        return ops.mean(stacked, axis=0) if weights is None else ops.sum(stacked * shares, axis=0)
    stacked = ops.log_softmax(stacked, axis=-1)
    if weights is None:
        return ops.logsumexp(stacked, axis=0) - math.log(len(logits))
    return ops.logsumexp(stacked + np.log(shares), axis=0)


def fit_ensemble_weights(logits, labels, tolerance=1e-6, steps=20_000):
    """Finds the weights whose mean of probabilities has the least cross entropy.

    The cross entropy of a mixture is convex in its weights; expectation maximisation
    (Dempster, Laird & Rubin 1977, section 4.3) goes down to its minimum without a step size.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list; held-out images.
        labels: class numbers `(n,)`.
        tolerance: nats; stops once the mean cross entropy is known to be this close to the
            least (the bound is log of the largest ratio below).
        steps: most steps taken.

    Returns:
        A tuple of C floats of at least 0 with sum 1, for `ensemble_logits(…, weights)`.

    Raises:
        ValueError: for logits or labels that do not fit.
    """
    exits = exits_of(logits)
    labels = class_numbers(labels, *exits[0].shape)
    rows = np.arange(len(labels))
    likelihood = np.empty((len(exits), len(labels)))
    for z, row in zip(exits, likelihood):
        for block in blocks(len(labels)):
            row[block] = log_softmax(z[block])[rows[: len(z[block])], labels[block]]
    # Only ratios within a row matter, and these cannot all underflow.
    likelihood = np.exp(likelihood - likelihood.max(axis=0))
    weights = np.full(len(exits), 1 / len(exits))
    for _ in range(steps):
        # Mean ratio of an exit's probability to the mixture's: at most 1 at the minimum.
        ratios = (likelihood / (weights @ likelihood)).mean(axis=1)
        if math.log(ratios.max()) <= tolerance:
            break
        weights = weights * ratios
    return tuple(float(weight) for weight in weights / weights.sum())


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
    """Fits the temperature of each exit by `fit_temperature`.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list; held-out images.
        labels: class numbers `(n,)`.
        bounds: smallest and largest temperature.

    Returns:
        A tuple of C floats, shallow to deep, as `Policy` takes them.

    Raises:
        ValueError: for logits, labels or bounds that do not fit.
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
