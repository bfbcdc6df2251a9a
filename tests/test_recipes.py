"""Recipes: the original papers' figures, and what is built of them."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import tiny_network

from sd_keras import SelfDistillModel, methods, recipes
from sd_keras.recipes import RECIPES


def rates(recipe, steps, epochs):
    rate = recipe.rate(steps)
    at = [round(epoch * steps) for epoch in epochs]
    return [float(rate(step)) if callable(rate) else rate for step in at]


@pytest.mark.parametrize(
    "name, epochs, expected",
    [
        ("resnet", (0, 29.9, 30, 59.9, 60, 89.9), (0.1, 0.1, 0.01, 0.01, 0.001, 0.001)),
        ("vgg", (0, 30, 60), (0.1, 0.01, 0.001)),
        ("alexnet", (0, 20, 40, 60, 80), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)),
        ("modern", (0, 2.5, 5, 50, 100), (0, 0.0625 * 0.99845867, 0.125 * 0.99384417, 0.0625, 0)),
    ],
)
def test_learning_rates_over_the_epochs(name, epochs, expected):
    """Drops every 30 or 20 epochs; of the cosine 0.9938 is left at epoch 5 of 100."""
    np.testing.assert_allclose(rates(RECIPES[name], 5000, epochs), expected, rtol=1e-5, atol=1e-9)


def test_a_short_run_warms_up_for_a_tenth_of_it():
    recipe = dataclasses.replace(RECIPES["modern"], epochs=10)
    # Half of the rise, the top of it, and the cosine's middle.
    expected = (0.0625 * 0.99384417, 0.125 * 0.97552826, 0.0625)
    np.testing.assert_allclose(rates(recipe, 100, (0.5, 1, 5)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_optimizer_has_the_recipes_figures(name):
    recipe = RECIPES[name]
    optimizer = recipe.optimizer(5000)
    assert (optimizer.momentum, optimizer.nesterov) == (recipe.momentum, recipe.nesterov)
    assert optimizer.weight_decay == recipe.weight_decay
    assert optimizer.gradient_accumulation_steps is None
    assert optimizer.use_ema == bool(recipe.ema_epochs)
    if recipe.ema_epochs:
        np.testing.assert_allclose(optimizer.ema_momentum, 1 - 1 / 10_000)
    accumulating = recipe.optimizer(5000, accumulate=5)
    assert accumulating.gradient_accumulation_steps == 5
    # Keras's schedules count batches, whether or not each is an update.
    accumulating.build([])
    for epoch in (3, 31, 61):
        accumulating._iterations.assign(epoch * 5000)
        expected = rates(recipe, 5000, (epoch,))[0]
        np.testing.assert_allclose(float(accumulating.learning_rate), expected, rtol=1e-5)


def test_weight_decay_of_the_papers():
    decays = {name: recipe.weight_decay for name, recipe in RECIPES.items()}
    assert decays == {"resnet": 1e-4, "vgg": 1e-4, "alexnet": 5e-4, "modern": 5e-5}
    assert RECIPES["alexnet"].image_size == 227
    assert {recipe.batch_size for recipe in RECIPES.values()} == {256}


def test_parts_are_there_where_the_recipe_has_them():
    plain, modern = RECIPES["resnet"], RECIPES["modern"]
    assert plain.loss() is plain.mixing(0) is plain.distortion(0) is None
    assert modern.loss().label_smoothing == 0.1
    assert (modern.mixing(3).mixup, modern.mixing(3).seed) == (0.2, 3)
    assert isinstance(modern.distortion(0), keras.layers.RandAugment)
    short = dataclasses.replace(plain, epochs=1)
    assert [float(short.rate(1)(step)) for step in (0, 1)] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize(
    "network, recipe",
    [
        ("resnet50", "resnet"),
        ("vgg19_bn", "vgg"),
        ("alexnet", "alexnet"),
        ("densenet100_12", "resnet"),
    ],
)
def test_networks_own_recipes(network, recipe):
    assert recipes.of_network(network) == recipe


@pytest.mark.large
def test_the_modern_recipe_trains():
    """Everything of it together, with both methods: mixing, RandAugment, averages, warm-up."""
    recipe = dataclasses.replace(RECIPES["modern"], epochs=16, ema_epochs=1.0)
    labels = np.arange(32) % 4
    noise = np.random.default_rng(0).integers(0, 40, (32, 16, 16, 3))
    images = (noise + 60 * labels[:, None, None, None]).astype("uint8")
    network = tiny_network(input_shape=(16, 16, 3))
    both = methods.be_your_own_teacher() + methods.data_distortion()
    model = SelfDistillModel(network, both, recipe.distortion(0), recipe.mixing(0))
    model.compile(recipe.optimizer(4), loss=recipe.loss(), weighted_metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=8, epochs=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # Keras leaves the averages of the weights in the network.
    averages = model.optimizer._model_variables_moving_average
    for weight, average in zip(network.trainable_weights, averages, strict=True):
        np.testing.assert_array_equal(weight, average)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    # Chance is 0.25; with other draws exits reach 0.75 to 1.
    assert min(found["exit_1_accuracy"], found["exit_2_accuracy"]) >= 0.75
