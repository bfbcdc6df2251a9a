"""The arguments that analyses share, and accuracy and cross entropy by one compiled function."""

import re

import keras
import numpy as np
from keras import ops

from sd_keras import scopes
from sd_keras.inference import ensemble_logits
from sd_keras.inference.arrays import exits_of
from sd_keras.models.exits import exit_names


def checked_labels(network, images, labels):
    """Returns class numbers `(n,)`, once they are known to be some of the network's."""
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
    """Returns images `(n, h, w, c)` as an array, once they are known to fit the network."""
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
    """Returns at least one finite number within the bounds as an array `(k,)` of float64."""
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
    """Returns `{"exit_1": (n, classes), …, "ensemble": …}` of logits by exit."""
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


class Evaluation:
    """Measures each exit and the ensemble, any number of times and for other weights.

    Args:
        network: made by `attach_exits`.
        variables: those whose values may be given at each call.
        batch_size: most images per forward pass; they are divided evenly.

    Attributes:
        names: the C exits and `ensemble`.
        variables: as given.
    """

    def __init__(self, network, variables=(), batch_size=256):
        self.names = [*exit_names(network), "ensemble"]
        self.network = network
        self.variables = list(variables)
        self.batch_size = integer("batch_size", batch_size)
        given = {id(variable) for variable in self.variables}
        self._others = [v for v in network.variables if id(v) not in given]
        self._sums = scopes.compiled(self._batch_sums, [*self.variables, *self._others])

    def __call__(self, images, labels, values=None):
        """Measures on images `(n, h, w, c)` with class numbers `(n,)`.

        Args:
            images, labels: arrays.
            values: None, or a list of tensors, one for each of the variables.

        Returns:
            An array `(C + 1, 2)` of float64, the accuracy (a share of 1) and the cross entropy
            (nats) by name. An answer that is not finite is wrong.
        """
        if values is None:
            values = map(scopes.value_of, self.variables)
        values = [*values, *map(scopes.value_of, self._others)]
        sums = [self._sums(values, *batch) for batch in self._batches(images, labels)]
        total = np.sum([ops.convert_to_numpy(each) for each in sums], axis=0, dtype="float64")
        return total / len(labels)

    def _batches(self, images, labels):
        """Yields images, labels and weights, all batches of one size, to compile once."""
        count = -(-len(labels) // self.batch_size)
        size = -(-len(labels) // count)
        for start in range(0, len(labels), size):
            batch, given = images[start : start + size], labels[start : start + size]
            missing = size - len(given)
            weights = np.repeat(np.float32([1, 0]), [len(given), missing])
            if missing:
                batch = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
                given = np.concatenate([given, np.repeat(given[:1], missing)])
            yield tuple(map(ops.convert_to_tensor, (batch, given.astype("int32"), weights)))

    def _batch_sums(self, images, labels, weights):
        """Returns right answers and nats by name, `(C + 1, 2)`, summed over a batch."""
        outputs = self.network(images, training=False)
        logits = [ops.cast(outputs[name], "float32") for name in self.names[:-1]]
        rows = []
        for z in [*logits, ensemble_logits(logits)]:
            true = ops.take_along_axis(ops.log_softmax(z, axis=-1), labels[:, None], axis=1)
            right = ops.cast(ops.argmax(z, axis=-1), "int32") == labels
            # Of NaN the class number would be as good as any.
            right = ops.logical_and(right, ops.isfinite(true[:, 0]))
            right = ops.cast(right, "float32")
            rows.append([ops.sum(right * weights), -ops.sum(true[:, 0] * weights)])
        return ops.stack([ops.stack(row) for row in rows])


def checked(network, images, labels):
    """Returns images and class numbers as arrays, once they are known to fit the network."""
    images = checked_images(network, images)
    return images, checked_labels(network, images, labels)


def by_measure(names, found):
    """Divides what several evaluations found by exit and by what was measured.

    Args:
        names: of the evaluation.
        found: array `(…, C + 1, 2)`.

    Returns:
        A dict by name of dicts of `accuracy` and `cross_entropy`, arrays `(…)`.
    """
    return {
        name: {"accuracy": own[..., 0], "cross_entropy": own[..., 1]}
        for name, own in zip(names, np.moveaxis(found, -2, 0))
    }
