"""Networks rewritten in Keras's own layers, as they train and folded for inference."""

import keras
import numpy as np
import pytest
from conftest import tiny_network
from keras import layers
from test_losses import numpy
from test_models import pictures, randomize

import sd_keras
from sd_keras import attach_exits, graph, models, submodel
from sd_keras.models import stock

SHAPE = (8, 8, 3)
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


def every_own_layer():
    """A body with each layer of sd_keras that the small networks lack."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="normalize")(image)
    x = sd_keras.layers.Conv2D(4, 3, name="first")(x)
    x = sd_keras.layers.LocalResponseNormalization(alpha=0.5, name="response")(x)
    x = sd_keras.layers.GroupConv2D(8, 3, groups=2, name="groups")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = sd_keras.layers.BatchNormalization(name="norm")(x)
    x = sd_keras.layers.IdentityShortcut(12, 2, name="shortcut")(x)
    return keras.Model(image, layers.ReLU(name="stage_1")(x), name="every_own_layer")


# A body, and by how many numbers folding makes its network smaller: 3 per channel of a
# normalisation whose convolution has no bias, 4 where it has one, as in the bottlenecks
# (128, 128 and as many channels as the features).
FAMILIES = {
    "resnet": (
        lambda: models.resnet(SHAPE, "cifar", (1, 1), (4, 8), shortcut="A"),
        3 * (3 * 4 + 2 * 8) + 4 * (256 + 8),
    ),
    "resnext": (
        lambda: models.resnet(SHAPE, "cifar", (1, 1), (4, 8), 4, inner_width=2, groups=2),
        3 * (4 + (8 + 8 + 16 + 16) + (16 + 16 + 32 + 32)) + 4 * (256 + 32),
    ),
    # The first normalisation of a block stands behind a sum.
    "preact_resnet": (
        lambda: models.preact_resnet(SHAPE, (1, 1), (4, 8), 4),
        3 * (4 + 8) + 4 * (256 + 8),
    ),
    "densenet": (
        lambda: models.densenet(SHAPE, 10, 4, bc=True),
        3 * (3 * 16) + 4 * 2 * (256 + 9),
    ),
    "pyramidnet": (
        lambda: models.pyramidnet(SHAPE, 1, 8),
        3 * (16 + 6 * (18 + 21 + 24)) + 4 * 2 * (256 + 96),
    ),
    "vgg": (
        lambda: models.vgg((32, 32, 3), (1, 1, 1, 1, 1)),
        4 * (64 + 128 + 256 + 512 + 512) + 4 * 3 * (256 + 512),
    ),
    "every_own_layer": (every_own_layer, 4 * 8),
}


def answers(network, images):
    return keras.tree.map_structure(numpy, network(images, training=False))


def agree(got, want, tolerance):
    """Checks that two answers have one structure and differ by at most a share of the largest."""
    assert list(got) == list(want)
    for name, value in want.items():
        size = np.abs(value).max()
        assert got[name].dtype == value.dtype and np.isfinite(size)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * size, err_msg=name)


def packages_of(model):
    return {type(operation).__module__.partition(".")[0] for operation in model.operations}


def unfolded(model):
    """The normalisations right behind a convolution that nothing else reads."""
    nodes = graph.nodes_of(model)
    read = [id(tensor) for node in nodes for tensor in node.input_tensors]
    found = []
    for node in nodes:
        if isinstance(node.operation, layers.BatchNormalization):
            (tensor,) = node.input_tensors
            maker = tensor._keras_history.operation
            if isinstance(maker, CONVOLUTIONS) and read.count(id(tensor)) == 1:
                found.append(node.operation.name)
    return found


def check(network, fall=None, rounding=1):
    """What holds for every network; returns its stock and its folded form.

    `rounding` is by how much the network amplifies the rounding of its first layers.
    """
    randomize(network)
    images = pictures(2, *network.input_shape[1:])
    want = answers(network, images)
    plain, folded = stock(network), stock(network, fold=True)
    agree(answers(plain, images), want, 1e-5 * rounding)
    agree(answers(folded, images), want, 1e-4 * rounding)
    for model in (plain, folded):
        assert packages_of(model) == {"keras"}
        assert model.name == network.name and model.input_shape == network.input_shape
        names = {layer.name for layer in model.layers}
        heads = ("stage", "bottleneck", "pool", "classifier", "image", "normalize")
        kept = [layer for layer in network.layers if layer.name.startswith(heads)]
        if model is folded:
            kept = [layer for layer in kept if not isinstance(layer, layers.Dropout)]
        assert {layer.name for layer in kept} <= names
    assert plain.count_params() == network.count_params()
    assert not unfolded(folded)
    if fall is not None:
        assert folded.count_params() == network.count_params() - fall
    return plain, folded


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    build, fall = FAMILIES[family]
    at = [] if family == "every_own_layer" else None
    check(attach_exits(build(), 5, at=at), fall)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_every_network(name):
    check(attach_exits(models.build(name), 5))


@pytest.mark.large
@pytest.mark.parametrize("name", ["ResNet50V2", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"])
def test_applications(name):
    body = getattr(keras.applications, name)
    network = attach_exits(body(weights=None, include_top=False, input_shape=(32, 32, 3)), 5)
    # With AVX-512 kernels the first exit of EfficientNetB0 differs by 4e-4 of its largest logit.
    check(network, rounding=100 if name == "EfficientNetB0" else 1)


@pytest.mark.large
def test_keras_hub():
    keras_hub = pytest.importorskip("keras_hub")
    body = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 16], [1, 1], [1, 2], "basic_block", image_shape=(32, 32, 3)
    )
    check(attach_exits(body, 5))


def test_values_that_nothing_rearranges_keep_their_bits():
    image = keras.Input(SHAPE)
    x = sd_keras.layers.LocalResponseNormalization()(layers.Rescaling(1 / 255)(image))
    x = sd_keras.layers.IdentityShortcut(8, 2)(sd_keras.layers.Conv2D(4, 3)(x))
    network = keras.Model(image, sd_keras.layers.PatchConv2D(4, 3)(x))
    images = pictures(2, *SHAPE)
    np.testing.assert_array_equal(answers(stock(network), images), answers(network, images))


def test_variables_are_not_shared():
    network = tiny_network()
    copies = stock(network), stock(network, fold=True)
    before = [numpy(w).copy() for w in network.weights]
    for copy in copies:
        for weight in copy.weights:
            weight.assign(weight + 1)
    assert all((numpy(w) == old).all() for w, old in zip(network.weights, before))


def test_one_exit_alone():
    network = tiny_network()
    randomize(network)
    one, images = submodel(network, "exit_1"), pictures(2, 8, 8, 1)
    folded = stock(one, fold=True)
    np.testing.assert_allclose(answers(folded, images), answers(one, images), rtol=1e-4, atol=1e-5)


def test_frozen_layers_stay_frozen():
    network = tiny_network()
    network.get_layer("bottleneck_1").trainable = False
    network.get_layer("stem_conv").trainable = False
    rewritten = stock(network)
    assert len(rewritten.trainable_weights) == len(network.trainable_weights)
    assert not rewritten.get_layer("bottleneck_1_conv_2").trainable


# What can be folded and what cannot.


def norm(**options):
    return layers.BatchNormalization(**options)


def twice(layer, x):
    return layer(layer(x))


CASES = {
    "no bias": (0, lambda x: norm()(layers.Conv2D(4, 3, use_bias=False)(x))),
    "bias": (0, lambda x: norm()(layers.Conv2D(4, 3, bias_initializer="ones")(x))),
    "no scale": (0, lambda x: norm(scale=False)(layers.Conv2D(4, 3)(x))),
    "no offset": (0, lambda x: norm(center=False)(layers.Conv2D(4, 3)(x))),
    "groups": (0, lambda x: norm()(layers.Conv2D(6, 3, groups=3)(x))),
    "depthwise": (0, lambda x: norm()(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))),
    "separable": (0, lambda x: norm()(layers.SeparableConv2D(4, 3, depth_multiplier=2)(x))),
    "dense": (0, lambda x: norm()(layers.Dense(4)(x))),
    "one dimension": (0, lambda x: norm()(layers.Conv1D(4, 3)(layers.Reshape((64, 3))(x)))),
    "dropout between": (0, lambda x: norm()(layers.Dropout(0.5)(layers.Conv2D(4, 3)(x)))),
    "regularized": (0, lambda x: norm()(layers.Conv2D(4, 3, kernel_regularizer="l2")(x))),
    "activation": (1, lambda x: norm()(layers.Conv2D(4, 3, activation="relu")(x))),
    "another axis": (1, lambda x: norm(axis=1)(layers.Conv2D(4, 3)(x))),
    "padding between": (1, lambda x: norm()(layers.ZeroPadding2D()(layers.Conv2D(4, 3)(x)))),
    "in front": (1, lambda x: layers.Conv2D(4, 3)(norm()(x))),
    "shared convolution": (1, lambda x: norm()(twice(layers.Conv2D(3, 3), x))),
    "shared normalisation": (1, lambda x: twice(norm(), layers.Conv2D(3, 3)(x))),
}


@pytest.mark.parametrize("case", CASES)
def test_what_can_be_folded(case):
    left, build = CASES[case]
    image = keras.Input(SHAPE)
    network = keras.Model(image, build(image))
    randomize(network)
    images = pictures(2, *SHAPE).astype("float32") / 255
    folded = stock(network, fold=True)
    names = [type(layer).__name__ for layer in folded.layers]
    assert names.count("BatchNormalization") == left and "Dropout" not in names
    want = answers(network, images)
    error = np.abs(answers(folded, images) - want).max() / np.abs(want).max()
    assert error < 1e-5


@pytest.mark.parametrize("read_by", ["an output", "another layer"])
def test_what_others_read_is_not_folded(read_by):
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3)(image)
    other = x if read_by == "an output" else layers.ReLU()(x)
    network = keras.Model(image, {"a": norm()(x), "b": other})
    randomize(network)
    images = pictures(2, *SHAPE).astype("float32") / 255
    folded = stock(network, fold=True)
    assert folded.count_params() == network.count_params()
    agree(answers(folded, images), answers(network, images), 1e-5)


# Models within models, layers called twice, precision.


def test_nested_models_are_laid_open():
    inner = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inner)
    body = keras.Model(inner, norm()(x), name="body")
    chain = keras.Sequential([layers.Conv2D(4, 3, padding="same", name="conv"), norm()])
    image = keras.Input(SHAPE, name="image")
    x = chain(image)
    network = keras.Model(image, keras.ops.add(body(body(x)), x))
    randomize(network)
    images = pictures(2, *SHAPE).astype("float32") / 255
    plain, folded = stock(network), stock(network, fold=True)
    names = [layer.name for layer in plain.layers]
    assert names.count("conv") == 1 and names.count("conv_2") == 1
    assert len(plain.weights) == len(network.weights)  # what is shared stays so
    want = answers(network, images)
    np.testing.assert_allclose(answers(plain, images), want, rtol=1e-5, atol=1e-5)
    # The body is called twice, the chain once.
    assert sum(isinstance(layer, layers.BatchNormalization) for layer in folded.layers) == 1
    np.testing.assert_allclose(answers(folded, images), want, rtol=1e-4, atol=1e-4)


def test_inputs_keep_names_types_and_structure():
    inputs = {
        "a": keras.Input((4,), name="a", dtype="int32"),
        "b": keras.Input((4,), name="b", batch_size=2),
    }
    network = keras.Model(inputs, [layers.Dense(2)(keras.ops.cast(inputs["a"], "float32"))])
    network = keras.Model(inputs, [network.outputs[0], layers.Dense(3)(inputs["b"])])
    rewritten = stock(network, fold=True)
    assert [t.name for t in rewritten.inputs] == ["a", "b"]
    assert [(t.shape, t.dtype) for t in rewritten.inputs] == [
        (t.shape, t.dtype) for t in network.inputs
    ]
    data = {"a": np.ones((2, 4), "int32"), "b": np.ones((2, 4), "float32")}
    for got, want in zip(rewritten(data), network(data)):
        np.testing.assert_array_equal(numpy(got), numpy(want))


def test_statistics_of_a_normalization_layer_are_kept():
    image = keras.Input(SHAPE)
    layer = layers.Normalization()
    images = pictures(8, *SHAPE)
    layer.adapt(images.astype("float32"))
    network = keras.Model(image, layer(image))
    np.testing.assert_array_equal(answers(stock(network), images), answers(network, images))


def test_mixed_precision_is_kept_and_folds_into_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = attach_exits(every_own_layer(), 5, at=[])
    keras.config.set_dtype_policy("float32")
    randomize(network)
    plain, folded = stock(network), stock(network, fold=True)
    images = pictures(2, *SHAPE)
    want = answers(network, images)
    agree(answers(plain, images), want, 0.02)
    assert plain.get_layer("groups").compute_dtype == "bfloat16"
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}
    got = answers(folded, images)
    assert {value.dtype.name for value in got.values()} == {"float32"}
    np.testing.assert_allclose(got["exit_1"], want["exit_1"], atol=0.05)


# What is refused.


class Doubling(layers.Layer):
    """A layer of somebody's own."""

    def call(self, inputs):
        return 2 * inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def doubled(x):
    return 2 * x


@keras.saving.register_keras_serializable(package="test_stock")
def tripled(x):
    return 3 * x


@pytest.mark.parametrize(
    "layer,needs",
    [
        (lambda: Doubling(name="own"), "test_stock.Doubling, which needs .'test_stock'"),
        (lambda: layers.Dense(3, activation=tripled, name="own"), "needs .'test_stock.tripled'"),
        (lambda: layers.TimeDistributed(Doubling(), name="own"), "which needs .'test_stock'"),
    ],
)
def test_layers_and_functions_of_others_are_refused(layer, needs):
    image = keras.Input(SHAPE)
    network = keras.Model(image, layer()(image))
    with pytest.raises(ValueError, match=f"`network` must consist of.*layer 'own'.*{needs}"):
        stock(network)
    with keras.saving.custom_object_scope({"Doubling": Doubling}):
        rewritten = stock(network, packages=["test_stock"])
    images = pictures(1, *SHAPE)
    np.testing.assert_array_equal(answers(rewritten, images), answers(network, images))


def test_functions_that_no_package_registered_are_refused():
    image = keras.Input(SHAPE)
    network = keras.Model(image, layers.Dense(3, activation=doubled, name="own")(image))
    with pytest.raises(ValueError, match="layer 'own' of type.*Dense, which needs .*'doubled'"):
        stock(network, packages=["test_stock"])


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_lambdas_are_refused():
    image = keras.Input(SHAPE)
    network = keras.Model(image, layers.Lambda(lambda x: 2 * x, name="own")(image))
    with pytest.raises(ValueError, match="layer 'own' of type.*Lambda, which needs .'a lambda'"):
        stock(network)


def test_models_without_a_graph_are_refused():
    model = sd_keras.SelfDistillModel(tiny_network(at=[]))
    with pytest.raises(ValueError, match="`network` must be a functional.*SelfDistillModel"):
        stock(model)
