"""Pyramidal residual networks: Han et al. 2017."""

from keras import layers

from sd_keras.layers import BatchNormalization, IdentityShortcut
from sd_keras.models.blocks import (
    check_input,
    check_positive,
    conv,
    conv_norm,
    finished,
    image_input,
    norm_relu,
    plan,
    raw_end,
    variant,
)


def _block(x, width, strides, name, output_name):
    """BN, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN; the shortcut averages and pads with zeros."""
    filters = 4 * width
    y = conv(BatchNormalization(name=f"{name}_1_norm")(x), width, 1, 1, f"{name}_1")
    y = conv(norm_relu(y, f"{name}_2"), width, 3, strides, f"{name}_2")
    y = conv(norm_relu(y, f"{name}_3"), filters, 1, 1, f"{name}_3")
    y = BatchNormalization(name=f"{name}_4_norm")(y)
    if strides > 1:
        # An odd map keeps its last row and column, as the strided convolution does.
        x = layers.AveragePooling2D(strides, padding="same", name=f"{name}_shortcut_pool")(x)
    x = IdentityShortcut(filters, name=f"{name}_shortcut")(x)
    return layers.Add(name=output_name)([y, x])


def pyramidnet(input_shape, blocks, widening, stem="cifar", mean=0.5, std=0.5, name="pyramidnet"):
    """Builds the body of a pyramidal network of bottleneck blocks (Han et al. 2017).

    The k-th of all K = 3 · `blocks` blocks is 16 + ⌊widening · k / K⌋ wide (eq. 2, exact
    integers) and has four times as many output channels. Three stages, four sections.

    Args:
        blocks: residual blocks per stage; the depth is 9 · blocks + 2.
        widening: α, by how much the width grows from the first block to the last.
        stem: `"cifar"`, the only one.
        input_shape, mean, std, name: as `resnet`.

    Returns:
        As `resnet`.
    """
    check_input(input_shape, 4, stem)
    check_positive(blocks=blocks, widening=widening)
    image, x = image_input(input_shape, mean, std)
    x = conv_norm(x, 16, 3, name="stem")
    rows = plan((blocks,) * 3, split_last_stage=True)
    for count, (stage, block, strides, section) in enumerate(rows, start=1):
        prefix = f"group_{stage}_block_{block}"
        output_name = raw_end(rows, section, f"{prefix}_add")
        x = _block(x, 16 + widening * count // len(rows), strides, prefix, output_name)
    return finished(image, x, rows, name)


pyramidnet101_240 = variant(
    "pyramidnet101_240",
    "PyramidNet-101 with α = 240, four sections.",
    pyramidnet,
    blocks=11,
    widening=240,
)
