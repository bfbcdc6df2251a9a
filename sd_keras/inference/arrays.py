"""The arrays that inference works on: logits by exit, labels, numbers per exit."""

import re

import keras
import numpy as np

# Rows worked on at once, so that float64 copies of large logits stay small.
BLOCK = 4096


def exits_of(logits):
    """Returns logits as a list with one array per exit, shallow to deep.

    Args:
        logits: a dict that holds `exit_1 … exit_C` (what a network predicts; other names are
            left out), an array `(C, n, classes)` or a list of `(n, classes)`.

    Returns:
        A list of `(n, classes)`, in the precision they came in.
    """
    names, arrays = _named(logits)
    arrays = [keras.ops.convert_to_numpy(array) for array in arrays]
    shapes = [array.shape for array in arrays]
    fits = shapes and len(set(shapes)) == 1 and len(shapes[0]) == 2 and shapes[0][1] >= 2
    if not fits:
        raise ValueError(
            "`logits` must hold one array (n, classes) per exit, at least 2 classes, all of one "
            f"shape. Received: logits={dict(zip(names, shapes))}"
        )
    for name, array in zip(names, arrays):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise ValueError(
                f"`logits` must be finite. Received: logits of {name} with {len(bad)} rows that "
                f"are not, the first of them row {bad[0]}"
            )
    return arrays


def _named(logits):
    """Returns the exits' names and arrays."""
    if not isinstance(logits, dict):
        if hasattr(logits, "shape") and len(logits.shape) != 3:
            raise ValueError(
                "`logits` must be an array (exits, n, classes), a list or a dict. "
                f"Received: logits of shape {tuple(logits.shape)}"
            )
        return [f"exit_{index}" for index in range(1, len(logits) + 1)], list(logits)
    names = [name for name in logits if re.fullmatch(r"exit_[1-9]\d*", name)]
    names.sort(key=lambda name: int(name.removeprefix("exit_")))
    if not names or names[-1] != f"exit_{len(names)}":
        raise ValueError(
            f"`logits` must hold exit_1, exit_2, … without a gap. Received: logits={list(logits)}"
        )
    return names, [logits[name] for name in names]


def class_numbers(labels, rows, classes):
    """Returns labels as an integer array `(n,)`, if they are `rows` numbers below `classes`."""
    labels = np.asarray(labels)
    fits = labels.shape in ((rows,), (rows, 1)) and labels.dtype.kind in "iu"
    if not fits or not rows or labels.min() < 0 or labels.max() >= classes:
        span = f" from {labels.min()} to {labels.max()}" if labels.size else ""
        raise ValueError(
            f"`labels` must be class numbers 0…{classes - 1}, one per row of the logits ({rows},), "
            f"at least one. Received: labels of shape {labels.shape}, {labels.dtype}{span}"
        )
    return labels.reshape(-1).astype("int64")


def per_exit(name, values, exits, smallest=0.0):
    """Returns one number per exit as an array `(exits,)` of float64.

    Args:
        name: of the argument, for messages.
        values: a list, an array, or a dict from `exit_1 …` whose other names are left out.
        exits: how many.
        smallest: what each must be at least.
    """
    numbers = values
    if isinstance(values, dict):
        numbers = [values.get(f"exit_{index}", np.nan) for index in range(1, exits + 1)]
        numbers += [np.nan] * (f"exit_{exits + 1}" in values)
    try:
        array = np.asarray(numbers, "float64")
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != (exits,) or not (np.isfinite(array) & (array >= smallest)).all():
        raise ValueError(
            f"`{name}` must be finite numbers of at least {smallest:g}, one per exit ({exits}). "
            f"Received: {name}={values!r}"
        )
    return array


def blocks(rows):
    """Returns slices that cover `rows` rows."""
    return [slice(start, start + BLOCK) for start in range(0, rows, BLOCK)]


def log_softmax(logits):
    """Log probabilities `(n, classes)` in float64, of logits of the same shape."""
    shifted = np.asarray(logits, "float64")
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
