"""Losses that compare feature maps with a teacher's."""

from keras import ops

from sd_keras.losses.precision import wide

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
