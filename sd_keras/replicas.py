"""Statistics of the global batch where a `tf.distribute` strategy splits it over replicas.

Everywhere else, on one device or another backend, they are those of the batch at hand.
"""

import keras
from keras import ops

from sd_keras.keras_internals import tensorflow as tf


def context():
    """Returns TensorFlow's replica context in a step of several replicas, else None."""
    if keras.config.backend() != "tensorflow":
        return None
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def totals(values):
    """Adds up each of a list of tensors over the replicas."""
    replica = context()
    return values if replica is None else replica.all_reduce("SUM", values)


def batch_mean(values):
    """Returns the mean of `(n, …)` over the examples of all replicas."""
    if context() is None:
        return ops.mean(values, axis=0)
    count = ops.cast(ops.shape(values)[0], values.dtype)
    total, count = totals([ops.sum(values, axis=0), count])
    return total / count


def examples(values):
    """Returns `(n, …)` of this replica as that of all replicas, one after the other.

    The replicas may have different numbers of examples. Differentiable: the gradient of the sum
    of all replicas' losses reaches the replica whose example it is. Each replica adds its rows
    to a batch of zeros, because TensorFlow's own `all_gather` wants equally many of each.
    """
    replica = context()
    if replica is None:
        return values
    count, number = tf.shape(values)[0], replica.replica_id_in_sync_group
    # Counted in floats, which every accelerator adds up.
    own = tf.one_hot(number, replica.num_replicas_in_sync) * tf.cast(count, "float32")
    counts = tf.cast(replica.all_reduce("SUM", own), "int32")
    first = tf.reduce_sum(counts[:number])
    around = [[first, tf.reduce_sum(counts) - first - count], *[[0, 0]] * (len(values.shape) - 1)]
    return replica.all_reduce("SUM", tf.pad(values, around))


def mean(values):
    """Returns the mean over the replicas of each of a list of tensors."""
    replica = context()
    return values if replica is None else replica.all_reduce("MEAN", values)


def share_of_mean(values, loss):
    """Gives a replica's part of the loss the gradient of the mean over the global batch.

    Args:
        values: one value per example of this replica, `(n,)`.
        loss: their mean over the number of replicas, as Keras wants it: it logs the mean over
            the replicas of what it multiplies again.

    Returns:
        The value of `loss`; the gradient of sum(values) / examples of all replicas, the same
        where all have equally many.
    """
    if context() is None:
        return loss
    (count,) = totals([ops.cast(ops.shape(values)[0], values.dtype)])
    share = ops.sum(values) / count
    return share + ops.stop_gradient(loss - share)


def smallest(values):
    """Returns the elementwise smallest of a vector `(k,)` among the replicas."""
    replica = context()
    return values if replica is None else ops.min(replica.all_gather(values[None], 0), axis=0)
