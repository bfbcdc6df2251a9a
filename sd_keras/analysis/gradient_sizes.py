"""How much gradient reaches each layer from the loss that a method trains with."""

import numpy as np
from keras import ops

from sd_keras import gradients, scopes
from sd_keras.analysis.inputs import checked_labels, integer


def gradient_magnitudes(model, x, y, batch_size=128):
    """Mean |gradient| per kernel of the loss that a model is trained with (BYOT figure 5).

    Each batch is a training step without its update: it draws the method's views, runs the
    network with the statistics of the batch and makes one backward pass. With and without
    self-distillation are two models, for instance of one network with two methods. Nothing of a
    model changes: neither its statistics and metrics nor its count of steps and random state.

    Args:
        model: a compiled `SelfDistillModel`.
        x: raw pixels `(n, h, w, c)`, or a tuple of ready-made views.
        y: class numbers `(n,)` or probabilities `(n, classes)`.
        batch_size: images per batch; as in training, for the size of a gradient depends on it.
            Images that do not fill the last batch are left out, unless there is only one.

    Returns:
        A dict: `names`, the paths of the K trainable kernels (weights of rank 2 or more), in
        the order of the network's layers; `convolution` `(K,)`, whether it is one of a
        convolution, rank 4; `mean` `(K,)`, the mean over batches and elements of |gradient| of
        the loss, which is a mean over images; and `deviation` `(K,)`, the standard
        deviation over batches of a batch's mean.

    Raises:
        ValueError: if the model is not a SelfDistillModel, or for images or labels that do not
            fit.
    """
    views, y = _checked(model, x if isinstance(x, (tuple, list)) else (x,), y)
    size = min(integer("batch_size", batch_size), len(y))
    kernels = [v for v in model.network.trainable_weights if len(v.shape) >= 2]
    batches = (
        [ops.convert_to_tensor(array[start : start + size]) for array in (*views, y)]
        for start in range(0, len(y) - size + 1, size)
    )
    found = list(_batch_means(model, kernels, batches))
    return {
        "names": [kernel.path for kernel in kernels],
        "convolution": np.array([len(kernel.shape) == 4 for kernel in kernels]),
        "mean": np.mean(found, axis=0, dtype="float64"),
        "deviation": np.std(found, axis=0, dtype="float64"),
    }


def _batch_means(model, kernels, batches):
    """Yields mean |gradient| per kernel `(K,)` of each batch, a list of views and labels."""
    state = model.non_trainable_variables
    variables = [*model.trainable_variables, *state, *model.metrics_variables]
    step = scopes.compiled(_step_of(model, kernels, state), variables)
    values = {id(variable): scopes.value_of(variable) for variable in variables}
    for *views, labels in batches:
        x = tuple(views) if len(views) > 1 else views[0]
        magnitudes, drawn = step(list(values.values()), x, labels)
        values |= {id(variable): value for variable, value in zip(state, drawn)}
        yield ops.convert_to_numpy(magnitudes)


def _checked(model, views, y):
    """Returns views and labels as arrays."""
    if not hasattr(model, "begin_step"):
        raise ValueError(
            "`model` must be a compiled sd_keras.SelfDistillModel. "
            f"Received: model of type {type(model).__name__}"
        )
    views, y = [np.asarray(view) for view in views], np.asarray(y)
    if {len(view) for view in views} != {len(y)} or not len(y):
        raise ValueError(
            "`x` and `y` must hold equally many images and labels, at least one. "
            f"Received: x of shapes {[view.shape for view in views]}, y of shape {y.shape}"
        )
    return views, checked_labels(model.network, views[0], y) if y.ndim == 1 else y


def _step_of(model, kernels, state):
    """Returns a function of a batch: |gradient| per kernel `(K,)`, and the state after it."""

    def step(x, y):
        # As in the training step of SelfDistillModel, but in a scope that forgets.
        with scopes.with_values([], []) as scope:
            views, targets = model.begin_step(x, y, None)
            values = [scope.get_current_value(variable) for variable in state]
            drawn = [
                scopes.value_of(variable) if value is None else ops.convert_to_tensor(value)
                for variable, value in zip(state, values)
            ]

            def loss():
                outputs = model(views, training=True)
                return model.compute_loss(views, targets, outputs, None, training=True)

            found = gradients.of_variables(loss, kernels)
        means = [ops.mean(ops.abs(ops.cast(each, "float32"))) for each in found]
        return ops.stack(means), drawn

    return step
