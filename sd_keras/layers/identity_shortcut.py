"""The residual shortcut without parameters."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sd_keras")
class IdentityShortcut(keras.layers.Layer):
    """Shortcut A of He et al. (2016): every `strides`-th pixel, new channels zero.

    Args:
        filters: output channels, at least the input's.
        strides: distance between the pixels that are kept.
        **kwargs: as `keras.layers.Layer`.

    Shapes: `(n, h, w, c)` to `(n, ceil(h / strides), ceil(w / strides), filters)`; the
    input's channels come first, the zeros after them.
    """

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        if input_shape[-1] > self.filters:
            raise ValueError(
                f"`filters` must be at least the input's {input_shape[-1]} channels. "
                f"Received: filters={self.filters}"
            )

    def call(self, inputs, training=None):
        if training and self.strides > 1 and keras.config.backend() == "tensorflow":
            # The same pixels. On a CPU, TensorFlow's slice with strides and its gradient take
            # three times as long: 4 % of a step of ResNet-20. Exports keep the slice.
            kept = ops.average_pool(inputs, 1, self.strides, data_format="channels_last")
        else:
            kept = inputs[:, :: self.strides, :: self.strides, :]
        missing = self.filters - inputs.shape[-1]
        return ops.pad(kept, [[0, 0], [0, 0], [0, 0], [0, missing]])

    def compute_output_shape(self, input_shape):
        n, height, width, _ = input_shape
        height, width = (s if s is None else -(-s // self.strides) for s in (height, width))
        return (n, height, width, self.filters)

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "strides": self.strides}
