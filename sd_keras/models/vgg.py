"""VGG networks with batch normalisation: Simonyan and Zisserman 2015."""

import keras
from keras import layers

from sd_keras.layers import BatchNormalization, Conv2D
from sd_keras.layers.bottleneck import kernel_initializer
from sd_keras.models.blocks import check_depths, check_input, image_input, variant

WIDTHS = (64, 128, 256, 512, 512)


def _convolution(x, width, name):
    initializer = kernel_initializer()
    options = {"padding": "same", "kernel_initializer": initializer, "name": f"{name}_conv"}
    x = BatchNormalization(name=f"{name}_norm")(Conv2D(width, 3, **options)(x))
    return layers.ReLU(name=f"{name}_relu")(x)


def hidden_dense(x, units, index, initializer, output_name=None):
    """Dense, ReLU and dropout, as in front of the classifier of VGG and AlexNet."""
    x = layers.Dense(units, kernel_initializer=initializer, name=f"hidden_{index}")(x)
    x = layers.ReLU(name=f"hidden_{index}_relu")(x)
    return layers.Dropout(0.5, name=output_name or f"hidden_{index}_dropout")(x)


def vgg(input_shape, depths, stem="cifar", mean=0.5, std=0.5, name="vgg_bn"):
    """Builds the body of a VGG network with batch normalisation.

    Five blocks of 3x3 convolutions (with bias), each followed by 2x2 pooling. Four sections:
    they end after the pooling of blocks 2, 3, 4 and 5, or, where hidden layers follow,
    after those.

    Args:
        depths: convolutions of each of the five blocks.
        stem: `"cifar"` (the classifier follows the fifth block) or `"imagenet"` (two hidden
            layers of 4096 units with dropout come before).
        input_shape, mean, std, name: as `resnet`.

    Returns:
        As `resnet`; with the ImageNet stem the output is the vector `(n, 4096)`.
    """
    check_input(input_shape, 32, stem, ("cifar", "imagenet"))
    check_depths(depths, len(WIDTHS))
    image, x = image_input(input_shape, mean, std)
    for block, (depth, width) in enumerate(zip(depths, WIDTHS), start=1):
        for index in range(1, depth + 1):
            x = _convolution(x, width, f"block_{block}_{index}")
        ends_section = block > 1 and (block < len(WIDTHS) or stem == "cifar")
        pool_name = f"stage_{block - 1}" if ends_section else f"block_{block}_pool"
        x = layers.MaxPooling2D(2, name=pool_name)(x)
    if stem == "imagenet":
        initializer = keras.initializers.RandomNormal(stddev=0.01)
        x = layers.Flatten(name="flatten")(x)
        x = hidden_dense(x, 4096, 1, initializer)
        x = hidden_dense(x, 4096, 2, initializer, output_name="stage_4")
    return keras.Model(image, x, name=name)


def _named(name, number, depths):
    description = f"VGG-{number} with batch normalisation, four sections."
    return variant(name, description, vgg, depths=depths)


vgg11_bn = _named("vgg11_bn", 11, (1, 1, 2, 2, 2))
vgg13_bn = _named("vgg13_bn", 13, (2, 2, 2, 2, 2))
vgg16_bn = _named("vgg16_bn", 16, (2, 2, 3, 3, 3))
vgg19_bn = _named("vgg19_bn", 19, (2, 2, 4, 4, 4))
