"""What the builders share: the input, convolutions, sections."""

import numbers

import keras
import numpy as np
from keras import layers

from sd_keras.layers import BatchNormalization, Conv2D, GroupConv2D
from sd_keras.layers.bottleneck import kernel_initializer

# Every network with a name, by it.
MODELS = {}


def variant(name, description, builder, **options):
    """Makes a builder of one size of a family of networks, and puts it into `MODELS`.

    Args:
        name: of the builder and of the models that it builds.
        description: first sentence of its docstring.
        builder: the family's, which takes `input_shape`, `stem`, `name` and the options.
        **options: what sets the size.
    """

    def build(input_shape=(32, 32, 3), stem="cifar", **kwargs):
        return builder(input_shape, stem=stem, name=name, **options, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__module__ = builder.__module__
    build.__doc__ = f"{description} Arguments as `{builder.__name__}`."
    MODELS[name] = build
    return build


def check_input(input_shape, smallest, stem, stems=("cifar",)):
    """Checks what every builder is given.

    Args:
        input_shape: `(height, width, channels)`.
        smallest: least height and width for which the last map has a pixel, by stem.
        stem: the stem asked for.
        stems: the stems that the network has.

    Raises:
        ValueError: naming `stem` or `input_shape`.
    """
    if stem not in stems:
        choices = " or ".join(map(repr, stems))
        raise ValueError(f"`stem` must be {choices} for this network. Received: stem={stem!r}")
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "the networks of sd_keras are channels_last: "
            "keras.config.set_image_data_format('channels_last'). "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if len(shape) != 3 or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), three positive integers. "
            f"Received: input_shape={input_shape!r}"
        )
    if min(shape[:2]) < smallest:
        raise ValueError(
            f"`input_shape` must be at least {smallest} high and wide for this network with the "
            f"{stem!r} stem, (height, width, channels). Received: input_shape={input_shape!r}"
        )


def normalize(image, mean, std):
    """Maps raw pixels 0…255 to `(pixel / 255 − mean) / std` in float32, without weights."""
    mean, std = _numbers("mean", mean), _numbers("std", std)
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
    if not all(value > 0 for value in std):
        raise ValueError(f"`std` must be positive. Received: std={std}")
    mean, std = ((value * channels)[:channels] for value in (mean, std))
    scale = [1 / (255 * s) for s in std]
    offset = [-m / s for m, s in zip(mean, std)]
    return layers.Rescaling(scale, offset, dtype="float32", name="normalize")(image)


def _numbers(name, value):
    """Returns the argument `mean` or `std` as a list of floats."""
    try:
        return np.asarray(value).astype("float64", casting="same_kind").reshape(-1).tolist()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be one number or one per channel. Received: {name}={value!r}"
        ) from error


def image_input(input_shape, mean, std):
    """Returns the input `image` (raw pixels 0…255) and its normalised form."""
    image = keras.Input(input_shape, name="image")
    return image, normalize(image, mean, std)


def conv(x, filters, size, strides=1, name=None, groups=1):
    """A convolution without bias that pads `size // 2` on every side."""
    # Keras's "same" would pad an even map with stride 2 only below and to the right.
    if strides > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    options = {
        "strides": strides,
        "padding": "same" if strides == 1 else "valid",
        "use_bias": False,
        "kernel_initializer": kernel_initializer(),
        "name": f"{name}_conv",
    }
    if groups > 1:
        return GroupConv2D(filters, size, groups=groups, **options)(x)
    return Conv2D(filters, size, **options)(x)


def conv_norm(x, filters, size, strides=1, name=None, groups=1):
    """A convolution and batch normalisation."""
    x = conv(x, filters, size, strides, name, groups)
    return BatchNormalization(name=f"{name}_norm")(x)


def norm_relu(x, name, output_name=None):
    """Batch normalisation and ReLU, in front of a convolution of a pre-activation network."""
    x = BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=output_name or f"{name}_relu")(x)


def check_depths(depths, count=None):
    """Checks the blocks per stage: positive integers, `count` of them if it is given."""
    whole = all(isinstance(depth, numbers.Integral) and depth > 0 for depth in depths)
    if not depths or not whole or count not in (None, len(depths)):
        raise ValueError(
            f"`depths` must be {count or 'one or more'} positive integers. "
            f"Received: depths={depths!r}"
        )


def check_positive(**sizes):
    """Checks that arguments of a builder are positive integers."""
    for name, value in sizes.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")


def plan(depths, split_last_stage):
    """Lists the blocks of a network and the sections that they end.

    Args:
        depths: blocks per stage.
        split_last_stage: whether the last stage has one more section, which ends after
            ceil(depth / 2) of its blocks.

    Returns:
        A list of `(stage, block, strides, section)`, stages, blocks and sections counted
        from 1: `strides` is 2 in the first block of each stage but the first, `section` the
        number of the section that ends with this block, or None.
    """
    check_depths(depths)
    rows, section = [], 0
    for stage, depth in enumerate(depths, start=1):
        ends = {depth}
        if split_last_stage and stage == len(depths):
            ends.add(-(-depth // 2))
        for block in range(1, depth + 1):
            section += block in ends
            strides = 2 if stage > 1 and block == 1 else 1
            rows.append((stage, block, strides, section if block in ends else None))
    return rows


def raw_end(rows, section, otherwise):
    """Returns the name of a block's output in a network whose sections end without activation.

    Args:
        rows: of `plan`.
        section: of the block's row.
        otherwise: the name where no section ends. Neither does the last: it continues to the
            final activation of `finished`.
    """
    return f"stage_{section}" if section and section < rows[-1][-1] else otherwise


def finished(image, x, rows, name):
    """Returns the model of such a network: its last section ends in a final BN and ReLU."""
    return keras.Model(image, norm_relu(x, "final", f"stage_{rows[-1][-1]}"), name=name)
