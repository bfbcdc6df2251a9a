"""A convolution in groups that trains on a CPU."""

import functools

import keras
from keras import ops

from sd_keras.keras_internals import tensorflow as tf
from sd_keras.layers.convolution import is_cpu_only


@keras.saving.register_keras_serializable(package="sd_keras")
class GroupConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with `groups`, without XLA on TensorFlow, trainable on its CPU.

    Same weights and results as Keras's layer up to rounding. TensorFlow has no gradient of a
    grouped convolution on a CPU, so Keras compiles the layer with XLA, which servers and
    converters of a saved graph may not have. Here inference is one plain `Conv2D` operation;
    training on a CPU convolves group by group. Its gradients are computed in at
    least float32, because oneDNN's bfloat16 kernels for narrow groups are 20 times slower
    (32x32x512 in 8 groups, batch 32, two cores: 4.3 against 0.2 s).

    Args and shapes: as `keras.layers.Conv2D`.
    """

    def call(self, inputs, training=None):
        plain = self.data_format == "channels_last" and self.dilation_rate == (1, 1)
        if keras.config.backend() != "tensorflow" or not plain:
            return super().call(inputs)
        # One operation finds the groups in the shapes; split, they train faster.
        options = (self.strides, self.padding.upper(), self.groups, bool(training))
        convolve = _convolution(*options) if is_cpu_only() else _one_operation(*options[:2])
        # A Keras variable would hide from tf.custom_gradient behind its tensor.
        outputs = convolve(inputs, ops.cast(self.kernel, self.compute_dtype))
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)


def _one_operation(strides, padding):
    def convolve(x, kernel):
        outputs = tf.nn.conv2d(x, kernel, strides, padding)
        # Keeps TensorFlow from fusing it with the bias or normalisation after it: the fused
        # operation knows no groups and fails.
        return tf.ensure_shape(outputs, outputs.shape)

    return convolve


@functools.cache
def _convolution(strides, padding, groups, split):
    """Returns the convolution with its own gradient, group by group."""
    convolve = _one_operation(strides, padding)
    options = {"strides": [1, *strides, 1], "padding": padding}

    @tf.custom_gradient
    def convolve_groups(x, kernel):
        def gradients(upstream):
            wide = "float32" if x.dtype.size < 4 else x.dtype
            single = [tf.cast(tensor, wide) for tensor in (x, kernel, upstream)]
            for_x, for_kernel = [], []
            for part, weights, above in zip(*(tf.split(tensor, groups, -1) for tensor in single)):
                shapes = tf.shape(part), tf.shape(weights)
                for_x.append(
                    tf.raw_ops.Conv2DBackpropInput(
                        input_sizes=shapes[0], filter=weights, out_backprop=above, **options
                    )
                )
                for_kernel.append(
                    tf.raw_ops.Conv2DBackpropFilter(
                        input=part, filter_sizes=shapes[1], out_backprop=above, **options
                    )
                )
            return tuple(tf.cast(tf.concat(g, -1), x.dtype) for g in (for_x, for_kernel))

        if not split:
            return convolve(x, kernel), gradients
        pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        return tf.concat([convolve(*pair) for pair in pairs], -1), gradients

    return convolve_groups
