"""Image classification data sets as NumPy arrays or as streams, and the batches to train on."""

from sd_keras.data.batches import Batches, OnDevice, SameClassPairs
from sd_keras.data.loading import load
from sd_keras.data.splits import Splits
from sd_keras.data.stream import Stream, stream
