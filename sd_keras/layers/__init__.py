"""Layers: the exits' bottleneck, BatchNormalization that TensorFlow fuses, and shortcut A."""

from sd_keras.layers.batch_normalization import BatchNormalization
from sd_keras.layers.bottleneck import Bottleneck
from sd_keras.layers.convolution import Conv2D
from sd_keras.layers.identity_shortcut import IdentityShortcut
from sd_keras.layers.patch_convolution import PatchConv2D

__all__ = ["BatchNormalization", "Bottleneck", "Conv2D", "IdentityShortcut", "PatchConv2D"]
