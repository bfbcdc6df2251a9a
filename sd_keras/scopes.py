"""Running a function with other values of Keras variables, which themselves stay as they are."""

import contextlib

import keras

from sd_keras.keras_internals import tensorflow as tf


@contextlib.contextmanager
def with_values(variables, values):
    """Opens a StatelessScope in which variables have other values.

    All else is as it is, in a scope that is open around it as that scope has it: Keras by
    itself would forget the outer one. What is assigned within is forgotten at the end.

    Args:
        variables: list of Keras variables.
        values: list of as many tensors.

    Yields:
        The scope, whose `get_current_value(variable)` tells what has been assigned.
    """
    mapping = list(zip(variables, values))
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        if scope.original_scope is not None:
            scope.state_mapping = {**scope.original_scope.state_mapping, **scope.state_mapping}
        yield scope


def value_of(variable):
    """Returns the value of a Keras variable as a tensor, which later writes do not change."""
    if keras.config.backend() != "tensorflow":
        return variable.value
    # Keras would hand out TensorFlow's own variable.
    return tf.convert_to_tensor(variable.value)


def compiled(function, variables):
    """Compiles a function of tensors, for given values of some variables, by backend.

    Args:
        function: takes tensors, returns tensors; reads what variables it likes, and what it
            assigns to them is forgotten.
        variables: list of those whose values are arguments. Under jax all that the function
            reads must be among them, or it keeps the values of its first call.

    Returns:
        A function of a list of values, one per variable (see `value_of`), and of the tensors.
        It compiles once for each shape of the tensors; torch runs it as it is, without
        gradients.
    """

    def run(values, *tensors):
        with with_values(variables, values):
            return function(*tensors)

    backend = keras.config.backend()
    if backend == "tensorflow":
        return _by_tensorflow(run)
    if backend == "jax":
        import jax

        return jax.jit(run)
    import torch

    return torch.no_grad()(run)


def _by_tensorflow(run):
    function, concrete = tf.function(run, autograph=False), {}

    def call(*arguments):
        # Calls of the tf.function itself would warn of retracing as soon as there are several
        # of them, which TensorFlow takes for one.
        key = tuple((str(t.shape), t.dtype) for t in keras.tree.flatten(arguments))
        if key not in concrete:
            concrete[key] = function.get_concrete_function(*arguments)
        return concrete[key](*arguments)

    return call
