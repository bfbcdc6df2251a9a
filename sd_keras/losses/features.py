"""Losses that compare features or feature maps; and the precision losses are computed in."""

import keras
from keras import ops

from sd_keras import replicas


def wide(x):
    """Casts integers and 16-bit floats to float32; log-softmax in 16 bits is inexact."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")


def hint(target_features, features):
    """‖F − F_target‖²₂, the sum over dimensions; the target is detached (BYOT eq. 4).

    Args:
        target_features, features: `(n, d)`.

    Returns:
        `(n,)`.
    """
    difference = wide(features) - ops.stop_gradient(wide(target_features))
    return ops.sum(ops.square(difference), axis=-1)


def mean_discrepancy(features_a, features_b):
    """MMD with a linear kernel, ‖mean_n h(x_a) − mean_n h(x_b)‖²₂ (DDGSD eq. 4).

    The batch means come first, so the order of the examples within a view does not matter;
    under a `tf.distribute` strategy the batch is the global one. Neither side is detached.

    Args:
        features_a, features_b: `(n, d)`.

    Returns:
        A scalar.
    """
    difference = replicas.batch_mean(wide(features_a) - wide(features_b))
    return ops.sum(ops.square(difference))


# Added to what a map is divided by, so that a map of zeros stays one.
TINY = 1e-12


def attention_map(feature_map):
    """Σ_c |A_c|² as a vector over positions, divided by its length (Zagoruyko & Komodakis 2017).

    Section 3.1, F_sum with p = 2.

    Args:
        feature_map: `(n, h, w, c)`.

    Returns:
        `(n, h·w)`, each row of length 1; 0 where the map is 0.
    """
    feature_map = wide(feature_map)
    height, width = feature_map.shape[1:3]
    attention = ops.reshape(ops.sum(ops.square(feature_map), axis=-1), (-1, height * width))
    length = ops.sum(ops.square(attention), axis=-1, keepdims=True)
    return attention * ops.rsqrt(length + TINY)


def attention_distance(target_map, feature_map):
    """Mean squared difference of two attention maps; the target is detached (eq. 2).

    Args:
        target_map, feature_map: `(n, h, w, …)` of one height and width, any channels.

    Returns:
        `(n,)`, a mean over positions.
    """
    difference = attention_map(feature_map) - ops.stop_gradient(attention_map(target_map))
    return ops.mean(ops.square(difference), axis=-1)


def map_distance(target_map, feature_map):
    """½ ‖A − A_target‖² as a mean over positions and channels; the target is detached.

    Romero et al. 2015 (FitNets), eq. 3, divided by the number of elements.

    Args:
        target_map, feature_map: `(n, h, w, c)`.

    Returns:
        `(n,)`.
    """
    difference = wide(feature_map) - ops.stop_gradient(wide(target_map))
    return ops.mean(ops.square(difference), axis=(1, 2, 3)) / 2
