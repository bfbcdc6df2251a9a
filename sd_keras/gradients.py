"""Gradients of a scalar, of Keras variables and of tensors, on each of Keras's backends."""

import keras
from keras import ops

from sd_keras import scopes
from sd_keras.keras_internals import tensorflow as tf


def of_variables(function, variables):
    """Differentiates a scalar by Keras variables, in one backward pass.

    The function runs in a StatelessScope of its own: it reads all variables as they are, in a
    scope that is open around it as that scope has them, and whatever it writes, such as moving
    statistics, counters and random states, is forgotten. Works eagerly and within a compiled
    function.

    Args:
        function: of no arguments; returns a scalar tensor.
        variables: list of float Keras variables.

    Returns:
        A list of tensors, one per variable and of its shape and dtype; zeros where the scalar
        does not depend on it.

    Raises:
        ValueError: for a variable that is not of floats.
    """
    variables = list(variables)
    values = [ops.convert_to_tensor(variable.value) for variable in variables]

    def of_values(*values):
        with scopes.with_values(variables, values):
            return function()

    return _by_backend("variables", of_values, values)


def of_inputs(function, tensors):
    """Differentiates a scalar function by its tensors, in one backward pass.

    The function may read any variable, also those of a StatelessScope that is open around
    the call, but it must write to none: a network runs in it with `training=False`. Works
    eagerly and within a compiled function.

    Args:
        function: takes as many tensors as there are in `tensors`; returns a scalar tensor.
        tensors: list of float tensors, for instance one batch of images `(n, h, w, c)`.

    Returns:
        A list of tensors, one per tensor and of its shape and dtype; zeros where the scalar
        does not depend on it. They are constants to a gradient taken around the call.

    Raises:
        ValueError: for a tensor that is not of floats.
    """
    return _by_backend("tensors", function, [ops.convert_to_tensor(each) for each in tensors])


def _by_backend(name, function, tensors):
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    if not all("float" in dtype for dtype in dtypes):
        raise ValueError(f"`{name}` must be of floats. Received: {name} of {dtypes}")
    if not tensors:
        return []
    backends = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}
    # Detached on both sides: no gradient taken around the call goes through its tensors.
    tensors = [ops.stop_gradient(tensor) for tensor in tensors]
    found = backends[keras.config.backend()](function, tensors)
    return [ops.stop_gradient(gradient) for gradient in found]


def _by_tensorflow(function, tensors):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return tape.gradient(value, tensors, unconnected_gradients="zero")


def _by_jax(function, tensors):
    import jax

    return list(jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors))


def _by_torch(function, tensors):
    import torch

    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        value = function(*tensors)
        found = torch.autograd.grad(value, tensors, allow_unused=True)
    pairs = zip(found, tensors)
    return [torch.zeros_like(t) if gradient is None else gradient for gradient, t in pairs]
