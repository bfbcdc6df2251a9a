"""Layers of the networks and of their exits."""

from sd_keras.layers.batch_normalization import BatchNormalization
from sd_keras.layers.bottleneck import Bottleneck
from sd_keras.layers.convolution import Conv2D
from sd_keras.layers.group_convolution import GroupConv2D
from sd_keras.layers.identity_shortcut import IdentityShortcut
from sd_keras.layers.local_response_normalization import LocalResponseNormalization
from sd_keras.layers.patch_convolution import PatchConv2D

__all__ = [
    "BatchNormalization",
    "Bottleneck",
    "Conv2D",
    "GroupConv2D",
    "IdentityShortcut",
    "LocalResponseNormalization",
    "PatchConv2D",
]
