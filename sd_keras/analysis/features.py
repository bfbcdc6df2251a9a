"""The features of each exit: principal components, and how far apart the classes lie."""

import numpy as np

from sd_keras.analysis.inputs import features_by_exit, integer
from sd_keras.inference.arrays import class_numbers


def principal_components(features, components=2):
    """Principal components of each exit's features (BYOT figure 6).

    Args:
        features: a dict with `features_1 … features_C`, each `(n, d)`, such as what a network
            predicts.
        components: how many, k; at most n and d.

    Returns:
        A dict from `exit_1 … exit_C` to a dict of arrays of float64: `projected` `(n, k)`, the
        centred features along the axes; `axes` `(k, d)`, of length 1, the largest component of
        each positive; `variances` `(k,)`, of the projected features, divided by n; and
        `explained` `(k,)`, their shares of the features' variance, 0 of features without any.

    Raises:
        ValueError: for features or components that do not fit.
    """
    components = integer("components", components)
    named = features_by_exit(features)
    least = min(min(array.shape) for array in named.values())
    if components > least:
        raise ValueError(
            f"`components` must be at most {least}, the fewest images or features there are. "
            f"Received: components={components}"
        )
    return {name: _components(array, components) for name, array in named.items()}


def _components(features, components):
    """Diagonalises the covariance, which takes n only once, unlike a decomposition of `(n, d)`."""
    centred = features - features.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variances, axes = variances[::-1][:components], axes.T[::-1][:components]
    # Eigenvectors have no sign of their own; without one, plots of two runs would be mirrored.
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.where(axes[np.arange(components), largest] < 0, -1.0, 1.0)[:, None]
    variances = np.maximum(variances, 0)
    total = centred.var(axis=0).sum()
    return {
        "projected": centred @ axes.T,
        "axes": axes,
        "variances": variances,
        "explained": variances / total if total else np.zeros(components),
    }


def separability(features, labels):
    """Sums of squares within and between classes, per exit (BYOT table 6).

    With n images, f_i their features, m_c the mean of the n_c images of class c and m that of
    all:

        SSE = 1/n Σ_i ‖f_i − m_{y_i}‖²      SSB = 1/n Σ_c n_c ‖m_c − m‖²

    so that SSE + SSB is the features' variance. The paper does not say how it scales them;
    they grow with the square of the features' scale, which differs from exit to exit and from
    network to network. Their ratio is free of any scale and is what can be compared: the
    smaller, the better the classes are separated. Class means come from the same images, which
    makes the ratio too small where there are few of a class: compare on the same images only.

    Args:
        features: a dict with `features_1 … features_C`, each `(n, d)`.
        labels: class numbers `(n,)`.

    Returns:
        A dict of arrays `(C,)`: `sse`, `ssb` and `ratio`, SSE / SSB; infinite where the means
        of all classes are one.

    Raises:
        ValueError: for features or labels that do not fit.
    """
    named = features_by_exit(features)
    count = len(next(iter(named.values())))
    labels = class_numbers(labels, count, np.iinfo("int64").max)
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sse, ssb = np.transpose([_sums(array, index, sizes) for array in named.values()])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(ssb > 0, sse / ssb, np.inf)
    return {"sse": sse, "ssb": ssb, "ratio": ratio}


def _sums(features, index, sizes):
    """Returns SSE and SSB of features `(n, d)` by the class's place `(n,)` and its size."""
    sums = np.zeros((len(sizes), features.shape[1]))
    np.add.at(sums, index, features)
    means = sums / sizes[:, None]
    between = np.square(means - features.mean(axis=0)).sum(axis=1) @ sizes
    return np.square(features - means[index]).sum() / len(features), between / len(features)
