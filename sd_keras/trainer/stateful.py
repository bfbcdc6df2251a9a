"""The training and prediction step on TensorFlow and PyTorch, where variables hold state."""

import contextlib

import keras

from sd_keras.keras_internals import tensorflow as tf


class BackendTrainer:
    """Draws the views in front of Keras's own step; keeps only logits in `predict`."""

    def train_step(self, data):
        """One step: views, forward, objectives, update; or those of a block. Called by Keras."""
        return self._one_step(data) if self.resident is None else self._train_block(data)

    def _train_block(self, order):
        """Runs one step after another; returns the logs of the last."""
        for chosen in order:
            logs = self._one_step(self.resident.pick(chosen))
        return logs

    def _one_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with _after(x):
            x, y = self.begin_step(x, y, sample_weight)
        return super().train_step((x, y, sample_weight))

    def predict_step(self, data):
        """Logits of every exit for one batch. Called by Keras."""
        return self.only_exits(super().predict_step(data))


def _after(x):
    """Within, TensorFlow counts and draws only once `x` is there.

    At the end of a stream of unknown length Keras starts one more step, which fails for
    want of data but would still run whatever does not need them.
    """
    if keras.config.backend() != "tensorflow":
        return contextlib.nullcontext()
    return tf.control_dependencies(tf.nest.flatten(x))
