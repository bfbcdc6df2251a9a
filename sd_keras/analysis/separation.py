"""How far apart the classes lie in the features of each exit."""

import numpy as np

from sd_keras.analysis.inputs import features_by_exit
from sd_keras.inference.arrays import class_numbers


def separability(features, labels):
    """Sums of squares within and between classes, per exit (BYOT table 6).

    With n images, f_i their features, m_c the mean of the n_c images of class c and m that of
    all:

        SSE = 1/n Σ_i ‖f_i − m_{y_i}‖²      SSB = 1/n Σ_c n_c ‖m_c − m‖²

    so that SSE + SSB is the features' variance. The paper does not say how it scales them;
    they grow with the square of the features' scale, which differs from exit to exit and from
    network to network. Their ratio is free of any scale and is what can be compared: the
    smaller, the better the classes are separated.

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
