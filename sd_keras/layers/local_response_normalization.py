"""The normalisation of AlexNet."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sd_keras")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each value by a power of the energy of its neighbouring channels.

    `y_c = x_c / (bias + alpha / size * Σ x_j²) ** beta`, j over the `size` channels around c
    (Krizhevsky et al. 2012, section 3.3, with the constants and the division by `size` of the
    Caffe network that the DDGSD paper trains). Computed in float32.

    Args:
        size: number of neighbouring channels, odd.
        alpha: weight of their mean energy.
        beta: exponent.
        bias: constant under the power.
        **kwargs: as `keras.layers.Layer`.

    Shapes: `(…, channels)` to the same.
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, bias=1.0, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"`size` must be a positive odd integer. Received: size={size!r}")
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.bias = bias
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        reach, channels = self.size // 2, inputs.shape[-1]
        squares = ops.pad(ops.square(x), [[0, 0]] * (len(inputs.shape) - 1) + [[reach, reach]])
        energy = sum(squares[..., start : start + channels] for start in range(self.size))
        scale = ops.power(self.bias + self.alpha / self.size * energy, -self.beta)
        return ops.cast(x * scale, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "size": self.size,
            "alpha": self.alpha,
            "beta": self.beta,
            "bias": self.bias,
        }
