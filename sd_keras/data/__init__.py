"""Image classification data sets as NumPy arrays, and the batches that training reads."""

from sd_keras.data.batches import Batches
from sd_keras.data.loading import load
from sd_keras.data.splits import Splits

__all__ = ["Batches", "Splits", "load"]
