"""Backbones by name, and exits on them."""

from sd_keras.models.alexnet import alexnet
from sd_keras.models.blocks import MODELS
from sd_keras.models.densenet import (
    densenet,
    densenet40,
    densenet40_bc,
    densenet100,
    densenet100_bc,
)
from sd_keras.models.exits import attach_exits, exit_names, submodel
from sd_keras.models.preact_resnet import (
    preact_resnet,
    preact_resnet18,
    preact_resnet34,
    wide_resnet,
    wide_resnet_16_8,
    wide_resnet_20_8,
    wide_resnet_28_10,
    wide_resnet_28_12,
    wide_resnet_40_4,
    wide_resnet_44_8,
)
from sd_keras.models.pyramidnet import pyramidnet, pyramidnet101_240
from sd_keras.models.resnet import (
    resnet,
    resnet8,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnext29_8x64d,
)
from sd_keras.models.sections import sections
from sd_keras.models.stock import stock
from sd_keras.models.vgg import vgg, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn


def build(name, input_shape=None, stem=None, **kwargs):
    """Builds the backbone called `name`, a key of `MODELS`.

    Args:
        name: for instance `"resnet18"`.
        input_shape: `(height, width, channels)`; None for the network's own, which is
            (32, 32, 3), for AlexNet (227, 227, 3).
        stem: `"cifar"` or `"imagenet"`; None for the network's own, which is `"cifar"`, for
            AlexNet `"imagenet"`. ResNet, ResNeXt and VGG have both.
        **kwargs: passed to the builder (`mean`, `std`).

    Raises:
        ValueError: if there is no such model, or it has no such stem or input.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"`name` must be one of {sorted(MODELS)}. Received: name={name!r}")
    given = {"input_shape": input_shape, "stem": stem}
    given = {argument: value for argument, value in given.items() if value is not None}
    return MODELS[name](**given, **kwargs)
