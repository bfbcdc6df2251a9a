"""Recipes: the original papers' figures, and what is built of them."""

import dataclasses

import keras
import numpy as np
import pytest

from sd_keras import recipes
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
