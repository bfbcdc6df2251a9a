"""Residual networks, plain and in groups: He et al. 2016, Xie et al. 2017."""

import keras
from keras import layers

from sd_keras.layers import IdentityShortcut
from sd_keras.models.blocks import check_depths, check_input, conv_norm, image_input, plan, variant


def _shortcut(x, filters, strides, kind, name):
    if kind not in ("A", "B"):
        raise ValueError(f"`shortcut` must be 'A' or 'B'. Received: shortcut={kind!r}")
    if strides == 1 and x.shape[-1] == filters:
        return x
    if kind == "A":
        return IdentityShortcut(filters, strides, name=f"{name}_shortcut")(x)
    return conv_norm(x, filters, 1, strides, name=f"{name}_shortcut")


def _block(x, inner, filters, groups, shortcut, stage, block, strides, section):
    """One residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 where `inner` is given."""
    if groups > 1 and not inner:
        raise ValueError(
            f"`groups` needs bottleneck blocks, expansion=4. Received: groups={groups}"
        )
    name = f"group_{stage}_block_{block}"
    kept = _shortcut(x, filters, strides, shortcut, name)
    # Stride sits in the 3x3 of a bottleneck block, as in the networks the papers count.
    sizes = [(filters, 3, strides, 1), (filters, 3, 1, 1)]
    if inner:
        sizes = [(inner, 1, 1, 1), (inner, 3, strides, groups), (filters, 1, 1, 1)]
    for index, (channels, size, stride, parts) in enumerate(sizes, start=1):
        x = conv_norm(x, channels, size, stride, f"{name}_{index}", parts)
        if index < len(sizes):
            x = layers.ReLU(name=f"{name}_{index}_relu")(x)
    x = layers.Add(name=f"{name}_add")([x, kept])
    return layers.ReLU(name=f"stage_{section}" if section else f"{name}_relu")(x)


def _stem(x, stem, width):
    if stem == "imagenet":
        x = layers.ReLU(name="stem_relu")(conv_norm(x, width, 7, 2, name="stem"))
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        return layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    return layers.ReLU(name="stem_relu")(conv_norm(x, width, 3, name="stem"))


def resnet(
    input_shape,
    stem,
    depths,
    widths,
    expansion=1,
    shortcut="B",
    split_last_stage=False,
    inner_width=1,
    groups=1,
    mean=0.5,
    std=0.5,
    name="resnet",
):
    """Builds the body of a residual network (He et al. 2016; in groups Xie et al. 2017).

    Args:
        input_shape: `(height, width, channels)` of the images.
        stem: `"cifar"` (3x3, no pooling) or `"imagenet"` (7x7 stride 2, 3x3 pooling).
        depths, widths: blocks and width per stage; its output has `width * expansion` channels.
        expansion: 1: blocks of two 3x3 convolutions; 4: bottleneck blocks.
        shortcut: `"A"` (subsampled identity, zero channels) or `"B"` (1x1 projection).
        split_last_stage: one more section ends after ceil(blocks / 2) of the last stage.
        inner_width, groups: width factor and groups of a bottleneck block's 3x3 convolution.
        mean, std: of the pixels, in units of 0…1, one number or one per channel.
        name: of the model.

    Returns:
        A functional model from `image` (raw pixels 0…255) to the last feature map, whose layers
        that end a section are named `stage_1`, `stage_2`, ….
    """
    check_depths(depths, len(widths))
    halvings = len(depths) + (1 if stem == "imagenet" else -1)
    check_input(input_shape, 2**halvings, stem, ("cifar", "imagenet"))
    image, x = image_input(input_shape, mean, std)
    x = _stem(x, stem, widths[0])
    for stage, *block in plan(depths, split_last_stage):
        inner = widths[stage - 1] * inner_width if expansion > 1 else None
        x = _block(x, inner, widths[stage - 1] * expansion, groups, shortcut, stage, *block)
    return keras.Model(image, x, name=name)


def _imagenet_style(name, description, depths, expansion):
    options = {"depths": depths, "widths": (64, 128, 256, 512), "expansion": expansion}
    return variant(name, f"{description}, four sections.", resnet, **options)


resnet18 = _imagenet_style("resnet18", "ResNet-18", (2, 2, 2, 2), 1)
resnet34 = _imagenet_style("resnet34", "ResNet-34", (3, 4, 6, 3), 1)
resnet50 = _imagenet_style("resnet50", "ResNet-50 (stride in the 3x3)", (3, 4, 6, 3), 4)
resnet101 = _imagenet_style("resnet101", "ResNet-101 (stride in the 3x3)", (3, 4, 23, 3), 4)
resnet152 = _imagenet_style("resnet152", "ResNet-152 (stride in the 3x3)", (3, 8, 36, 3), 4)


def _cifar_style(name, description, blocks):
    options = {"depths": (blocks,) * 3, "widths": (16, 32, 64), "shortcut": "A"}
    return variant(name, description, resnet, split_last_stage=True, **options)


resnet8 = _cifar_style("resnet8", "ResNet-8, shortcut A, three sections; for tests, digits.", 1)
resnet20 = _cifar_style("resnet20", "ResNet-20 with shortcut A, four sections.", 3)
resnet32 = _cifar_style("resnet32", "ResNet-32 with shortcut A, four sections.", 5)
resnet44 = _cifar_style("resnet44", "ResNet-44 with shortcut A, four sections.", 7)
resnet56 = _cifar_style("resnet56", "ResNet-56 with shortcut A, four sections.", 9)
resnet110 = _cifar_style("resnet110", "ResNet-110 with shortcut A, four sections.", 18)

resnext29_8x64d = variant(
    "resnext29_8x64d",
    "ResNeXt-29 with 8 groups of 64 channels, four sections.",
    resnet,
    depths=(3, 3, 3),
    widths=(64, 128, 256),
    expansion=4,
    split_last_stage=True,
    inner_width=8,
    groups=8,
)
