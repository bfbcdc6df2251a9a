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
    variant,
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
    their own; the last section ends after the network's final BN and ReLU.

    Args:
        depths: residual blocks per stage.
        widths: channels of each stage.
        stem_width: channels of the 3x3 convolution in front of the first stage.
        split_last_stage: as `resnet`.
        stem: `"cifar"`, the only one.
        input_shape, mean, std, name: as `resnet`.

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
        blocks: residual blocks per stage.
        factor: widening factor k.
        input_shape, name, **kwargs: as `preact_resnet`.
    """
    check_positive(blocks=blocks, factor=factor)
    widths = tuple(width * factor for width in (16, 32, 64))
    return preact_resnet(
        input_shape, (blocks,) * 3, widths, 16, split_last_stage=True, name=name, **kwargs
    )


def _preact(name, description, depths):
    options = {"depths": depths, "widths": (64, 128, 256, 512), "stem_width": 64}
    return variant(name, f"{description}, four sections.", preact_resnet, **options)


def _wide(name, description, blocks, factor):
    description = f"{description}: {blocks} blocks a stage, four sections."
    return variant(name, description, wide_resnet, blocks=blocks, factor=factor)


preact_resnet18 = _preact("preact_resnet18", "Pre-activation ResNet-18", (2, 2, 2, 2))
preact_resnet34 = _preact("preact_resnet34", "Pre-activation ResNet-34", (3, 4, 6, 3))
wide_resnet_40_4 = _wide("wide_resnet_40_4", "WRN-40-4", 6, 4)
wide_resnet_16_8 = _wide("wide_resnet_16_8", "WRN-16-8", 2, 8)
wide_resnet_20_8 = _wide("wide_resnet_20_8", "The BYOT paper's WRN20-8", 3, 8)
wide_resnet_44_8 = _wide("wide_resnet_44_8", "The BYOT paper's WRN44-8", 7, 8)
wide_resnet_28_10 = _wide("wide_resnet_28_10", "WRN-28-10", 4, 10)
wide_resnet_28_12 = _wide("wide_resnet_28_12", "WRN-28-12", 4, 12)
