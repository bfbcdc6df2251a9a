"""A convolution whose kernel gradient is fast in bfloat16 on a CPU."""

import functools

import keras

# Below this many channels the stock gradient is as fast or faster (measured at batch 64 on
# two cores of a CPU with AVX512-BF16: 4x4x512 maps 13.5 against 6.4 ms, 8x8x256 9.6 against
# 7.5, 32x32x64 15 against 27).
MIN_CHANNELS = 256


@keras.saving.register_keras_serializable(package="sd_keras")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with one gradient computed another way where that is faster.

    Same weights and results as Keras's layer up to rounding. On the TensorFlow backend
    without a GPU, in bfloat16, for wide layers of stride 1 with an odd kernel and "same"
    padding, the gradient of the kernel is a matrix product per kernel position: oneDNN's
    bfloat16 kernel for it is no faster than its float32 one. Everywhere else this is
    Keras's layer.

    Args and shapes: as `keras.layers.Conv2D`.
    """

    def convolution_op(self, inputs, kernel):
        """The convolution without bias and activation. Called by Keras."""
        if self._is_slow_in_bfloat16(inputs):
            # A Keras variable would hide from tf.custom_gradient behind its tensor.
            return _convolution()(inputs, keras.ops.cast(kernel, self.compute_dtype))
        return super().convolution_op(inputs, kernel)

    def _is_slow_in_bfloat16(self, inputs):
        return (
            keras.config.backend() == "tensorflow"
            and self.compute_dtype == "bfloat16"
            and self.data_format == "channels_last"
            and self.padding == "same"
            and self.strides == self.dilation_rate == (1, 1)
            and self.groups == 1
            and all(size % 2 for size in self.kernel_size)
            and min(self.filters, inputs.shape[-1]) >= MIN_CHANNELS
            and None not in inputs.shape[1:3]
            and _is_cpu_only()
        )


@functools.cache
def _is_cpu_only():
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


@functools.cache
def _convolution():
    """Returns the convolution with its own gradient; TensorFlow is imported here only."""
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradients(upstream):
            for_x = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
            return for_x, _kernel_gradient(x, kernel.shape, upstream)

        return tf.nn.conv2d(x, kernel, 1, "SAME"), gradients

    return convolve


def _kernel_gradient(x, shape, upstream):
    """Σ over pixels of input times upstream gradient, for each position of the kernel."""
    import tensorflow as tf

    rows, columns, channels, filters = shape
    height, width = x.shape[1:3]
    above, left = rows // 2, columns // 2
    padded = tf.pad(x, [[0, 0], [above, above], [left, left], [0, 0]])
    upstream = tf.reshape(upstream, (-1, filters))
    products = [
        tf.matmul(
            tf.reshape(padded[:, row : row + height, column : column + width], (-1, channels)),
            upstream,
            transpose_a=True,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return tf.reshape(tf.stack(products), shape)
