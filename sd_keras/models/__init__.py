"""Backbones by name, and exits on them."""

from sd_keras.models.exits import attach_exits, exit_names, submodel
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
)

MODELS = {
    builder.__name__: builder
    for builder in (
        resnet8,
        resnet20,
        resnet32,
        resnet44,
        resnet56,
        resnet110,
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
    )
}


def build(name, input_shape=(32, 32, 3), stem="cifar", **kwargs):
    """Builds the backbone called `name`, a key of `MODELS`.

    Args:
        name: for instance `"resnet18"`.
        input_shape: `(height, width, channels)`.
        stem: `"cifar"` or `"imagenet"`.
        **kwargs: passed to the builder (`mean`, `std`).

    Raises:
        ValueError: if there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"`name` must be one of {sorted(MODELS)}. Received: name={name!r}")
    return MODELS[name](input_shape=input_shape, stem=stem, **kwargs)


__all__ = ["MODELS", "attach_exits", "build", "exit_names", "resnet", "submodel", *MODELS]
