"""Losses that compare features, the vectors in front of the classifiers."""

from keras import ops

from sd_keras import replicas
from sd_keras.losses.precision import wide


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
