"""A convolution whose kernel gradient is fast in bfloat16 on a CPU."""

import functools

import keras
from keras import ops

from sd_keras.keras_internals import tensorflow as tf

# Stride: fewest channels. Below, the stock gradient is as fast or faster. Milliseconds of the
# two at batch 64, two cores of a CPU with AVX512-BF16: stride 1, 4x4x512 16.1 and 7.3, 8x8x256
# 10.1 and 7.5, 16x16x128 7.9 and 10.3; stride 2, 8x8x256 11.2 and 3.5, 32x32x64 6.8 and 5.4.
MIN_CHANNELS = {(1, 1): 256, (2, 2): 64}


@keras.saving.register_keras_serializable(package="sd_keras")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with one gradient computed another way where that is faster.

    Same weights and results as Keras's layer up to rounding. On the TensorFlow backend
    without a GPU, in bfloat16, for wide layers of stride 1 or 2, the gradient of the kernel
    is a matrix product per kernel position: oneDNN's bfloat16 kernel for it is no faster
    than its float32 one. Everywhere else this is Keras's layer.

    Args and shapes: as `keras.layers.Conv2D`.
    """

    def call(self, inputs, training=None):
        # At inference always Keras's: a SavedModel would store the gradient's graph too.
        if not (training and self._is_slow_in_bfloat16(inputs)):
            return super().call(inputs)
        # A Keras variable would hide from tf.custom_gradient behind its tensor.
        kernel = ops.cast(self.kernel, self.compute_dtype)
        outputs = _convolution(self.strides[0], self.padding.upper())(inputs, kernel)
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)

    def _is_slow_in_bfloat16(self, inputs):
        if not (
            keras.config.backend() == "tensorflow"
            and self.compute_dtype == "bfloat16"
            and self.data_format == "channels_last"
            and self.dilation_rate == (1, 1)
            and self.groups == 1
            and None not in inputs.shape[1:3]
            and self.strides in MIN_CHANNELS
        ):
            return False
        wide = min(self.filters, inputs.shape[-1]) >= MIN_CHANNELS[self.strides]
        if self.strides == (1, 1):
            fits = self.padding == "same" and all(size % 2 for size in self.kernel_size)
        else:
            fits = self.padding == "valid" and all(s % 2 == 0 for s in inputs.shape[1:3])
        return wide and fits and is_cpu_only()


@functools.cache
def is_cpu_only():
    """Returns whether TensorFlow sees no GPU."""
    return not tf.config.list_physical_devices("GPU")


@functools.cache
def _convolution(stride, padding):
    """Returns the convolution with its own gradient."""

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradients(upstream):
            for_x = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, stride, stride, 1],
                padding=padding,
            )
            return for_x, _kernel_gradient(x, kernel.shape, upstream, stride, padding)

        return tf.nn.conv2d(x, kernel, stride, padding), gradients

    return convolve


def _kernel_gradient(x, shape, upstream, stride, padding):
    """Σ over pixels of input times upstream gradient, for each position of the kernel."""
    rows, columns, channels, filters = shape
    height, width = upstream.shape[1:3]
    if padding == "SAME":
        above, left = rows // 2, columns // 2
        x = tf.pad(x, [[0, 0], [above, above], [left, left], [0, 0]])
    # Neighbours of one stride lie side by side, so that each position is a plain window.
    across = x.shape[2] // stride
    x = tf.reshape(x, (-1, x.shape[1] // stride, stride, across, stride * channels))
    upstream = tf.reshape(upstream, (-1, filters))
    products = []
    for row in range(rows):
        down, phase = divmod(row, stride)
        lines = x[:, down : down + height, phase]
        for column in range(columns):
            right, phase = divmod(column, stride)
            start = phase * channels
            window = lines[:, :, right : right + width, start : start + channels]
            window = tf.reshape(window, (-1, channels))
            products.append(tf.matmul(window, upstream, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)
