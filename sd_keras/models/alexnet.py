"""AlexNet: Krizhevsky et al. 2012, as Caffe trains it."""

import keras
from keras import layers

from sd_keras.layers import Conv2D, GroupConv2D, LocalResponseNormalization
from sd_keras.layers.bottleneck import dense_initializer
from sd_keras.models.blocks import MODELS, check_input, image_input
from sd_keras.models.vgg import hidden_dense

# Filters, kernel size, stride, padding and groups of the five convolutions.
CONVOLUTIONS = ((96, 11, 4, 0, 1), (256, 5, 1, 2, 2), (384, 3, 1, 1, 1), (384, 3, 1, 1, 2))
CONVOLUTIONS = (*CONVOLUTIONS, (256, 3, 1, 1, 2))


def _convolution(x, index, filters, size, strides, padding, groups):
    if padding:
        x = layers.ZeroPadding2D(padding, name=f"conv_{index}_pad")(x)
    options = {"strides": strides, "kernel_initializer": "he_normal", "name": f"conv_{index}"}
    if groups > 1:
        return GroupConv2D(filters, size, groups=groups, **options)(x)
    return Conv2D(filters, size, **options)(x)


def alexnet(input_shape=(227, 227, 3), stem="imagenet", mean=0.5, std=0.5, name="alexnet"):
    """Builds the body of AlexNet with two groups, local response normalisation and dropout.

    Four sections, which end with the first, second and fourth convolution (after ReLU,
    normalisation and pooling, where there are any) and after the hidden layers.
    The convolutions start as He et al. (2015, eq. 10), the hidden layers uniform in
    ±1/sqrt(fan_in), so that the first steps at the original's learning rate of 0.01 stay
    small; its Gaussian of standard deviation 0.01 was made for pixels of 0…255, which are
    normalised here.

    Args:
        input_shape: `(height, width, channels)` of the images, at least 67 high and wide.
        stem: `"imagenet"`, the only one.
        mean, std, name: as `resnet`.

    Returns:
        A functional `keras.Model` from `image` (raw pixels 0…255) to the vector `(n, 4096)`
        in front of the classifier. The layers that end a section are named `stage_1` …
        `stage_4`.
    """
    check_input(input_shape, 67, stem, ("imagenet",))
    image, x = image_input(input_shape, mean, std)
    for index, row in enumerate(CONVOLUTIONS, start=1):
        x = _convolution(x, index, *row)
        x = layers.ReLU(name="stage_3" if index == 4 else f"conv_{index}_relu")(x)
        if index <= 2:
            x = LocalResponseNormalization(name=f"conv_{index}_norm")(x)
        if index in (1, 2, 5):
            pool_name = f"stage_{index}" if index <= 2 else "conv_5_pool"
            x = layers.MaxPooling2D(3, strides=2, name=pool_name)(x)
    x = layers.Flatten(name="flatten")(x)
    for index, output_name in ((1, None), (2, "stage_4")):
        x = hidden_dense(x, 4096, index, dense_initializer(), output_name)
    return keras.Model(image, x, name=name)


MODELS["alexnet"] = alexnet
