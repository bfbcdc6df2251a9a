"""The grouped convolution against Keras's own, AlexNet's normalisation against TensorFlow's."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_layers import ON_TENSORFLOW, give, reload, same_weights
from test_losses import close, gradients, normal, numpy

from sd_keras.layers import BatchNormalization, GroupConv2D, LocalResponseNormalization

needs_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras's own layer elsewhere")

# The convolution in groups.

SHAPE, FILTERS, GROUPS = (2, 7, 6, 8), 12, 4
GEOMETRIES = [
    {"kernel_size": 3, "strides": strides, "padding": padding}
    for strides in (1, 2)
    for padding in ("same", "valid")
]
OTHERS = [
    {"kernel_size": (3, 2), "strides": (2, 1)},
    {"kernel_size": 1, "strides": 2, "use_bias": False},
    {"kernel_size": 3, "groups": 8, "filters": 16, "padding": "same"},
    {"kernel_size": 3, "groups": 1},
    {"kernel_size": 3, "dilation_rate": 2},
    {"kernel_size": 3, "activation": "relu"},
]


def name_of(options):
    return " ".join(f"{name} {value}" for name, value in options.items())


def pair_of_convolutions(**options):
    """Ours and Keras's, with the same random weights."""
    options = {"filters": FILTERS, "groups": GROUPS, "kernel_size": 3} | options
    ours, theirs = GroupConv2D(**options), layers.Conv2D(**options)
    for layer in (ours, theirs):
        layer.build(SHAPE)
    give(ours)
    same_weights(ours, theirs)
    return ours, theirs


def values_and_gradients(layer, x, compiled=False, **kwargs):
    """Output, and gradients of a weighted sum of it with respect to input, kernel and bias."""
    import tensorflow as tf

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **kwargs)
            weighting = tf.cast(normal(*y.shape, seed=3), y.dtype)
            total = tf.reduce_sum(y * weighting)
        variables = [variable.value for variable in layer.trainable_variables]
        return [y, *tape.gradient(total, [x, *variables])]

    found = (tf.function(run) if compiled else run)(tf.cast(x, layer.compute_dtype))
    return [numpy(tf.cast(value, "float32")) for value in found]


def agree(got, want, tolerance):
    assert len(got) == len(want)
    for one, other in zip(got, want):
        size = np.abs(other).max()
        assert one.shape == other.shape and size > 0.1
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size)


@needs_tensorflow
@pytest.mark.parametrize("options", GEOMETRIES + OTHERS, ids=name_of)
def test_group_convolution_equals_keras(options):
    """Eagerly and, for the geometries, inside of a function; Keras compiles its own, once."""
    ours, theirs = pair_of_convolutions(**options)
    x = normal(*SHAPE)
    want = values_and_gradients(theirs, x)
    assert len(want) == 3 + ours.use_bias
    assert ours.compute_output_shape(SHAPE) == want[0].shape
    for training in (True, False, None):
        agree(values_and_gradients(ours, x, training=training), want, 1e-5)
    if options in GEOMETRIES:
        for training in (True, False):
            agree(values_and_gradients(ours, x, compiled=True, training=training), want, 1e-5)


@needs_tensorflow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_group_convolution_in_bfloat16(dtype, training, compiled):
    half, _ = pair_of_convolutions(padding="same", dtype=dtype)
    single, _ = pair_of_convolutions(padding="same")
    got = values_and_gradients(half, normal(*SHAPE), compiled, training=training)
    agree(got, values_and_gradients(single, normal(*SHAPE), training=training), 2e-2)
    assert half(normal(*SHAPE), training=training).dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {
        "float32" if dtype.startswith("mixed") else "bfloat16"
    }


# What stands behind a grouped convolution: TensorFlow's optimizer of graphs merges these with a
# plain convolution into one operation, which then knows no groups.
FOLLOWERS = {
    "nothing": lambda: [],
    "ReLU": lambda: [layers.ReLU()],
    "BN": lambda: [BatchNormalization()],
    "BN, ReLU": lambda: [BatchNormalization(), layers.ReLU()],
    "Keras's BN, ReLU": lambda: [layers.BatchNormalization(), layers.ReLU()],
}


def followed(convolution, follower):
    """A model of the convolution and what stands behind it, with random weights."""
    x = image = keras.Input(SHAPE[1:])
    for layer in [convolution, *FOLLOWERS[follower]()]:
        x = layer(x)
    model = keras.Model(image, x)
    give(model)
    return model


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_compiled_inference_has_groups_whatever_follows(follower, use_bias):
    model = followed(GroupConv2D(FILTERS, 3, groups=GROUPS, use_bias=use_bias), follower)
    x = normal(*SHAPE)
    close(model.predict(x, verbose=0), numpy(model(x, training=False)), 1e-5, 1e-5)


@needs_tensorflow
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_exported_inference_has_groups(follower, tmp_path):
    import tensorflow as tf

    model = followed(GroupConv2D(FILTERS, 3, groups=GROUPS, use_bias=follower != "BN"), follower)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    x = normal(*SHAPE)
    close(served.serve(x), numpy(model(x, training=False)), 1e-5, 1e-5)


def operations(layer, **kwargs):
    """Kinds of operations in the traced graph and in all functions that it calls; XLA's mark."""
    import tensorflow as tf

    traced = tf.function(lambda x: layer(x, **kwargs)).get_concrete_function(tf.zeros(SHAPE))
    graph = traced.graph.as_graph_def()
    functions = graph.library.function
    nodes = [*graph.node, *(node for function in functions for node in function.node_def)]
    marks = [set(node.attr) for node in nodes] + [set(function.attr) for function in functions]
    return {node.op for node in nodes}, any("_XlaMustCompile" in mark for mark in marks)


@needs_tensorflow
def test_inference_of_group_convolution_has_no_xla():
    ours, theirs = pair_of_convolutions()
    for kwargs in ({"training": False}, {}):
        kinds, is_xla = operations(ours, **kwargs)
        assert "Conv2D" in kinds and not is_xla
        assert not [kind for kind in kinds if "Xla" in kind or "Call" in kind]
    assert operations(theirs)[1]  # the mark is the right one


@pytest.mark.parametrize("training", [True, False])
def test_group_convolution_survives_a_file(training, tmp_path):
    layer = GroupConv2D(FILTERS, 3, groups=GROUPS, strides=2, activation="relu", name="grouped")
    layer.build(SHAPE)
    give(layer)
    model, loaded = reload(layer, SHAPE[1:], tmp_path)
    copy = loaded.get_layer("grouped")
    assert type(copy) is GroupConv2D and copy.get_config() == layer.get_config()
    x = normal(*SHAPE)
    want = numpy(model(x, training=training))
    assert want.max() > 0.1
    np.testing.assert_array_equal(numpy(loaded(x, training=training)), want)


def test_group_convolution_trains_maps_of_unknown_size():
    image = keras.Input((None, None, 8))
    model = keras.Model(image, GroupConv2D(FILTERS, 3, groups=GROUPS)(image))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = [numpy(weight) for weight in model.weights]
    model.fit(normal(4, 6, 5, 8), normal(4, 4, 3, FILTERS), verbose=0)
    assert not any(np.array_equal(old, numpy(new)) for old, new in zip(before, model.weights))


@needs_tensorflow
def test_group_convolution_has_gradients_of_gradients():
    """As a penalty on gradients takes them."""
    import tensorflow as tf

    def penalty_gradients(layer, **kwargs):
        x = tf.constant(normal(*SHAPE))
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(layer(x, **kwargs) ** 2)
            penalty = tf.reduce_sum(inner.gradient(total, x) ** 2)
        return [numpy(g) for g in outer.gradient(penalty, [x, layer.kernel.value])]

    ours, theirs = pair_of_convolutions()
    for training in (True, False):
        got = penalty_gradients(ours, training=training)
        agree(got, penalty_gradients(theirs), 1e-5)


@pytest.mark.parametrize(
    "filters,channels,message", [(12, 6, "input channels"), (10, 8, "number of filters")]
)
def test_groups_must_divide_channels_and_filters(filters, channels, message):
    with pytest.raises(ValueError, match=message):
        GroupConv2D(filters, 3, groups=GROUPS).build((None, 7, 6, channels))


# The normalisation over neighbouring channels.


def reference_norm(x, size=5, alpha=1e-4, beta=0.75, bias=1.0):
    """Krizhevsky et al. 2012, section 3.3, value by value; α divided by `size`, as in Caffe."""
    x = x.astype("float64")
    out = np.empty_like(x)
    for place in np.ndindex(x.shape):
        *pixel, channel = place
        first = max(0, channel - size // 2)
        near = x[(*pixel, slice(first, channel + size // 2 + 1))]
        out[place] = x[place] / (bias + alpha / size * (near**2).sum()) ** beta
    return out


def loud(*shape):
    """Values of some hundreds: for small ones the normalisation does nothing."""
    return normal(*shape, scale=300)


NORMS = [
    {},
    {"size": 3},
    {"size": 1},
    {"size": 5, "alpha": 2e-3, "beta": 0.5, "bias": 2.0},
    {"size": 9},
]


@pytest.mark.parametrize("shape", [(2, 3, 4, 7), (3, 6), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("options", NORMS, ids=name_of)
def test_local_response_normalization_equals_numpy(options, shape):
    x = loud(*shape)
    want = reference_norm(x, **options)
    assert np.abs(want / x).min() < 0.5
    layer = LocalResponseNormalization(**options)
    close(layer(x), want, 1e-5, 1e-5)
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *shape[1:])
    assert layer.weights == []


@needs_tensorflow
def test_local_response_normalization_equals_tensorflow():
    """Its radius is half the size, and it does not divide α."""
    import tensorflow as tf

    theirs = functools.partial(
        tf.nn.local_response_normalization, depth_radius=2, bias=1, alpha=1e-4 / 5, beta=0.75
    )
    x, weighting = loud(2, 3, 4, 9), normal(2, 3, 4, 9, seed=5)
    layer = LocalResponseNormalization()
    close(layer(x), numpy(theirs(x)), 1e-5, 1e-4)
    got, want = (gradients(lambda x, f=f: f(x) * weighting, x)[0] for f in (layer, theirs))
    assert np.abs(want - weighting).max() > 0.5  # the gradient of the identity
    close(got, want, 1e-4, 1e-5)


def test_local_response_normalization_of_little_is_the_identity():
    x = normal(2, 3, 4, 8, scale=1e-3)
    close(LocalResponseNormalization()(x), x, 1e-6, 0)
    zeros = np.zeros((2, 3, 4, 8), "float32")
    np.testing.assert_array_equal(numpy(LocalResponseNormalization()(zeros)), zeros)


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "bfloat16"])
def test_local_response_normalization_does_not_overflow_in_half_precision(dtype):
    """300² is beyond float16."""
    x = np.full((2, 3, 4, 8), 300, "float32")
    got = LocalResponseNormalization(dtype=dtype)(ops.cast(x, dtype.removeprefix("mixed_")))
    assert keras.backend.standardize_dtype(got.dtype) == dtype.removeprefix("mixed_")
    close(ops.cast(got, "float32"), reference_norm(x), 1e-2 if dtype == "bfloat16" else 1e-3)


def test_local_response_normalization_survives_its_config_and_a_file(tmp_path):
    figures = {"size": 3, "alpha": 2e-3, "beta": 0.5, "bias": 2.0}
    layer = LocalResponseNormalization(**figures, name="response")
    model, loaded = reload(layer, (3, 4, 8), tmp_path)
    for copy in (
        LocalResponseNormalization.from_config(layer.get_config()),
        loaded.get_layer("response"),
    ):
        assert {name: getattr(copy, name) for name in figures} == figures
        assert copy.name == "response"
    x = loud(2, 3, 4, 8)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


@pytest.mark.parametrize("size", [0, -1, 4, 5.0, "5", None])
def test_local_response_normalization_names_bad_sizes(size):
    with pytest.raises(ValueError, match=rf"`size`.*odd integer.*Received: size={size!r}"):
        LocalResponseNormalization(size)
