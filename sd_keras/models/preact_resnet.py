"""Pre-activation and wide residual networks: He et al. 2016b, Zagoruyko and Komodakis 2016."""

from keras import layers

from sd_keras.models.blocks import (
    check_depths,
    check_input,
    check_positive,
    conv,
    finished,
    image_input,
    norm_relu,
    plan,
    raw_end,
)


def _block(x, width, strides, name, output_name):
    """BN, ReLU, 3x3, BN, ReLU, 3x3; a 1x1 projection is fed by the first ReLU."""
    activated = norm_relu(x, f"{name}_1")
    if strides > 1 or x.shape[-1] != width:
        x = conv(activated, width, 1, strides, f"{name}_shortcut")
    y = conv(activated, width, 3, strides, f"{name}_1")
    y = conv(norm_relu(y, f"{name}_2"), width, 3, 1, f"{name}_2")
    return layers.Add(name=output_name)([y, x])


def preact_resnet(
    input_shape,
    depths,
    widths,
    stem_width,
    split_last_stage=False,
    stem="cifar",
    mean=0.5,
    std=0.5,
    name="preact_resnet",
):
    """Builds the body of a pre-activation residual network (He et al. 2016b).

    Sections end in the sum of a block, without activation, so their exits start with one of
    their own; the last section ends behind the network's final BN and ReLU.

    Args:
        input_shape: `(height, width, channels)` of the images.
        depths: residual blocks per stage.
        widths: channels of each stage.
        stem_width: channels of the 3x3 convolution in front of the first stage.
        split_last_stage: as `resnet`.
        stem: `"cifar"`, the only one.
        mean, std: as `resnet`.
        name: name of the model.

    Returns:
        As `resnet`.
    """
    check_depths(depths, len(widths))
    check_input(input_shape, 2 ** (len(depths) - 1), stem)
    image, x = image_input(input_shape, mean, std)
    x = conv(x, stem_width, 3, name="stem")
    rows = plan(depths, split_last_stage)
    for stage, block, strides, section in rows:
        prefix = f"group_{stage}_block_{block}"
        output_name = raw_end(rows, section, f"{prefix}_add")
        x = _block(x, widths[stage - 1], strides, prefix, output_name)
    return finished(image, x, rows, name)


def wide_resnet(input_shape, blocks, factor, name, **kwargs):
    """Builds a wide residual network (Zagoruyko and Komodakis 2016).

    WRN-d-k has three stages of `blocks` = (d − 4) / 6 blocks and of 16k, 32k and 64k
    channels. The BYOT paper counts its depths as 6 · blocks + 2 instead: its WRN20-8 has 3
    blocks a stage and its WRN44-8 has 7, which elsewhere are WRN-22-8 and WRN-46-8. The
    names here are the papers', so 20 and 44 follow the second rule, all others the first.

    Args:
        input_shape: `(height, width, channels)` of the images.
        blocks: residual blocks per stage.
        factor: widening factor k.
        name: name of the model.
        **kwargs: `stem`, `mean`, `std`, as `preact_resnet`.
    """
    check_positive(blocks=blocks, factor=factor)
    widths = tuple(width * factor for width in (16, 32, 64))
    return preact_resnet(
        input_shape, (blocks,) * 3, widths, 16, split_last_stage=True, name=name, **kwargs
    )


def _preact(name, input_shape, depths, **kwargs):
    return preact_resnet(input_shape, depths, (64, 128, 256, 512), 64, name=name, **kwargs)


def preact_resnet18(input_shape=(32, 32, 3), **kwargs):
    """Pre-activation ResNet-18, four sections. Arguments as `preact_resnet`."""
    return _preact("preact_resnet18", input_shape, (2, 2, 2, 2), **kwargs)


def preact_resnet34(input_shape=(32, 32, 3), **kwargs):
    """Pre-activation ResNet-34, four sections. Arguments as `preact_resnet`."""
    return _preact("preact_resnet34", input_shape, (3, 4, 6, 3), **kwargs)


def wide_resnet_40_4(input_shape=(32, 32, 3), **kwargs):
    """WRN-40-4: 6 blocks a stage, four sections. Arguments as `preact_resnet`."""
    return wide_resnet(input_shape, 6, 4, "wide_resnet_40_4", **kwargs)


def wide_resnet_16_8(input_shape=(32, 32, 3), **kwargs):
    """WRN-16-8: 2 blocks a stage, four sections. Arguments as `preact_resnet`."""
    return wide_resnet(input_shape, 2, 8, "wide_resnet_16_8", **kwargs)


def wide_resnet_20_8(input_shape=(32, 32, 3), **kwargs):
    """The BYOT paper's WRN20-8: 3 blocks a stage, four sections. See `wide_resnet`."""
    return wide_resnet(input_shape, 3, 8, "wide_resnet_20_8", **kwargs)


def wide_resnet_44_8(input_shape=(32, 32, 3), **kwargs):
    """The BYOT paper's WRN44-8: 7 blocks a stage, four sections. See `wide_resnet`."""
    return wide_resnet(input_shape, 7, 8, "wide_resnet_44_8", **kwargs)


def wide_resnet_28_10(input_shape=(32, 32, 3), **kwargs):
    """WRN-28-10: 4 blocks a stage, four sections. Arguments as `preact_resnet`."""
    return wide_resnet(input_shape, 4, 10, "wide_resnet_28_10", **kwargs)


def wide_resnet_28_12(input_shape=(32, 32, 3), **kwargs):
    """WRN-28-12: 4 blocks a stage, four sections. Arguments as `preact_resnet`."""
    return wide_resnet(input_shape, 4, 12, "wide_resnet_28_12", **kwargs)
