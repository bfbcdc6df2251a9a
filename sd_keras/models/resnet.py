"""Residual networks: He et al. 2016, with CIFAR and ImageNet stems."""

import keras
from keras import layers

from sd_keras.layers import BatchNormalization, Conv2D, IdentityShortcut
from sd_keras.layers.bottleneck import kernel_initializer


def _conv(x, filters, size, strides=1, name=None):
    # The reference pads both sides by size // 2; Keras's "same" would pad an even map
    # with stride 2 only below and to the right.
    if strides > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return Conv2D(
        filters,
        size,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        use_bias=False,
        kernel_initializer=kernel_initializer(),
        name=f"{name}_conv",
    )(x)


def _conv_norm(x, filters, size, strides=1, name=None):
    x = _conv(x, filters, size, strides, name)
    return BatchNormalization(name=f"{name}_norm")(x)


def _shortcut(x, filters, strides, kind, name):
    if strides == 1 and x.shape[-1] == filters:
        return x
    if kind == "A":
        return IdentityShortcut(filters, strides, name=f"{name}_shortcut")(x)
    return _conv_norm(x, filters, 1, strides, name=f"{name}_shortcut")


def _block(x, width, strides, expansion, shortcut, name, output_name):
    """One residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 when `expansion` is 4."""
    filters = width * expansion
    kept = _shortcut(x, filters, strides, shortcut, name)
    # Stride sits in the 3x3 of a bottleneck block, as in the networks the papers count.
    sizes = [(width, 3, strides), (filters, 3, 1)]
    if expansion > 1:
        sizes = [(width, 1, 1), (width, 3, strides), (filters, 1, 1)]
    for index, (channels, size, stride) in enumerate(sizes, start=1):
        x = _conv_norm(x, channels, size, stride, name=f"{name}_{index}")
        if index < len(sizes):
            x = layers.ReLU(name=f"{name}_{index}_relu")(x)
    x = layers.Add(name=f"{name}_add")([x, kept])
    return layers.ReLU(name=output_name)(x)


def _stem(x, stem, width):
    if stem == "imagenet":
        x = layers.ReLU(name="stem_relu")(_conv_norm(x, width, 7, 2, name="stem"))
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        return layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    return layers.ReLU(name="stem_relu")(_conv_norm(x, width, 3, name="stem"))


def normalize(image, mean, std):
    """Maps raw pixels 0…255 to `(pixel / 255 − mean) / std` in float32, without weights."""
    mean, std = (list(v) if hasattr(v, "__len__") else [v] for v in (mean, std))
    channels = image.shape[-1]
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, channels):
            raise ValueError(
                f"`{name}` must be one number or one per channel ({channels}). "
                f"Received: {name}={value}"
            )
    if not all(0 <= value <= 1 for value in mean) or max(std) > 1:
        raise ValueError(
            "`mean` and `std` must be in units of 0…1 (pixel / 255). "
            f"Received: mean={mean}, std={std}"
        )
    if min(std) <= 0:
        raise ValueError(f"`std` must be positive. Received: std={std}")
    mean, std = ([float(v) for v in (value * channels)[:channels]] for value in (mean, std))
    scale = [1 / (255 * s) for s in std]
    offset = [-m / s for m, s in zip(mean, std)]
    return layers.Rescaling(scale, offset, dtype="float32", name="normalize")(image)


def resnet(
    input_shape,
    stem,
    depths,
    widths,
    expansion=1,
    shortcut="B",
    split_last_stage=False,
    mean=0.5,
    std=0.5,
    name="resnet",
):
    """Builds the body of a residual network (He et al. 2016).

    Args:
        input_shape: `(height, width, channels)` of the images.
        stem: `"cifar"` (3x3, no pooling) or `"imagenet"` (7x7 stride 2, 3x3 pooling).
        depths: residual blocks per stage.
        widths: width of each stage; its output has `width * expansion` channels.
        expansion: 1 for blocks of two 3x3 convolutions, 4 for bottleneck blocks.
        shortcut: `"A"` (subsampled identity, zero channels) or `"B"` (1x1 projection).
        split_last_stage: put one more cut point into the last stage, after
            ceil(blocks / 2) of its blocks; gives three-stage networks a fourth exit.
        mean, std: of the pixels, in units of 0…1, one number or one per channel.
        name: name of the model.

    Returns:
        A functional `keras.Model` from `image` (raw pixels 0…255) to the last feature map.
        The layers that end a section are named `stage_1`, `stage_2`, ….
    """
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"`stem` must be 'cifar' or 'imagenet'. Received: stem={stem!r}")
    image = keras.Input(input_shape, name="image")
    x = _stem(normalize(image, mean, std), stem, widths[0])
    x = _stages(x, depths, widths, expansion, shortcut, split_last_stage)
    return keras.Model(image, x, name=name)


def _stages(x, depths, widths, expansion, shortcut, split_last_stage):
    """All residual blocks; the last layer of each section is named `stage_…`."""
    section = 0
    for stage, (depth, width) in enumerate(zip(depths, widths), start=1):
        ends = {depth}
        if split_last_stage and stage == len(depths):
            ends.add(-(-depth // 2))
        for block in range(1, depth + 1):
            prefix = f"group_{stage}_block_{block}"
            section += block in ends
            output_name = f"stage_{section}" if block in ends else f"{prefix}_relu"
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(x, width, strides, expansion, shortcut, prefix, output_name)
    return x


def _imagenet_style(name, input_shape, stem, depths, expansion, **kwargs):
    widths = (64, 128, 256, 512)
    return resnet(input_shape, stem, depths, widths, expansion, name=name, **kwargs)


def _cifar_style(name, input_shape, stem, blocks, **kwargs):
    depths, widths = (blocks,) * 3, (16, 32, 64)
    return resnet(
        input_shape, stem, depths, widths, 1, "A", split_last_stage=True, name=name, **kwargs
    )


def resnet18(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-18, four sections. Arguments as `resnet`."""
    return _imagenet_style("resnet18", input_shape, stem, (2, 2, 2, 2), 1, **kwargs)


def resnet34(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-34, four sections. Arguments as `resnet`."""
    return _imagenet_style("resnet34", input_shape, stem, (3, 4, 6, 3), 1, **kwargs)


def resnet50(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-50 (stride in the 3x3), four sections. Arguments as `resnet`."""
    return _imagenet_style("resnet50", input_shape, stem, (3, 4, 6, 3), 4, **kwargs)


def resnet101(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-101 (stride in the 3x3), four sections. Arguments as `resnet`."""
    return _imagenet_style("resnet101", input_shape, stem, (3, 4, 23, 3), 4, **kwargs)


def resnet152(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-152 (stride in the 3x3), four sections. Arguments as `resnet`."""
    return _imagenet_style("resnet152", input_shape, stem, (3, 8, 36, 3), 4, **kwargs)


def resnet8(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-8 with shortcut A: one block a stage, three sections; for tests and digits."""
    return _cifar_style("resnet8", input_shape, stem, 1, **kwargs)


def resnet20(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-20 with shortcut A, four sections. Arguments as `resnet`."""
    return _cifar_style("resnet20", input_shape, stem, 3, **kwargs)


def resnet32(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-32 with shortcut A, four sections. Arguments as `resnet`."""
    return _cifar_style("resnet32", input_shape, stem, 5, **kwargs)


def resnet44(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-44 with shortcut A, four sections. Arguments as `resnet`."""
    return _cifar_style("resnet44", input_shape, stem, 7, **kwargs)


def resnet56(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-56 with shortcut A, four sections. Arguments as `resnet`."""
    return _cifar_style("resnet56", input_shape, stem, 9, **kwargs)


def resnet110(input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """ResNet-110 with shortcut A, four sections. Arguments as `resnet`."""
    return _cifar_style("resnet110", input_shape, stem, 18, **kwargs)
