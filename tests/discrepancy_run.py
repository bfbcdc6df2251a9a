"""Computes the discrepancies and their gradients on two logical devices of one processor.

    python tests/discrepancy_run.py OUTPUT.npz

Run by test_discrepancy.py, since devices can be set only before TensorFlow looks for them.
"""

import sys

import numpy as np
import tensorflow as tf
from test_discrepancy import CASES, WIDTH, normal

from sd_keras import replicas


def main(output):
    """Writes both sides' features, and of each case the value and the gradients."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    a, b = normal(8, WIDTH), normal(8, WIDTH, seed=1)
    parts = (slice(0, 5), slice(5, 8))

    def shared(array):
        give = lambda context: tf.constant(array[parts[context.replica_id_in_sync_group]])  # noqa: E731
        return strategy.experimental_distribute_values_from_function(give)

    def one_replica(a, b, loss):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            value = loss(a, b)
            # As SelfDistillModel: each replica's part in the mean over the global batch.
            values = tf.fill([tf.shape(a)[0]], value)
            share = replicas.share_of_mean(values, tf.reduce_mean(values) / 2)
        return value, *tape.gradient(share, [a, b])

    found = {"a": a, "b": b}
    for name, (loss, _) in CASES.items():
        run = tf.function(lambda a, b, loss=loss: strategy.run(one_replica, (a, b, loss)))
        values, *sides = map(strategy.experimental_local_results, run(shared(a), shared(b)))
        np.testing.assert_array_equal(values[0], values[1])
        found[f"{name} value"] = values[0].numpy()
        for side, gradient in zip("ab", sides):
            found[f"{name} {side}"] = np.concatenate([part.numpy() for part in gradient])
    np.savez(output, **found)


if __name__ == "__main__":
    main(sys.argv[1])
