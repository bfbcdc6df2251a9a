"""The precision that losses are computed in."""

import keras
from keras import ops


def wide(x):
    """Casts integers and 16-bit floats to float32; log-softmax in 16 bits is inexact."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")
