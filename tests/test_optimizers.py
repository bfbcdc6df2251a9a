"""SGD against a NumPy transcription of PyTorch's, and against PyTorch's itself."""

import keras
import numpy as np
import pytest

from sd_keras.optimizers import SGD
from sd_keras.schedules import WarmUp, multi_step

STEPS = 10


def start():
    return np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def gradient_sequence(steps=STEPS):
    return np.random.default_rng(1).normal(size=(steps, 3, 4)).astype("float32")


def reference(weights, gradients, rates, momentum, nesterov, decay):
    """The update rule in PyTorch's documentation of SGD, in float64; weights after each step."""
    w, buffer, path = weights.astype("float64"), None, []
    for gradient, rate in zip(gradients.astype("float64"), rates):
        g = gradient + decay * w
        if momentum:
            buffer = g if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        w = w - rate * g
        path.append(w)
    return np.array(path)


def run(optimizer, weights, gradients):
    """Weights after each step of `optimizer`."""
    variable, path = keras.Variable(weights), []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        path.append(keras.ops.convert_to_numpy(variable).copy())
    return np.array(path)


def rates(dropping):
    return [0.1] * 4 + [0.01] * 6 if dropping else [0.1] * STEPS


def rate_argument(dropping):
    return multi_step(0.1, [4]) if dropping else 0.1


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("decay", [None, 0.05])
@pytest.mark.parametrize("momentum,nesterov", [(0.9, False), (0.9, True), (0.0, False)])
def test_equals_the_transcription(momentum, nesterov, decay, dropping):
    optimizer = SGD(rate_argument(dropping), momentum, nesterov, weight_decay=decay)
    expected = reference(
        start(), gradient_sequence(), rates(dropping), momentum, nesterov, decay or 0
    )
    got = run(optimizer, start(), gradient_sequence())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_transcription_tells_the_rules_apart():
    """A velocity that holds the learning rate, as Keras's own, is another rule after a drop."""
    theirs = run(
        keras.optimizers.SGD(rate_argument(True), momentum=0.9), start(), gradient_sequence()
    )
    ours = reference(start(), gradient_sequence(), rates(True), 0.9, False, 0)
    np.testing.assert_allclose(theirs[:4], ours[:4], rtol=1e-5, atol=1e-6)
    assert np.abs(theirs[4] - ours[4]).max() > 0.05


def test_trap_10_weight_decay_is_coupled_with_momentum():
    """1000 steps without gradient at the papers' figures leave 0.608, not 0.951."""
    one = np.ones((1,), "float32")
    figures = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    # By hand: v ← 0.9 v + 5e-4 w and w ← w − 0.1 v is a linear map of (w, v).
    step = np.array([[1 - 0.1 * 5e-4, -0.1 * 0.9], [5e-4, 0.9]])
    coupled = (np.linalg.matrix_power(step, 1000) @ [1.0, 0.0])[0]
    assert round(coupled, 3) == 0.608 and round((1 - 0.1 * 5e-4) ** 1000, 3) == 0.951
    for optimizer, remains in (
        (SGD(**figures), coupled),
        (keras.optimizers.SGD(**figures), 0.951),
    ):
        variable, zero = keras.Variable(one), keras.ops.zeros((1,))
        optimizer.build([variable])
        for _ in range(1000):
            optimizer.apply([zero], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), remains, atol=5e-4)


def test_learning_rate_assigned_in_between_acts_at_once():
    optimizer, variable = SGD(0.1, 0.9), keras.Variable(start())
    expected = reference(start(), gradient_sequence(), rates(True), 0.9, False, 0)
    for step, gradient in enumerate(gradient_sequence()):
        if step == 4:
            optimizer.learning_rate = 0.01
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected[-1], rtol=1e-5)


def test_defaults():
    optimizer = SGD()
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, False, None)


def test_negative_weight_decay_is_named():
    with pytest.raises(ValueError, match=r"`weight_decay`.*weight_decay=-0\.1"):
        SGD(weight_decay=-0.1)


def test_clipping_acts_before_the_decay():
    optimizer = SGD(1.0, 0.0, weight_decay=0.1, clipvalue=1.0)
    got = run(optimizer, np.full((2,), 2.0, "float32"), [np.array([10.0, -10.0], "float32")])
    np.testing.assert_allclose(got[0], [2 - (1 + 0.2), 2 - (-1 + 0.2)], rtol=1e-6)


def test_accumulated_gradients_are_one_step_of_their_mean():
    optimizer = SGD(0.1, 0.9, True, weight_decay=0.05, gradient_accumulation_steps=2)
    means = gradient_sequence().reshape(5, 2, 3, 4).mean(1)
    expected = reference(start(), means, rates(False), 0.9, True, 0.05)
    got = run(optimizer, start(), gradient_sequence())
    np.testing.assert_allclose(got[1::2], expected, rtol=1e-5, atol=1e-6)


def test_variables_of_a_model_each_have_their_velocity():
    optimizer = SGD(0.1, 0.9, weight_decay=0.05)
    variables = [keras.Variable(start()), keras.Variable(2 * start()[:1])]
    sequences = [gradient_sequence(), gradient_sequence()[::-1, :1]]
    for pair in zip(*sequences):
        optimizer.apply([keras.ops.convert_to_tensor(g.copy()) for g in pair], variables)
    for variable, sequence, first in zip(variables, sequences, (start(), 2 * start()[:1])):
        expected = reference(first, sequence, rates(False), 0.9, False, 0.05)[-1]
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "rate", [0.05, multi_step(0.1, [4]), WarmUp(0.1, 3)], ids=["number", "multi_step", "warm_up"]
)
def test_serialization_keeps_the_rule(rate):
    optimizer = SGD(rate, 0.8, True, weight_decay=0.02, clipnorm=5.0)
    copies = [
        SGD.from_config(optimizer.get_config()),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    ]
    expected = run(optimizer, start(), gradient_sequence())
    for copy in copies:
        assert type(copy) is SGD
        assert (copy.momentum, copy.nesterov, copy.weight_decay, copy.clipnorm) == (
            0.8,
            True,
            0.02,
            5.0,
        )
        np.testing.assert_array_equal(run(copy, start(), gradient_sequence()), expected)


# In a model: variables come wrapped otherwise than from `apply` outside of it.


def small_model(optimizer):
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, "tanh", kernel_initializer=keras.initializers.GlorotUniform(0)),
        keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1)),
    ]
    model = keras.Sequential(layers)
    for layer in model.layers:
        layer.bias.assign(np.ones(layer.bias.shape))
    model.compile(optimizer, "mse")
    return model


def images_and_labels():
    generator = np.random.default_rng(2)
    return generator.normal(size=(8, 4)).astype("float32"), generator.normal(size=(8, 3))


def train(model, steps):
    x, y = images_and_labels()
    model.fit(x, y, batch_size=8, epochs=steps, shuffle=False, verbose=0)
    return [w.copy() for w in model.get_weights()]


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_exclude_from_weight_decay(by):
    def trained(decay, exclude):
        model = small_model(SGD(0.1, 0.9, weight_decay=decay))
        biases = [layer.bias for layer in model.layers]
        if exclude:
            arguments = {"var_list": biases} if by == "var_list" else {"var_names": ["bias"]}
            model.optimizer.exclude_from_weight_decay(**arguments)
        return train(model, 1)

    plain, all_decayed, kernels_decayed = (
        trained(0.0, False),
        trained(0.1, False),
        trained(0.1, True),
    )
    for index, initial in enumerate(small_model("sgd").get_weights()):
        is_bias = initial.ndim == 1
        # The first step moves a decayed weight by rate · decay · weight further.
        decayed = plain[index] - 0.1 * 0.1 * initial
        np.testing.assert_allclose(all_decayed[index], decayed, rtol=1e-5, atol=1e-6)
        expected = plain[index] if is_bias else decayed
        np.testing.assert_allclose(kernels_decayed[index], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_training_continues_identically_from_a_file(tmp_path, nesterov):
    rate = multi_step(0.05, [4])
    model = small_model(SGD(rate, 0.9, nesterov, weight_decay=0.01))
    halfway = train(model, 3)
    model.save(tmp_path / "model.keras")
    expected = train(model, 3)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is SGD
    for got, want in zip(loaded.get_weights(), halfway):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(train(loaded, 3), expected):
        np.testing.assert_array_equal(got, want)
    straight = train(small_model(SGD(rate, 0.9, nesterov, weight_decay=0.01)), 6)
    for got, want in zip(straight, expected):
        np.testing.assert_array_equal(got, want)


@pytest.mark.torch
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("momentum,nesterov", [(0.9, False), (0.9, True), (0.0, False)])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_equals_pytorch(momentum, nesterov, decay, dropping):
    import torch

    weights = torch.nn.Parameter(torch.tensor(start()))
    theirs = torch.optim.SGD(
        [weights], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    path = []
    for gradient, rate in zip(gradient_sequence(), rates(dropping)):
        theirs.param_groups[0]["lr"] = rate
        weights.grad = torch.tensor(gradient)
        theirs.step()
        path.append(weights.detach().numpy().copy())
    ours = SGD(rate_argument(dropping), momentum, nesterov, weight_decay=decay)
    got = run(ours, start(), gradient_sequence())
    np.testing.assert_allclose(got, np.array(path), rtol=1e-5, atol=1e-6)
