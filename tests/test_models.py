"""Residual networks against a NumPy forward pass; exits and their errors."""

import math

import keras
import numpy as np
import pytest
from keras import layers
from test_losses import close, numpy

from sd_keras import SelfDistillModel, analysis, attach_exits, exit_names, methods, models, submodel


def parts(network):
    """All layers, those inside of bottlenecks too."""
    return [part for layer in network.layers for part in getattr(layer, "blocks", [layer])]


# The forward pass in NumPy.


def convolve(x, kernel, stride=1):
    """Convolution with `size // 2` zeros on every side."""
    size = len(kernel)
    pad = size // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.tensordot(windows, kernel, axes=((3, 4, 5), (2, 0, 1)))


def relu(x):
    return np.maximum(x, 0)


def normalized(x, weights):
    gamma, beta, mean, variance = weights
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


class Forward:
    """Inference in float64 from nothing but a network's weights, looked up by layer name."""

    def __init__(self, network):
        self.network = network
        self.weights = {
            layer.name: [w.astype("float64") for w in layer.get_weights()]
            for layer in network.layers
        }

    def conv_norm(self, x, name, stride=1):
        x = convolve(x, self.weights[f"{name}_conv"][0], stride)
        return normalized(x, self.weights[f"{name}_norm"])

    def block(self, x, name, stride):
        sizes = [f"{name}_{i}" for i in (1, 2, 3) if f"{name}_{i}_conv" in self.weights]
        strided = len(sizes) - 2  # the 3x3 of three, the first of two
        y = x
        for index, size in enumerate(sizes):
            y = self.conv_norm(y, size, stride if index == strided else 1)
            y = y if index == len(sizes) - 1 else relu(y)
        if f"{name}_shortcut_conv" in self.weights:
            x = self.conv_norm(x, f"{name}_shortcut", stride)
        else:
            x = x[:, ::stride, ::stride]
            x = np.pad(x, [(0, 0)] * 3 + [(0, y.shape[-1] - x.shape[-1])])
        return relu(y + x)

    def head(self, x, index):
        blocks = [b for b in self.network.get_layer(f"bottleneck_{index}").blocks if b.weights]
        for conv, norm in zip(blocks[::2], blocks[1::2]):
            kernel, bias = conv.get_weights()
            k, (n, height, width, channels) = len(kernel), x.shape
            x = x[:, : height // k * k, : width // k * k]
            x = x.reshape(n, height // k, k, width // k, k, channels)
            x = np.einsum("nhiwjc,ijcf->nhwf", x, kernel.astype("float64")) + bias
            x = relu(normalized(x, norm.get_weights()))
        return x

    def __call__(self, images, depths, stem, cuts, mean, std):
        """Returns logits and features of every exit; `cuts` are (stage, block) pairs."""
        x = (images / 255.0 - np.array(mean)) / np.array(std)
        x = relu(self.conv_norm(x, "stem", 2 if stem == "imagenet" else 1))
        if stem == "imagenet":
            x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])  # nothing is below 0 here
            x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
            x = x[:, ::2, ::2].max((4, 5))
        maps = []
        for stage, depth in enumerate(depths, start=1):
            for block in range(1, depth + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = self.block(x, f"group_{stage}_block_{block}", stride)
                if (stage, block) in cuts:
                    maps.append(x)
        maps = [self.head(m, index) for index, m in enumerate(maps, start=1)] + [x]
        outputs = {}
        for index, feature_map in enumerate(maps, start=1):
            features = feature_map.mean((1, 2))
            kernel, bias = self.weights[f"classifier_{index}"]
            outputs[f"exit_{index}"] = features @ kernel + bias
            outputs[f"features_{index}"] = features
        return outputs


def randomize(network, seed=0):
    """Gives every weight, moving statistics and biases too, a random value of fair size."""
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        shape = tuple(weight.shape)
        if weight.path.endswith(("gamma", "variance")):
            value = generator.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = generator.normal(size=shape) * math.sqrt(1.5 / math.prod(shape[:-1]))
        else:
            value = 0.3 * generator.normal(size=shape)
        weight.assign(value.astype("float32"))


def pictures(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype="uint8")


MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
FORWARD_CASES = {
    "shortcut A": (
        lambda: models.resnet20((16, 16, 3), mean=MEAN, std=STD),
        ((3, 3, 3), "cifar", {(1, 3), (2, 3), (3, 2)}),
        (16, 16),
    ),
    "resnet32": (
        lambda: models.resnet32((8, 12, 3), mean=MEAN, std=STD),
        ((5, 5, 5), "cifar", {(1, 5), (2, 5), (3, 3)}),
        (8, 12),
    ),
    "shortcut B": (
        lambda: models.resnet18((10, 14, 3), mean=MEAN, std=STD),
        ((2, 2, 2, 2), "cifar", {(1, 2), (2, 2), (3, 2)}),
        (10, 14),
    ),
    "bottleneck blocks, imagenet stem": (
        lambda: models.resnet(
            (32, 32, 3), "imagenet", (1, 2, 1), (8, 12, 16), expansion=4, mean=MEAN, std=STD
        ),
        ((1, 2, 1), "imagenet", {(1, 1), (2, 2)}),
        (32, 32),
    ),
}


@pytest.mark.parametrize("case", FORWARD_CASES)
def test_forward_equals_numpy(case):
    build, (depths, stem, cuts), size = FORWARD_CASES[case]
    network = attach_exits(build(), 5)
    randomize(network)
    images = pictures(2, *size, 3)
    expected = Forward(network)(images, depths, stem, cuts, MEAN, STD)
    got = network(images, training=False)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert np.abs(value).max() > 0.1
        close(got[name], value, 1e-3, 1e-3)


def test_trap_11_strides_pad_both_sides(network):
    """The stride-2 convolution sees a row of zeros above and left; "same" would not."""
    backbone = network[0]
    conv = backbone.get_layer("group_2_block_1_1_conv")
    before, after = backbone.get_layer("stage_1").output, conv.output
    x = np.random.default_rng(0).normal(size=(2, *before.shape[1:])).astype("float32")
    got = numpy(keras.Model(before, after)(x))
    close(got, convolve(x, conv.kernel.numpy(), 2), 1e-4, 1e-4)
    same = numpy(keras.ops.conv(x, conv.kernel, strides=2, padding="same"))
    assert same.shape == got.shape and np.abs(same - got).max() > 0.1


def test_trap_12_kernels_are_fan_out_untruncated_normal():
    keras.utils.set_random_seed(0)
    network = attach_exits(models.resnet18((8, 8, 3)), 50)
    kernels = [p.kernel.numpy() for p in parts(network) if isinstance(p, layers.Conv2D)]
    assert len(kernels) == 20 + 9
    for kernel in (k for k in kernels if k.size > 20_000):
        scaled = kernel / math.sqrt(2 / (kernel.shape[0] ** 2 * kernel.shape[-1]))
        np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=0.03)
        assert 0.04 < (np.abs(scaled) > 2).mean() < 0.051  # 4.55 % of a normal
        assert np.abs(scaled).max() > 3  # Keras's truncated normal ends at 2.27
    for index in (1, 2, 3, 4):
        kernel, bias = network.get_layer(f"classifier_{index}").get_weights()
        bound = 1 / math.sqrt(512)
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / math.sqrt(3), rtol=0.02)
        assert not bias.any()


# Input.


@pytest.fixture(scope="module")
def network():
    """A small backbone and its network with three exits, with random weights."""
    backbone = models.build("resnet8", (8, 8, 3), mean=MEAN, std=STD)
    whole = attach_exits(backbone, 5)
    randomize(whole)
    return backbone, whole


def outputs_of(network, images):
    return {name: numpy(value) for name, value in network(images, training=False).items()}


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_input_is_named_image(stem):
    backbone = models.build("resnet8", (32, 32, 3), stem)
    assert backbone.name == "resnet8"
    for model in (backbone, attach_exits(backbone, 3)):
        assert model.input.name == "image" and model.input_shape == backbone.input_shape
        inputs = [layer for layer in model.layers if isinstance(layer, layers.InputLayer)]
        assert [layer.name for layer in inputs] == ["image"]


@pytest.mark.parametrize(
    "mean,std,channels", [(0.5, 0.5, 1), (0.5, 0.5, 3), (MEAN, STD, 3), ((0.2,), 0.1, 3)]
)
def test_raw_pixels_are_normalised(mean, std, channels):
    backbone = models.build("resnet8", (8, 8, channels), mean=mean, std=std)
    layer = backbone.get_layer("normalize")
    images = pictures(4, 8, 8, channels)
    got = keras.Model(backbone.input, layer.output)(images)
    assert keras.backend.standardize_dtype(got.dtype) == "float32" and not layer.weights
    close(got, (images / 255.0 - np.array(mean)) / np.array(std), 1e-5, 1e-5)


def test_uint8_and_float_pixels_are_the_same(network):
    images = pictures(3, 8, 8, 3)
    for name, value in outputs_of(network[1], images).items():
        np.testing.assert_array_equal(value, outputs_of(network[1], images.astype("float32"))[name])


@pytest.mark.parametrize(
    "argument,value",
    [("mean", (0.5, 0.5)), ("std", (0.5, 0.5)), ("std", 0), ("std", (0.1, -0.1, 0.1))],
)
def test_bad_statistics_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}="):
        models.build("resnet8", **{argument: value})


def test_unknown_networks_and_stems_are_named_with_the_choices():
    with pytest.raises(ValueError, match=r"`name` must be one of.*'resnet110'.*name='resnet17'"):
        models.build("resnet17")
    with pytest.raises(ValueError, match=r"`stem`.*'cifar' or 'imagenet'.*stem='mnist'"):
        models.build("resnet8", stem="mnist")


# Exits.


def chain(sections, width=4):
    """A small backbone with many cut points."""
    x = image = keras.Input((8, 8, 1), name="image")
    for index in range(1, sections + 1):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"stage_{index}")(x)
    return keras.Model(image, x, name="chain")


def test_outputs_are_a_dict_by_name(network):
    whole = network[1]
    assert list(whole.output) == [
        *(f"exit_{i}" for i in (1, 2, 3)),
        *(f"features_{i}" for i in (1, 2, 3)),
    ]
    assert exit_names(whole) == ["exit_1", "exit_2", "exit_3"]
    got = outputs_of(whole, pictures(2, 8, 8, 3))
    for index in (1, 2, 3):
        assert got[f"exit_{index}"].shape == (2, 5) and got[f"features_{index}"].shape == (2, 64)
        kernel, bias = whole.get_layer(f"classifier_{index}").get_weights()
        close(got[f"exit_{index}"], got[f"features_{index}"] @ kernel + bias, 1e-4, 1e-4)


def test_no_shallow_exits(network):
    backbone = network[0]
    one = attach_exits(backbone, 7, at=[])
    assert set(one.output) == {"exit_1", "features_1"} and exit_names(one) == ["exit_1"]
    images = pictures(2, 8, 8, 3)
    pooled = numpy(backbone(images, training=False)).mean((1, 2))
    close(one(images, training=False)["features_1"], pooled, 1e-4, 1e-4)


def test_exits_at_named_layers(network):
    backbone, whole = network
    names = ["stem_relu", "stage_2"]
    got = attach_exits(backbone, 5, at=names)
    assert exit_names(got) == ["exit_1", "exit_2", "exit_3"]
    heads = [got.get_layer(f"bottleneck_{i}") for i in (1, 2)]
    taps = [backbone.get_layer(name).output.shape for name in names]
    assert [head.input.shape for head in heads] == taps == [(None, 8, 8, 16), (None, 4, 4, 32)]
    assert [(head.pool, head.filters) for head in heads] == [(4, 64), (2, 64)]
    assert [head.input is backbone.get_layer(n).output for head, n in zip(heads, names)] == [
        True
    ] * 2
    # The deepest exit and the backbone's weights are untouched.
    images = pictures(2, 8, 8, 3)
    deepest = [outputs_of(model, images)["features_3"] for model in (got, whole)]
    np.testing.assert_array_equal(*deepest)


def test_backbone_is_shared_not_copied(network):
    backbone, whole = network
    assert {id(w) for w in backbone.weights} <= {id(w) for w in whole.weights}


@pytest.mark.parametrize(
    "size,pools", [((8, 8, 3), (8, 4, 2)), ((10, 14, 3), (5, 2, 1)), ((32, 32, 3), (8, 4, 2))]
)
def test_heads_shrink_to_the_deepest_map(size, pools):
    """k = max(1, floor(size here / size of the deepest map))."""
    whole = attach_exits(models.resnet18(size), 5)
    heads = [whole.get_layer(f"bottleneck_{i}") for i in (1, 2, 3)]
    assert tuple(head.pool for head in heads) == pools
    assert {head.middle_filters for head in heads} == {128}
    assert {head.filters for head in heads} == {512}


def test_more_than_nine_exits_keep_their_order():
    whole = attach_exits(chain(12), 3)
    randomize(whole)
    assert exit_names(whole) == [f"exit_{i}" for i in range(1, 13)]
    images = pictures(2, 8, 8, 1)
    got = outputs_of(whole, images)
    for index in range(1, 12):
        tap = whole.get_layer(f"bottleneck_{index}").input
        assert tap is whole.get_layer(f"stage_{index}").output
    for index in range(1, 13):
        cut = submodel(whole, f"exit_{index}")
        np.testing.assert_array_equal(numpy(cut(images, training=False)), got[f"exit_{index}"])
        convolutions = [layer for layer in cut.layers if layer.name.startswith("stage")]
        assert len(convolutions) == index
    predicted = whole.predict(images, verbose=0)
    for name, value in got.items():
        np.testing.assert_allclose(predicted[name], value, rtol=1e-4, atol=1e-5)


def test_submodels_are_the_exits_and_hold_nothing_deeper(network):
    whole, images = network[1], pictures(3, 8, 8, 3)
    got = outputs_of(whole, images)
    shallow_heads = {f"{kind}_{i}" for i in (1, 2) for kind in ("bottleneck", "pool", "classifier")}
    deeper = {"exit_1": ("group_2", "group_3"), "exit_2": ("group_3",), "exit_3": ()}
    for index, (name, prefixes) in enumerate(deeper.items(), start=1):
        cut = submodel(whole, name)
        np.testing.assert_array_equal(numpy(cut(images, training=False)), got[name])
        names = {layer.name for layer in cut.layers}
        assert not [n for n in names if prefixes and n.startswith(prefixes)]
        others = {n for n in shallow_heads if not n.endswith(f"_{index}")}
        assert not names & others and f"classifier_{index}" in names
        assert cut.output_shape == (None, 5) and cut.input_shape == (None, 8, 8, 3)
        assert {id(w) for w in cut.weights} <= {id(w) for w in whole.weights}


@pytest.mark.parametrize("name", ["exit_0", "exit_4", "features_1", "deepest"])
def test_unknown_exits_are_named_with_the_choices(network, name):
    choices = r"\['exit_1', 'exit_2', 'exit_3'\]"
    with pytest.raises(ValueError, match=rf"`exit_name` must be one of {choices}.*'{name}'"):
        submodel(network[1], name)


def test_a_network_without_exits_is_named(network):
    for thing in (network[0], "resnet8", None):
        with pytest.raises(ValueError, match="`network` must be.*attach_exits"):
            exit_names(thing)


@pytest.mark.parametrize("at", [["stage_9"], ["stage_1", "pool_1"]])
def test_unknown_layers_are_named_with_the_choices(network, at):
    with pytest.raises(ValueError, match="`at` must name layers") as error:
        attach_exits(network[0], 5, at=at)
    message = str(error.value)
    assert all(name in message for name in ("stage_1", "stem_conv", "group_2_block_1_1_norm"))
    assert "'image'" not in message and f"at={list(at)!r}" in message


@pytest.mark.parametrize(
    "at,message",
    [
        ("stage_1", "be a list of names"),
        (["stage_2", "stage_1"], "from shallow to deep"),
        (["stage_1", "stage_1"], "different layers"),
        (["stage_1", "stage_3"], "before the backbone's last"),
    ],
)
def test_exits_stand_at_different_layers_in_order(network, at, message):
    with pytest.raises(ValueError, match=f"`at` must.*{message}"):
        attach_exits(network[0], 5, at=at)


def test_layers_without_a_feature_map_are_refused():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name="stage_1")(image)
    gate = layers.Dense(4, name="gate")(layers.GlobalAveragePooling2D(name="squeeze")(x))
    x = layers.Multiply(name="stage_2")([x, layers.Reshape((1, 1, 4), name="spread")(gate)])
    backbone = keras.Model(image, x)
    for name in ("squeeze", "gate"):
        with pytest.raises(ValueError, match=rf"`at`.*'{name}' is none") as error:
            attach_exits(backbone, 3, at=[name])
        assert "'stage_1'" in str(error.value).partition("Received")[0]
    assert exit_names(attach_exits(backbone, 3)) == ["exit_1", "exit_2"]


def test_a_backbone_of_one_resolution_needs_places():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", name="first")(image)
    backbone = keras.Model(image, layers.Conv2D(4, 3, padding="same", name="last")(x))
    with pytest.raises(ValueError, match=r"`at` must tell where.*at=None.*\['first'\]"):
        attach_exits(backbone, 3)
    assert exit_names(attach_exits(backbone, 3, at=["first"])) == ["exit_1", "exit_2"]
    assert exit_names(attach_exits(backbone, 3, at=2)) == ["exit_1", "exit_2"]


@pytest.mark.parametrize("classes", [1, 0, -3, 2.0, "ten", None])
def test_bad_numbers_of_classes_are_named(network, classes):
    with pytest.raises(ValueError, match=rf"`num_classes`.*Received: num_classes={classes!r}"):
        attach_exits(network[0], classes)


def test_unknown_bottlenecks_are_named(network):
    with pytest.raises(ValueError, match=r"`bottleneck`.*'scala'.*bottleneck='deep'"):
        attach_exits(network[0], 5, bottleneck="deep")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def pooled_backbone():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))


def two_outputs():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3)(image)
    return keras.Model(image, [x, layers.ReLU()(x)])


def unknown_size():
    image = keras.Input((None, None, 1))
    return keras.Model(image, layers.Conv2D(4, 3)(image))


@pytest.mark.parametrize(
    "backbone,message",
    [
        (lambda: None, "functional keras.Model.*NoneType"),
        (Subclassed, "functional keras.Model.*Subclassed"),
        (pooled_backbone, "one feature map"),
        (two_outputs, "one feature map"),
        (unknown_size, "known size"),
    ],
)
def test_backbones_of_the_wrong_kind_are_named(backbone, message):
    with pytest.raises(ValueError, match=f"`backbone` must.*{message}"):
        attach_exits(backbone(), 3, at=[])


# Files and precision.


@pytest.mark.parametrize("kind", ["resnet8", "resnet18 imagenet", "chain"])
def test_saved_networks_give_the_same_bits(kind, network, tmp_path):
    if kind == "resnet8":
        whole, images = network[1], pictures(3, 8, 8, 3)
    elif kind == "chain":
        whole, images = attach_exits(chain(11), 3), pictures(3, 8, 8, 1)
    else:
        small = models.resnet(
            (32, 32, 3), "imagenet", (1, 1), (8, 16), 4, mean=MEAN, std=STD, name="small"
        )
        whole, images = attach_exits(small, 5), pictures(3, 32, 32, 3)
    if kind != "resnet8":
        randomize(whole)
    whole.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert exit_names(loaded) == exit_names(whole) and loaded.name == whole.name
    assert analysis.costs(loaded) == analysis.costs(whole)
    want, got = outputs_of(whole, images), outputs_of(loaded, images)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


@pytest.fixture
def mixed_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_trap_14_logits_and_losses_are_float32_in_mixed_precision(mixed_bfloat16):
    whole = attach_exits(models.build("resnet8", (8, 8, 3)), 5)
    dtypes = {name: keras.backend.standardize_dtype(t.dtype) for name, t in whole.output.items()}
    assert {dtypes[name] for name in exit_names(whole)} == {"float32"}
    assert dtypes["features_1"] == dtypes["features_3"] == "bfloat16"
    assert whole.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert whole.get_layer("normalize").compute_dtype == "float32"
    for index in (1, 2, 3):
        dense = whole.get_layer(f"classifier_{index}")
        assert dense.compute_dtype == dense.variable_dtype == "float32"
    images, labels = pictures(4, 8, 8, 3), np.array([0, 1, 2, 3])
    method = methods.be_your_own_teacher() + methods.data_distortion(exits="all")
    model = SelfDistillModel(whole, method)
    model.compile("sgd")
    views = model((images.astype("float32"), images[:, ::-1].astype("float32")), training=True)
    for objective in method.objectives:
        values = objective.call(labels, views)
        assert keras.backend.standardize_dtype(values.dtype) == "float32"
        assert np.isfinite(numpy(values)).all()
    total = model.compute_loss(y=labels, y_pred=views)
    assert keras.backend.standardize_dtype(total.dtype) == "float32"
