"""Densely connected networks: Huang et al. 2017."""

import numbers

from keras import layers

from sd_keras.models.blocks import (
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


def _dense_layer(x, growth, bottleneck, name, output_name):
    """Adds `growth` channels made of all the channels before."""
    y = norm_relu(x, f"{name}_1")
    if bottleneck:
        y = norm_relu(conv(y, 4 * growth, 1, 1, f"{name}_1"), f"{name}_2")
    y = conv(y, growth, 3, 1, f"{name}_{2 if bottleneck else 1}")
    return layers.Concatenate(name=output_name)([x, y])


def _transition(x, compression, name):
    x = norm_relu(x, name)
    x = conv(x, int(x.shape[-1] * compression), 1, 1, name)
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


def densenet(
    input_shape, depth, growth=12, bc=False, stem="cifar", mean=0.5, std=0.5, name="densenet"
):
    """Builds the body of a densely connected network (Huang et al. 2017).

    Three dense blocks, four sections: after the first and the second block, before their
    transitions; in the middle of the third, and after the final BN and ReLU. Without
    dropout, as the authors train with augmentation.

    Args:
        depth: number of layers with weights: 3n + 4 for n layers a block, 6n + 4 with `bc`.
        growth: k, channels that each layer adds.
        bc: 1x1 convolutions in front of the 3x3, transitions that halve the channels, and
            twice as wide a stem as growth (DenseNet-BC) instead of 16 channels.
        stem: `"cifar"`, the only one.
        input_shape, mean, std, name: as `resnet`.

    Returns:
        As `resnet`.
    """
    check_input(input_shape, 4, stem)
    check_positive(growth=growth)
    step = 6 if bc else 3
    if not isinstance(depth, numbers.Integral) or depth < step + 4 or (depth - 4) % step:
        raise ValueError(f"`depth` must be {step}n + 4. Received: depth={depth!r}")
    image, x = image_input(input_shape, mean, std)
    x = conv(x, 2 * growth if bc else 16, 3, name="stem")
    rows = plan(((depth - 4) // step,) * 3, split_last_stage=True)
    for stage, block, strides, section in rows:
        if strides > 1:
            x = _transition(x, 0.5 if bc else 1, f"transition_{stage - 1}")
        prefix = f"group_{stage}_layer_{block}"
        output_name = raw_end(rows, section, f"{prefix}_concat")
        x = _dense_layer(x, growth, bc, prefix, output_name)
    return finished(image, x, rows, name)


def _named(name, description, depth, bc=False):
    description = f"{description} with growth 12, four sections."
    return variant(name, description, densenet, depth=depth, bc=bc)


densenet40 = _named("densenet40", "DenseNet-40", 40)
densenet100 = _named("densenet100", "DenseNet-100", 100)
densenet40_bc = _named("densenet40_bc", "DenseNet-BC-40", 40, bc=True)
densenet100_bc = _named("densenet100_bc", "DenseNet-BC-100", 100, bc=True)
