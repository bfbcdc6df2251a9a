"""The features of each exit in the few directions in which they vary most."""

import numpy as np

from sd_keras.analysis.inputs import features_by_exit, integer


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
