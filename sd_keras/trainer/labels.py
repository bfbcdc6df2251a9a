"""Labels: their checks, and the cross entropy that `compile(loss=…)` may replace."""

import inspect
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from sd_keras import losses, replicas

LOW, HIGH = "_label_low", "_label_high"
# Losses of Keras that want probabilities and have no `from_logits`.
ON_PROBABILITIES = (
    "kldivergence",
    "poisson",
    "dice",
    "tversky",
    "categoricalgeneralizedcrossentropy",
)


class Mixed(NamedTuple):
    """Labels of mixed images, and those that the data gave."""

    given: object
    soft: object


def standardize(labels, num_classes):
    """Returns class numbers `(n,)` int32 or probabilities `(n, classes)`, by shape.

    Of mixed images the soft ones.

    Raises:
        ValueError: if the labels have neither form.
    """
    if labels is None:
        raise ValueError("`y` must hold the labels; self-distillation learns from them too.")
    if isinstance(labels, Mixed):
        return labels.soft
    if isinstance(labels, (dict, list, tuple)):
        raise ValueError(
            "`y` must be one array of labels; it serves every exit. "
            f"Received: y of type {type(labels).__name__}"
        )
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] == 1:
        labels, shape = ops.squeeze(labels, 1), shape[:1]
    if len(shape) == 1:
        return ops.cast(labels, "int32")
    if len(shape) == 2 and shape[1] == num_classes:
        return labels
    raise ValueError(
        f"`y` must be class numbers (n,) or probabilities (n, {num_classes}). "
        f"Received: y of shape {shape}"
    )


def check_array(labels, num_classes, argument="y"):
    """Checks the values of a label array before anything is trained on it."""
    if not isinstance(labels, np.ndarray) or labels.size == 0:
        return
    if labels.dtype.kind not in "buif":
        raise ValueError(
            f"`{argument}` must hold class numbers or probabilities. "
            f"Received: {argument} of dtype {labels.dtype}"
        )
    soft = labels.ndim == 2 and labels.shape[1] > 1
    low, high = labels.min(), labels.max()
    if soft and not (np.isfinite(labels).all() and low >= 0):
        raise ValueError(
            f"`{argument}` must hold probabilities of at least 0. "
            f"Received: {argument} from {low} to {high}"
        )
    if not soft and not (low >= 0 and high < num_classes):
        raise ValueError(range_message(low, high, num_classes, argument))
    if not soft and labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        raise ValueError(
            f"`{argument}` must hold whole class numbers. Received: {argument} with fractions"
        )


def range_message(low, high, num_classes, argument="y"):
    """The sentence about class numbers that the network does not have."""
    return (
        f"`{argument}` must hold class numbers 0…{num_classes - 1}, because the network has "
        f"{num_classes} classes. Received: {argument} from {_plain(low)} to {_plain(high)}"
    )


def _plain(number):
    return int(number) if number == int(number) else float(number)


class LabelRange(keras.metrics.Metric):
    """The smallest and largest class number seen since the last reset.

    Of probabilities only the smallest counts.
    """

    # What min and max start from: beyond any class number, exact in float32.
    NONE_LOW, NONE_HIGH = 2.0**24, -1.0

    def __init__(self, name="label_range"):
        super().__init__(name=name)
        start = keras.initializers.Constant
        self.low = self.add_variable((), start(self.NONE_LOW), name="low")
        self.high = self.add_variable((), start(self.NONE_HIGH), name="high")

    def reset_state(self):
        self.low.assign(self.NONE_LOW)
        self.high.assign(self.NONE_HIGH)

    def update_state(self, labels):
        values = ops.cast(labels, self.low.dtype)
        self.low.assign(ops.minimum(self.low, ops.min(values)))
        if len(labels.shape) == 1:
            self.high.assign(ops.maximum(self.high, ops.max(values)))

    def result(self):
        ends = replicas.smallest(ops.stack([ops.add(self.low, 0.0), ops.negative(self.high)]))
        return {LOW: ends[0], HIGH: -ends[1]}


def resolve_loss(loss):
    """Returns the function `(labels, logits) → (n,)` that `compile(loss=…)` asks for.

    Args:
        loss: None for cross entropy from logits, else a Keras loss or a function; it is
            applied to every exit.

    Raises:
        ValueError: for a loss per output, one on probabilities, or one with an own sum.
    """
    if loss is None:
        return losses.label_cross_entropy
    if isinstance(loss, (dict, list, tuple)):
        raise ValueError(
            "`loss` must be one loss; it is applied to every exit, weighted by the method. "
            f"Received: loss={loss}"
        )
    function = keras.losses.get(loss)
    if _takes_probabilities(function):
        raise ValueError(
            "`loss` must be made for logits, as the exits give them: for instance "
            f"keras.losses.CategoricalCrossentropy(from_logits=True). Received: loss={loss!r}"
        )
    if not isinstance(function, keras.losses.Loss):
        return _per_example(function, function)
    if function.reduction not in ("sum_over_batch_size", "mean", None, "none"):
        raise ValueError(
            "`loss` must be a mean over the batch. "
            f"Received: loss with reduction={function.reduction!r}"
        )
    return _per_example(function.call, function)


def _named(function):
    """Returns what carries the name and the module: a function itself, an object's class."""
    return function if inspect.isfunction(function) else type(function)


def _name_of(function):
    return _named(function).__name__.lower().replace("_", "")


def _takes_probabilities(function):
    if _name_of(function) in ON_PROBABILITIES:
        return True
    if isinstance(function, keras.losses.Loss):
        return getattr(function, "from_logits", None) is False
    parameters = inspect.signature(function).parameters
    return "from_logits" in parameters and parameters["from_logits"].default is False


def _is_dense_keras_loss(function):
    """Whether a loss of Keras itself compares against probabilities, not class numbers."""
    is_own = _named(function).__module__.partition(".")[0] == "keras"
    return is_own and "sparse" not in _name_of(function)


def _per_example(function, loss):
    """Returns the label loss that calls `function`, which belongs to what the user gave."""
    wants_one_hot, is_sparse = _is_dense_keras_loss(loss), "sparse" in _name_of(loss)

    def label_loss(labels, logits):
        num_classes = logits.shape[-1]
        if len(labels.shape) == 1:
            # Numbers out of range are reported after the step; some kernels would fail.
            labels = ops.clip(labels, 0, num_classes - 1)
            if wants_one_hot:
                labels = ops.one_hot(labels, num_classes, dtype=logits.dtype)
        elif is_sparse:
            raise ValueError(
                "`loss` must take probabilities where labels are soft or mixed: for instance "
                "keras.losses.CategoricalCrossentropy(from_logits=True). "
                f"Received: loss {_named(loss).__name__!r}"
            )
        values = ops.convert_to_tensor(function(labels, logits))
        if len(values.shape) != 1:
            raise ValueError(
                "`loss` must return one value per example, shape (n,). "
                f"Received: values of shape {tuple(values.shape)}"
            )
        return ops.cast(values, logits.dtype)

    return label_loss
