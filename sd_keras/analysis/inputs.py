"""The arguments that analyses share: images and labels, logits and features by exit."""

import re

import keras
import numpy as np

from sd_keras.inference import ensemble_logits
from sd_keras.inference.arrays import exits_of
from sd_keras.models.exits import exit_names


def checked_labels(network, images, labels):
    """Returns class numbers `(n,)`, once they are known to be some of the network's.

    Raises:
        ValueError: unless they are class numbers, one per image.
    """
    labels = np.asarray(labels)
    classes = network.output[exit_names(network)[-1]].shape[-1]
    if labels.shape not in ((len(images),), (len(images), 1)) or not (
        labels.min() >= 0 and labels.max() < classes
    ):
        raise ValueError(
            f"`labels` must be class numbers 0…{classes - 1}, one per image ({len(images)},). "
            f"Received: labels of shape {labels.shape} from {labels.min()} to {labels.max()}"
        )
    return labels.reshape(-1)


def checked_images(network, images):
    """Returns images `(n, h, w, c)` as an array, once they are known to fit the network.

    Raises:
        ValueError: for another shape, or for none.
    """
    exit_names(network)
    images = np.asarray(images)
    expected = network.input_shape[1:]
    fits = len(images.shape) == 4 and all(
        size in (None, own) for size, own in zip(expected, images.shape[1:])
    )
    if not fits or not len(images):
        raise ValueError(
            f"`images` must be raw pixels of shape (n, {', '.join(map(str, expected))}), at least "
            f"one. Received: images of shape {images.shape}"
        )
    return images


def integer(name, value, least=1):
    """Returns the value; raises ValueError unless it is an integer of at least `least`."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < least:
        shown = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={shown}"
        )
    return int(value)


def numbers(name, values, smallest, largest=np.inf):
    """Returns numbers as an array `(k,)` of float64.

    Raises:
        ValueError: unless there is at least one, and all are finite and within the bounds.
    """
    try:
        array = np.asarray(values, "float64")
    except (TypeError, ValueError):
        array = np.empty(0)
    within = np.isfinite(array) & (array >= smallest) & (array <= largest)
    if array.ndim != 1 or not array.size or not within.all():
        bounds = f"at least {smallest:g}" if np.isinf(largest) else f"{smallest:g} to {largest:g}"
        raise ValueError(
            f"`{name}` must be a list of finite numbers of {bounds}, at least one. "
            f"Received: {name}={values!r}"
        )
    return array


def logits_with_ensemble(logits):
    """Returns `{"exit_1": (n, classes), …, "ensemble": …}` of logits by exit.

    Raises:
        ValueError: for logits that do not fit; see `inference.arrays.exits_of`.
    """
    if hasattr(logits, "predict"):
        raise ValueError(
            "`logits` must be what a network predicts, network.predict(images). "
            f"Received: logits of type {type(logits).__name__}"
        )
    exits = exits_of(logits)
    mean = keras.ops.convert_to_numpy(ensemble_logits(exits))
    return {f"exit_{index}": z for index, z in enumerate(exits, start=1)} | {"ensemble": mean}


def features_by_exit(features):
    """Returns features as a dict from `exit_1 …` to arrays `(n, d)` of float64.

    Args:
        features: a dict that holds `features_1 …`, such as what a network predicts; other
            names are left out. Each exit may have a size of its own.

    Raises:
        ValueError: if there are none, or they are not finite and equally many.
    """
    if not isinstance(features, dict):
        raise ValueError(
            "`features` must be a dict with features_1 … features_C, what network.predict(images) "
            f"returns. Received: features of type {type(features).__name__}"
        )
    names = [name for name in features if re.fullmatch(r"features_[1-9]\d*", str(name))]
    names.sort(key=lambda name: int(name.removeprefix("features_")))
    arrays = [np.asarray(keras.ops.convert_to_numpy(features[n]), "float64") for n in names]
    shapes = [array.shape for array in arrays]
    counts = {shape[0] if len(shape) == 2 else None for shape in shapes}
    if len(counts) != 1 or None in counts or 0 in counts:
        raise ValueError(
            "`features` must hold features_1 … features_C, each (n, d) of the same images. "
            f"Received: features={dict(zip(names, shapes)) or list(features)}"
        )
    for name, array in zip(names, arrays):
        if not np.isfinite(array).all():
            raise ValueError(f"`features` must be finite. Received: {name} with others")
    return {name.replace("features", "exit"): array for name, array in zip(names, arrays)}
