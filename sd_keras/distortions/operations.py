"""The operations that distortions are written in: `keras.ops`, or TensorFlow's by those names.

Within `tf.data` images are TensorFlow's tensors under every backend, where `keras.ops` of
another backend could not take them.
"""

import functools
import sys
import types

from keras import ops


def tensorflow_of(images):
    """Returns the tensorflow module if `images` is one of its tensors, without importing it."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow if tensorflow is not None and tensorflow.is_tensor(images) else None


def of(images):
    """Returns what has `keras.ops`'s functions for these images."""
    tensorflow = tensorflow_of(images)
    return ops if tensorflow is None else _named_as_in_keras(tensorflow)


@functools.cache
def _named_as_in_keras(tensorflow):
    same = ("cast", "cos", "floor", "matmul", "minimum", "pad", "reshape", "round", "shape")
    names = {name: name for name in (*same, "sin", "stack", "tan", "transpose")}
    names |= {"arange": "range", "clip": "clip_by_value", "concatenate": "concat"}
    names |= {"mean": "reduce_mean", "sum": "reduce_sum"}
    functions = {name: getattr(tensorflow, other) for name, other in names.items()}
    functions["take"] = lambda table, at, axis: tensorflow.gather(table, at, axis=axis)
    return types.SimpleNamespace(**functions)
