"""Weights that balance the objectives' gradients with the labels'."""

import keras
from keras import ops

from sd_keras import gradients, keras_internals, replicas
from sd_keras.models.exits import exit_names

LIMIT = 100.0  # of a weight: where views agree there is nothing to make longer
TINY = 1e-12


def weights(classifiers, labels_value, objectives, targets, views, share):
    """Returns the weight of each objective that gives its gradient the wanted length.

    Lengths are L2 norms over all features of all exits and views, of values averaged over the
    batch; of several replicas the root of the mean square.

    Args:
        classifiers: dict from the number of an exit to the layer that makes its logits of its
            features.
        labels_value: function of views that gives the weighted label losses `(n,)`.
        objectives: list of `Objective`, without schedules.
        targets: labels of the batch.
        views: tuple of dicts of outputs.
        share: length of an objective's gradient in units of the labels'.

    Returns:
        A list of scalars, 0 for an objective whose own weight is 0.
    """
    names = [(index, number) for index in range(len(views)) for number in classifiers]
    vectors = [ops.cast(views[i][f"features_{number}"], "float32") for i, number in names]

    def seen(*vectors):
        replaced = [dict(view) for view in views]
        for (index, number), vector in zip(names, vectors):
            replaced[index][f"features_{number}"] = vector
            replaced[index][f"exit_{number}"] = classifiers[number](vector)
        return tuple(replaced)

    functions = [lambda *v: ops.mean(labels_value(seen(*v)))]
    functions += [lambda *v, o=o: ops.mean(o.call(targets, seen(*v))) for o in objectives]
    squares = [_square(gradients.of_inputs(function, vectors)) for function in functions]
    of_labels, *others = replicas.mean(squares)
    found = []
    for objective, square in zip(objectives, others):
        weight = share * ops.sqrt(of_labels / ops.maximum(square, TINY))
        is_on = ops.cast(ops.convert_to_tensor(objective.weight, "float32") > 0, "float32")
        found.append(ops.stop_gradient(ops.minimum(weight, LIMIT) * is_on))
    return found


def classifiers_of(network):
    """Returns the layer that makes each exit's logits of its features, by number of the exit.

    Raises:
        ValueError: if there is not one layer between them.
    """
    found = {}
    for name in exit_names(network):
        number = int(name.removeprefix("exit_"))
        layer = keras_internals.operation_of(network.output[name])
        features = network.output.get(f"features_{number}")
        if not isinstance(layer, keras.Layer) or layer.input is not features:
            raise ValueError(
                "`network` must have one layer between features and logits of each exit, as "
                f"attach_exits makes it, for a balanced method. Received: network whose {name} "
                f"is made by {layer.name!r}"
            )
        found[number] = layer
    return found


def _square(parts):
    return sum(ops.sum(ops.square(part)) for part in parts)
