"""Batch normalisation that reaches TensorFlow's fused kernel."""

import keras

from sd_keras import replicas
from sd_keras.keras_internals import tensorflow as tf


@keras.saving.register_keras_serializable(package="sd_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization with the papers' defaults, fused on TensorFlow.

    Same variables, same arithmetic and the same (biased) moving variance as
    `keras.layers.BatchNormalization` on every backend. On the TensorFlow backend, 4-D
    channels-last inputs go through `FusedBatchNormV3`, which reads float16 and bfloat16
    directly and keeps scale and statistics in float32.

    Args:
        momentum: share of the old moving statistics kept per step. PyTorch's
            `momentum=0.1`, which both papers use, is 0.9 here.
        epsilon: added to the variance.
        **kwargs: as `keras.layers.BatchNormalization`.

    Shapes: input and output `(n, height, width, channels)` or any other rank.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if mask is not None or not self._is_fusable(len(inputs.shape)):
            return super().call(inputs, training=training, mask=mask)
        ones = tf.ones_like(self.moving_variance)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else ones
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(ones)
        batch_statistics = bool(training) and self.trainable
        inputs = tf.cast(inputs, self.compute_dtype)
        moving = [tf.convert_to_tensor(v) for v in (self.moving_mean, self.moving_variance)]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            # The kernel insists on empty statistics when it computes them itself.
            mean=[] if batch_statistics else moving[0],
            variance=[] if batch_statistics else moving[1],
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=batch_statistics,
        )
        if batch_statistics:
            self._update_moving(inputs, *moving, mean, variance)
        return outputs

    @property
    def keeps_replicas_equal(self):
        """Whether the replicas of a `tf.distribute` strategy keep the same moving statistics."""
        return self.synchronized or self._is_fusable(self.input_spec.ndim)

    def _is_fusable(self, rank):
        return (
            keras.config.backend() == "tensorflow"
            and rank == 4
            and self.axis in (-1, 3)
            and not self.synchronized
            and not getattr(self, "renorm", False)
            and self.compute_dtype in ("float32", "bfloat16", "float16")
            and self.variable_dtype == "float32"
        )

    def _update_moving(self, inputs, moving_mean, moving_variance, mean, variance):
        # The kernel returns the unbiased variance; Keras's moving variance is biased.
        shape = tf.shape(inputs)
        count = tf.cast(shape[0] * shape[1] * shape[2], variance.dtype)
        variance = variance * (tf.maximum(count - 1.0, 1.0) / count)
        # Under a strategy the replicas' moving statistics must stay one.
        mean, variance = replicas.mean([mean, variance])
        keep = self.momentum
        self.moving_mean.assign(moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(moving_variance * keep + variance * (1.0 - keep))
