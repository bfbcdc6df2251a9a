"""Exits inside what a backbone holds as one layer: nested models, layers that chain others."""

import keras
import numpy as np
import pytest
from keras import layers
from test_foreign_models import SHRINKS, around, check, plain, taps
from test_losses import numpy
from test_models import pictures

from sd_keras import analysis, attach_exits, exit_names, models


@pytest.mark.parametrize(
    "build",
    [
        lambda inner: around(inner),
        lambda inner: around(around(inner, "middle")),
        lambda inner: keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(0.1), inner]),
        lambda inner: keras.Sequential([keras.Input((16, 16, 3)), keras.Sequential([inner])]),
    ],
)
@pytest.mark.parametrize("at,expected", [(None, SHRINKS), (["relu_1", "conv_3"],) * 2, ([], [])])
def test_nested_models(build, at, expected):
    inner = plain()
    outer, images = build(inner), pictures(2, 16, 16, 3).astype("float32")
    before = numpy(inner(images, training=False)), numpy(outer(images, training=False))
    network = attach_exits(outer, 5, at=at)
    assert taps(network) == expected
    check(outer, network, images)
    # The nested model and the outer one go on as they were.
    after = numpy(inner(images, training=False)), numpy(outer(images, training=False))
    for pair in zip(before, after):
        np.testing.assert_array_equal(*pair)
    assert inner.get_layer("relu_2").output.shape == (None, 8, 8, 12)
    assert exit_names(attach_exits(inner, 5)) == ["exit_1", "exit_2", "exit_3", "exit_4"]


def test_nested_models_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    outer = around(plain())
    network = attach_exits(outer, 5)
    check(outer, network, pictures(2, 16, 16, 3).astype("float32"))


def test_nested_models_of_the_library():
    outer = around(models.resnet8((8, 8, 3)))
    assert taps(attach_exits(outer, 5)) == ["stage_1", "stage_2"]


def test_names_outside_and_inside():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(3, 3, padding="same", name="conv_2")(image)
    outer = keras.Model(image, plain()(x), name="outer")
    with pytest.raises(ValueError, match=r"`backbone` must have no two.*'outer'.*\['conv_2'\]"):
        attach_exits(outer, 5)
    # Where no exit stands inside, nothing is opened.
    assert taps(attach_exits(outer, 5, at=["conv_2"])) == ["conv_2"]


@keras.saving.register_keras_serializable("test_opened_models")
class Chain(layers.Layer):
    """A layer that chains others, with a sum that Keras names by itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(4, 3, padding="same", name="first")
        self.second = layers.Conv2D(4, 3, padding="same", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def call(self, inputs):
        x = self.first(inputs)
        return x + self.second(x)


def test_sums_that_opening_makes_have_names_of_their_own(tmp_path):
    """Keras counts from `add` again after clear_session and in a new process."""
    image = keras.Input((8, 8, 3))
    keras.utils.clear_session()
    backbone = keras.Model(image, Chain(name="chain")(image + image))
    keras.utils.clear_session()
    network = attach_exits(backbone, 5, at=["first"])
    assert taps(network) == ["first"]
    check(backbone, network, pictures(2, 8, 8, 3).astype("float32"))
    network.save(tmp_path / "network.keras")
    keras.saving.load_model(tmp_path / "network.keras")


@pytest.mark.parametrize("form", ["dict", "list", "dict of a list"])
def test_inputs_of_a_nested_model_go_by_name(form):
    """Both have one shape, so that a mix-up would not be noticed by the layers."""
    first, second = keras.Input((8, 8, 3), name="z"), keras.Input((8, 8, 3), name="a")
    maps = [layers.Conv2D(n, 3, name=f"inner_{n}")(x) for n, x in ((4, first), (8, second))]
    own = {"z": first, "a": second} if form == "dict" else [first, second]
    inner = keras.Model(own, layers.Concatenate(name="joined")(maps))
    image = keras.Input((8, 8, 3))
    bright = layers.Rescaling(5.0)(image)
    given = [image, bright] if form == "list" else {"a": bright, "z": image}
    outer = keras.Model(image, layers.Conv2D(4, 3, name="last")(inner(given)))
    network = attach_exits(outer, 5, at=["joined"])
    check(outer, network, pictures(2, 8, 8, 3).astype("float32"))
    whole = analysis.costs(outer)["network"]["macs"]
    assert whole == 36 * 27 * 12 + 16 * 9 * 12 * 4


def test_a_nested_model_casts_its_inputs():
    image = keras.Input((16, 16, 3), dtype="uint8")
    outer = keras.Model(image, plain()(image))
    network = attach_exits(outer, 5)
    assert taps(network) == SHRINKS
    check(outer, network, pictures(2, 16, 16, 3))


class Amplified(keras.Model):
    """A functional model that does more than its graph."""

    def __init__(self, image, output):
        super().__init__(image, output)
        self.extra = layers.Conv2D(2, 1, name="extra")

    def call(self, inputs):
        return self.extra(super().call(inputs))


def test_a_nested_model_with_a_call_of_its_own_stays_closed():
    image, inner_image = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    inner = Amplified(inner_image, layers.Conv2D(2, 3, name="inside")(inner_image))
    outer = keras.Model(image, layers.Conv2D(4, 3, name="last")(inner(image)))
    network = attach_exits(outer, 5, at=[inner.name])
    check(outer, network, pictures(2, 8, 8, 3).astype("float32"))
    own = 36 * 27 * 2 + 36 * 2 * 2
    assert analysis.costs(outer)["network"]["macs"] == own + 16 * 18 * 4
    with pytest.raises(ValueError, match="`at` must name layers.*'inside' is none"):
        attach_exits(outer, 5, at=["inside"])


def hidden(inputs=(16, 16, 3)):
    """A model that ends in a hidden Dense layer, its convolutions named."""
    x = image = keras.Input(inputs)
    for index in (1, 2):
        x = layers.Conv2D(4, 3, strides=2, activation="relu", name=f"inner_{index}")(x)
    return keras.Model(image, layers.Dense(6, "relu", name="hidden")(layers.Flatten()(x)))


@pytest.mark.parametrize("at,count", [(None, 2), ([], 1), (1, 1), (2, 2), (["inner_1"], 2)])
def test_hidden_dense_layers_within_a_nested_model(at, count):
    outer = around(hidden())
    network = attach_exits(outer, 5, at=at)
    assert len(exit_names(network)) == count
    images = pictures(2, 16, 16, 3).astype("float32")
    deepest = network(images, training=False)[f"features_{count}"]
    np.testing.assert_array_equal(numpy(deepest), numpy(outer(images, training=False)))


@pytest.mark.parametrize("end,raw", [("relu", False), (None, True)])
def test_what_a_nested_model_ends_in_is_looked_at(end, raw):
    image, inner_image = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation=end, name="inside")(inner_image)
    inner = keras.Model(inner_image, layers.Identity()(x), name="inner")
    outer = keras.Model(image, layers.Conv2D(4, 3, name="last")(inner(image)))
    for at in ("inner", "inside"):
        head = attach_exits(outer, 5, at=[at]).get_layer("bottleneck_1")
        assert head.preactivation is raw


class Noisy(layers.Layer):
    """Chains layers, and in training does more: noise of its own, or another layer."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.inside = layers.Conv2D(8, 3, padding="same", name="inside")
        self.drop = layers.Dropout(0.5, seed=1)
        if kind == "noise":
            self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        x = self.inside(inputs)
        if self.kind == "dropout":
            return self.drop(x, training=training)
        if self.kind == "sum":  # Keras names it anew each time
            return x + self.drop(x, training=training)
        if not training:
            return x
        return self.drop(x, training=True) if self.kind == "branch" else self.noise(x)

    def noise(self, x):
        return keras.random.dropout(x, 0.5, seed=self.seed_generator)


@pytest.mark.parametrize("kind", ["dropout", "sum", "branch", "noise"])
@pytest.mark.parametrize("at", [["inside"], None, [0.5]])
def test_dropout_stays_at_work(kind, at):
    """Opened where the graph can tell; else closed, and refused where opening is asked for."""
    image = keras.Input((8, 8, 3))
    x = layers.MaxPooling2D(2, name="shrink")(Noisy(kind, name="noisy")(image))
    backbone = keras.Model(image, layers.Conv2D(4, 3, name="last")(x))
    if at == ["inside"] and kind in ("branch", "noise"):
        with pytest.raises(ValueError, match="`at` must name no layer inside.*'noisy' of type"):
            attach_exits(backbone, 5, at=at)
        return
    network = attach_exits(backbone, 5, at=at)
    images = pictures(2, 8, 8, 3).astype("float32")
    check(backbone, network, images)
    first, second = (numpy(network(images, training=True)["exit_2"]) for _ in range(2))
    assert np.abs(first - second).max() > 0
