"""Gradients on the backend of KERAS_BACKEND against formulas; prints "fine" if all hold."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

from sd_keras import gradients, scopes


def by_formula():
    """The gradient of (w x − y)² by w and x, and zeros by what has no part in it."""
    weight, other = (keras.Variable([value, 1.0]) for value in (2.0, 5.0))
    x, y = (ops.convert_to_tensor([value, 3.0]) for value in (1.0, 4.0))

    def loss(x, y):
        return ops.sum(ops.square(weight * x - y))

    error = np.array([2.0 * 1 - 4, 1.0 * 3 - 3])
    of_weight, of_other = gradients.of_variables(lambda: loss(x, y), [weight, other])
    np.testing.assert_allclose(numpy(of_weight), 2 * error * np.array([1.0, 3.0]))
    np.testing.assert_allclose(numpy(of_other), 0)
    of_x, of_y = gradients.of_inputs(loss, [x, y])
    np.testing.assert_allclose(numpy(of_x), 2 * error * np.array([2.0, 1.0]))
    np.testing.assert_allclose(numpy(of_y), -2 * error)
    (unused,) = gradients.of_inputs(lambda z: ops.sum(weight) + 0 * ops.sum(z), [x])
    np.testing.assert_allclose(numpy(unused), 0)


def writes_are_forgotten():
    """A counter and a random draw that the function makes are not made."""
    weight, counter = keras.Variable([2.0]), keras.Variable(0.0, trainable=False)
    seed = keras.random.SeedGenerator(1)
    before = numpy(seed.state.value).copy()

    def loss():
        counter.assign(counter + 1)
        return ops.sum(weight * counter * keras.random.uniform((1,), 1.0, 1.1, seed=seed))

    (found,) = gradients.of_variables(loss, [weight])
    assert 1 <= float(numpy(found)[0]) <= 1.1
    assert float(numpy(counter.value)) == 0
    np.testing.assert_array_equal(numpy(seed.state.value), before)


def inside_a_compiled_step():
    """Both within a compiled function and an open scope, whose values they read."""
    weight, factor = keras.Variable([2.0]), keras.Variable(3.0)

    def step(x):
        factor.assign(factor * 2)
        (view,) = gradients.of_inputs(lambda x: ops.sum(factor * weight * x), [x])
        (of_weight,) = gradients.of_variables(lambda: ops.sum(factor * weight * x), [weight])
        return view, of_weight

    run = scopes.compiled(step, [weight, factor])
    x = ops.convert_to_tensor([1.0, 10.0])
    for value in (3.0, 4.0):
        view, of_weight = run([weight.value, ops.convert_to_tensor(value)], x)
        np.testing.assert_allclose(numpy(view), 2 * value * 2 * np.ones(2))
        np.testing.assert_allclose(numpy(of_weight), [2 * value * 11])
    assert float(numpy(factor.value)) == 3


def nothing_flows_around():
    """To a gradient around it, the inner gradient is a constant."""
    weight = keras.Variable([2.0])
    x = ops.convert_to_tensor([3.0])

    def outer():
        (inner,) = gradients.of_inputs(lambda x: ops.sum(weight * ops.square(x)), [x])
        return ops.sum(weight * inner)

    (found,) = gradients.of_variables(outer, [weight])
    np.testing.assert_allclose(numpy(found), [2 * 2 * 3])


def integers_are_refused():
    whole = keras.Variable(1, dtype="int32", trainable=False)
    for call in (
        lambda: gradients.of_inputs(ops.sum, [ops.convert_to_tensor([1, 2])]),
        lambda: gradients.of_variables(lambda: 0.0, [whole]),
    ):
        try:
            call()
        except ValueError as error:
            assert "must be of floats. Received: " in str(error), error
        else:
            raise AssertionError("integers were taken")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def main():
    by_formula()
    writes_are_forgotten()
    inside_a_compiled_step()
    nothing_flows_around()
    integers_are_refused()


if __name__ == "__main__":
    main()
    print("fine")
