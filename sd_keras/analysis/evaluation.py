"""Accuracy and cross entropy by one compiled function, for many evaluations of a network."""

import numpy as np
from keras import ops

from sd_keras import scopes
from sd_keras.analysis.inputs import checked_images, checked_labels, integer
from sd_keras.inference import ensemble_logits
from sd_keras.models.exits import exit_names


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
        """Yields images, labels and weights, all batches of one size, lest each be compiled."""
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
