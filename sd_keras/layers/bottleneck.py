"""The bottleneck in front of a shallow exit's classifier."""

import keras

from sd_keras.layers.batch_normalization import BatchNormalization
from sd_keras.layers.patch_convolution import PatchConv2D


def kernel_initializer():
    """Returns the papers' kernel initializer: He fan-out, untruncated normal (He et al. 2015)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def dense_initializer():
    """Returns the initializer of the reference networks' Dense layers: ±1/sqrt(fan_in), uniform."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


@keras.saving.register_keras_serializable(package="sd_keras")
class Bottleneck(keras.layers.Layer):
    """Turns a stage's feature map into one like the deepest stage's (the `scala` head).

    1x1 convolution to `middle_filters`, `pool`x`pool` convolution with stride `pool`,
    1x1 convolution to `filters`, each with bias, batch normalisation and ReLU. The paper
    (Be Your Own Teacher, section 3.1) leaves the head open; this one reproduces the
    accelerations of its Table 5 within 2 %.

    Args:
        filters: output channels; the width of the deepest exit's features, so that hints
            compare vectors of one length.
        pool: kernel size and stride of the middle convolution; how many times larger this
            stage's map is than the deepest stage's.
        middle_filters: channels of the first two convolutions.
        preactivation: start with an own batch normalisation and ReLU, for stages that end
            without an activation (pre-activation ResNet, WideResNet, DenseNet).
        **kwargs: as `keras.layers.Layer`.

    Shapes: `(n, h, w, c)` to `(n, (h - pool) // pool + 1, (w - pool) // pool + 1, filters)`.
    """

    def __init__(self, filters, pool=1, middle_filters=128, preactivation=False, **kwargs):
        super().__init__(**kwargs)
        sizes = {"filters": filters, "pool": pool, "middle_filters": middle_filters}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        self.filters = filters
        self.pool = pool
        self.middle_filters = middle_filters
        self.preactivation = preactivation
        self.blocks = self._normalization("pre") if preactivation else []
        sizes = ((middle_filters, 1), (middle_filters, pool), (filters, 1))
        for index, (width, size) in enumerate(sizes, start=1):
            convolution = PatchConv2D(
                width,
                size,
                kernel_initializer=kernel_initializer(),
                data_format="channels_last",  # whatever `keras.config` says
                dtype=self.dtype_policy,
                name=f"conv_{index}",
            )
            self.blocks += [convolution, *self._normalization(index)]

    def _normalization(self, suffix):
        return [
            BatchNormalization(dtype=self.dtype_policy, name=f"norm_{suffix}"),
            keras.layers.ReLU(dtype=self.dtype_policy, name=f"relu_{suffix}"),
        ]

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                "`Bottleneck` stands behind a feature map (n, height, width, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        for block in self.blocks:
            block.build(input_shape)
            input_shape = block.compute_output_shape(input_shape)

    def call(self, inputs, training=None):
        outputs = inputs
        for block in self.blocks:
            takes_training = not isinstance(block, keras.layers.ReLU)
            outputs = block(outputs, training=training) if takes_training else block(outputs)
        return outputs

    def compute_output_shape(self, input_shape):
        for block in self.blocks:
            input_shape = block.compute_output_shape(input_shape)
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "pool": self.pool,
            "middle_filters": self.middle_filters,
            "preactivation": self.preactivation,
        }
