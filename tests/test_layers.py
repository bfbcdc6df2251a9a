"""Layers against Keras's own and against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from test_losses import close, gradients, normal, numpy

import sd_keras
from sd_keras.layers import BatchNormalization, Bottleneck, IdentityShortcut, PatchConv2D

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def give(layer, seed=0):
    """Gives a built layer random weights, positive where they are variances or scales."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        value = generator.normal(size=weight.shape)
        if weight.path.endswith(("gamma", "variance")):
            value = generator.uniform(0.5, 2.0, weight.shape)
        weight.assign(value.astype("float32"))


def same_weights(source, target):
    target.set_weights(source.get_weights())


def layer_gradients(layer, x, weighting, **kwargs):
    """Gradients of Σ weighting · layer(x) with respect to x and the trainable weights."""
    state = [numpy(v) for v in layer.non_trainable_variables]

    def loss(x, *weights):
        return ops.multiply(layer.stateless_call(weights, state, x, **kwargs)[0], weighting)

    return gradients(loss, x, *(numpy(v) for v in layer.trainable_variables))


def reload(layer, shape, path):
    """The layer's copy out of a saved model."""
    image = keras.Input(shape)
    model = keras.Model(image, layer(image))
    model.save(path / "model.keras")
    return model, keras.saving.load_model(path / "model.keras")


# Batch normalisation.


def pair_of_norms(shape, dtype=None, **kwargs):
    ours = BatchNormalization(dtype=dtype, **kwargs)
    theirs = keras.layers.BatchNormalization(
        **({"momentum": 0.9, "epsilon": 1e-5} | kwargs), dtype=dtype
    )
    for layer in (ours, theirs):
        layer.build(shape)
        give(layer)
    return ours, theirs


NORM_CASES = {
    "plain": ((4, 5, 6, 3), {}),
    "other figures": ((4, 5, 6, 3), {"momentum": 0.7, "epsilon": 0.01}),
    "no scale": ((4, 5, 6, 3), {"scale": False}),
    "no center": ((4, 5, 6, 3), {"center": False}),
    "last axis by number": ((4, 5, 6, 3), {"axis": 3}),
    "pooled to one pixel": ((4, 1, 1, 3), {}),
    "one value a channel": ((1, 1, 1, 3), {}),
    "rank 2": ((8, 3), {}),
    "rank 3": ((4, 5, 3), {}),
    "axis 1": ((4, 3, 6, 5), {"axis": 1}),
    "synchronized": ((4, 5, 6, 3), {"synchronized": True}),
}


def skip_unless_one_replica_will_do(case):
    if case == "synchronized" and not ON_TENSORFLOW:
        pytest.skip("synchronized statistics of a single replica need TensorFlow")


FALLBACKS = ("rank 2", "rank 3", "axis 1", "synchronized")


@pytest.mark.parametrize("case", NORM_CASES)
def test_batch_normalization_equals_keras(case):
    skip_unless_one_replica_will_do(case)
    shape, kwargs = NORM_CASES[case]
    ours, theirs = pair_of_norms(shape, **kwargs)
    # Without variance Keras takes x / sqrt(epsilon) from itself, and few digits remain.
    tolerance = 3e-4 if case == "one value a channel" else 1e-5
    for step in range(3):
        x = normal(*shape, seed=step) + 1
        close(ours(x, training=True), numpy(theirs(x, training=True)), tolerance, tolerance)
    for got, want in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    close(ours(x, training=False), numpy(theirs(x, training=False)), 1e-5, 1e-5)
    close(ours(x), numpy(theirs(x)), 1e-5, 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", ["plain", "no scale", "rank 2", "axis 1", "synchronized"])
def test_batch_normalization_has_the_gradients_of_keras(case, training):
    skip_unless_one_replica_will_do(case)
    shape, kwargs = NORM_CASES[case]
    weighting = normal(*shape, seed=5)  # the plain sum of a normalised batch is constant
    x = normal(*shape) + 1
    ours, theirs = (
        layer_gradients(layer, x, weighting, training=training)
        for layer in pair_of_norms(shape, **kwargs)
    )
    assert len(ours) == (2 if case == "no scale" else 3)  # x, scale, offset
    for got, want in zip(ours, theirs):
        assert np.abs(want).max() > 1e-3
        close(got, want, 1e-4, 2e-5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="nothing is fused elsewhere")
@pytest.mark.parametrize("case", NORM_CASES)
def test_only_four_dimensions_channels_last_are_fused(case, monkeypatch):
    shape, kwargs = NORM_CASES[case]
    ours, _ = pair_of_norms(shape, **kwargs)
    calls, stock = [], keras.layers.BatchNormalization.call

    def counted(self, *args, **kwargs):
        calls.append(self)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(keras.layers.BatchNormalization, "call", counted)
    ours(normal(*shape), training=True)
    assert bool(calls) == (case in FALLBACKS)


def test_batch_normalization_with_a_mask_equals_keras():
    ours, theirs = pair_of_norms((4, 5, 6, 3))
    x, mask = normal(4, 5, 6, 3), np.random.default_rng(0).random((4, 5, 6)) < 0.7
    close(ours(x, training=True, mask=mask), numpy(theirs(x, training=True, mask=mask)), 1e-5)
    close(ours.moving_mean, numpy(theirs.moving_mean))


def test_frozen_batch_normalization_keeps_its_statistics():
    ours, theirs = pair_of_norms((4, 5, 6, 3))
    ours.trainable = theirs.trainable = False
    before, x = ours.get_weights(), normal(4, 5, 6, 3)
    close(ours(x, training=True), numpy(theirs(x, training=True)), 1e-5, 1e-5)
    for got, want in zip(ours.get_weights(), before):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype,tolerance", [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization_in_mixed_precision(dtype, tolerance, training):
    ours, theirs = pair_of_norms((8, 5, 6, 3), dtype)
    x = normal(8, 5, 6, 3)
    got, want = (layer(x, training=training) for layer in (ours, theirs))
    assert keras.backend.standardize_dtype(got.dtype) == dtype.removeprefix("mixed_")
    got, want = (numpy(ops.cast(value, "float32")) for value in (got, want))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    for value, expected in zip(ours.get_weights(), theirs.get_weights()):
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, expected, rtol=0.01, atol=0.01)


def test_trap_9_batch_normalization_has_the_papers_figures():
    layer = BatchNormalization()
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
    x = normal(4, 5, 6, 3) + 1
    layer(x, training=True)
    # Moving mean starts at 0, moving variance at 1; the variance is the biased one.
    close(layer.moving_mean, 0.1 * x.astype("float64").mean((0, 1, 2)))
    close(layer.moving_variance, 0.9 + 0.1 * x.astype("float64").var((0, 1, 2)))
    # The variance is what epsilon is added to: without any, the scale is 1/sqrt(1e-5).
    fresh = BatchNormalization()
    fresh.build((None, 2, 2, 1))
    fresh.moving_variance.assign([0.0])
    close(fresh(np.ones((1, 2, 2, 1), "float32")), np.full((1, 2, 2, 1), 1e-5**-0.5), 1e-4)


def test_batch_normalization_survives_a_file(tmp_path):
    layer = BatchNormalization(momentum=0.8, epsilon=1e-4, scale=False, name="norm")
    layer.build((None, 5, 6, 3))
    give(layer)
    model, loaded = reload(layer, (5, 6, 3), tmp_path)
    copy = loaded.get_layer("norm")
    assert type(copy) is BatchNormalization
    assert (copy.momentum, copy.epsilon, copy.scale, copy.center) == (0.8, 1e-4, False, True)
    x = normal(4, 5, 6, 3)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


# Convolution over patches.

PATCH_SHAPES = [((8, 8), 4), ((9, 10), 4), ((5, 7), 2), ((3, 4), 1), ((4, 4), 4)]


def pair_of_convolutions(shape, size, **kwargs):
    ours = PatchConv2D(6, size, **kwargs)
    theirs = keras.layers.Conv2D(6, size, strides=size, **kwargs)
    for layer in (ours, theirs):
        layer.build((None, *shape, 3))
    give(ours)
    same_weights(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("kwargs", [{}, {"use_bias": False}, {"activation": "relu"}], ids=str)
@pytest.mark.parametrize("shape,size", PATCH_SHAPES)
def test_patch_convolution_equals_conv2d(shape, size, kwargs):
    ours, theirs = pair_of_convolutions(shape, size, **kwargs)
    x = normal(2, *shape, 3)
    expected = numpy(theirs(x))
    close(ours(x, training=True), expected, 1e-4, 1e-4)
    np.testing.assert_array_equal(numpy(ours(x, training=False)), expected)
    np.testing.assert_array_equal(numpy(ours(x)), expected)
    assert ours.compute_output_shape((2, *shape, 3)) == expected.shape
    assert expected.shape == (2, shape[0] // size, shape[1] // size, 6)


@pytest.mark.parametrize("shape,size", PATCH_SHAPES)
def test_patch_convolution_has_the_gradients_of_conv2d(shape, size):
    ours, theirs = pair_of_convolutions(shape, size)
    x, weighting = normal(2, *shape, 3), normal(2, shape[0] // size, shape[1] // size, 6, seed=3)
    found = layer_gradients(ours, x, weighting, training=True)
    for got, want in zip(found, layer_gradients(theirs, x, weighting), strict=True):
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    cut = [n - n % size for n in shape]  # pixels beyond the last whole patch are not seen
    assert not found[0][:, cut[0] :].any() and not found[0][:, :, cut[1] :].any()


@pytest.mark.parametrize("kwargs", [{"padding": "same"}, {"groups": 3}], ids=str)
def test_patch_convolution_takes_the_arguments_of_conv2d(kwargs):
    ours, theirs = pair_of_convolutions((9, 10), 4, **kwargs)
    x = normal(2, 9, 10, 3)
    close(ours(x, training=True), numpy(theirs(x)), 1e-4, 1e-4)


def test_patch_convolution_in_mixed_precision():
    ours, theirs = pair_of_convolutions((8, 8), 4, dtype="mixed_bfloat16")
    got, want = ours(normal(2, 8, 8, 3), training=True), theirs(normal(2, 8, 8, 3))
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    got, want = (numpy(ops.cast(value, "float32")) for value in (got, want))
    np.testing.assert_allclose(got, want, rtol=0.05, atol=0.2)


def test_patch_convolution_survives_its_config_and_a_file(tmp_path):
    layer = PatchConv2D(6, 4, activation="relu", use_bias=True, name="patches")
    copy = PatchConv2D.from_config(layer.get_config())
    assert (copy.filters, copy.size, copy.kernel_size, copy.strides) == (6, 4, (4, 4), (4, 4))
    model, loaded = reload(layer, (9, 10, 3), tmp_path)
    x = normal(2, 9, 10, 3)
    for training in (False, True):
        np.testing.assert_array_equal(
            numpy(loaded(x, training=training)), numpy(model(x, training=training))
        )


# The bottleneck.


def relu_norm(x, weights):
    gamma, beta, mean, variance = (w.astype("float64") for w in weights)
    return np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta, 0)


def reference_bottleneck(x, head):
    """Inference of the `scala` head in NumPy, from the weights of its parts."""
    weights = [block.get_weights() for block in head.blocks if block.weights]
    if head.preactivation:
        x = relu_norm(x, weights.pop(0))
    for (kernel, bias), norm in zip(weights[::2], weights[1::2]):
        k = len(kernel)
        n, height, width, channels = x.shape
        x = x[:, : height // k * k, : width // k * k]
        patches = x.reshape(n, height // k, k, width // k, k, channels)
        x = relu_norm(np.einsum("nhiwjc,ijcf->nhwf", patches, kernel) + bias, norm)
    return x


BOTTLENECKS = [
    ((8, 8, 5), {"filters": 12, "pool": 4}, (2, 2, 12)),
    ((9, 10, 5), {"filters": 12, "pool": 4, "middle_filters": 7}, (2, 2, 12)),
    ((4, 4, 5), {"filters": 12}, (4, 4, 12)),
    ((4, 6, 5), {"filters": 12, "pool": 2, "middle_filters": 7, "preactivation": True}, (2, 3, 12)),
]


def bottleneck(shape, kwargs, **more):
    head = Bottleneck(**kwargs, **more)
    head.build((None, *shape))
    give(head)
    return head


@pytest.mark.parametrize("shape,kwargs,expected", BOTTLENECKS)
def test_bottleneck_equals_numpy(shape, kwargs, expected):
    head, x = bottleneck(shape, kwargs), normal(3, *shape)
    got = head(x)
    assert tuple(got.shape) == (3, *expected)
    assert head.compute_output_shape((None, *shape)) == (None, *expected)
    close(got, reference_bottleneck(x.astype("float64"), head), 1e-4, 1e-2)


@pytest.mark.parametrize("shape,kwargs,expected", BOTTLENECKS)
def test_bottleneck_trains_all_its_parts(shape, kwargs, expected):
    head, x = bottleneck(shape, kwargs), normal(3, *shape)
    before = [numpy(v) for v in head.non_trainable_variables]
    assert tuple(head(x, training=True).shape) == (3, *expected)
    after = [numpy(v) for v in head.non_trainable_variables]
    norms = 4 if kwargs.get("preactivation") else 3
    assert len(after) == 2 * norms
    assert not any(np.array_equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize("preactivation", [False, True])
def test_bottleneck_weights(preactivation):
    """conv, BN three times; every convolution has a bias; the middle one is pool x pool."""
    head = bottleneck((8, 8, 5), {"filters": 12, "pool": 4, "preactivation": preactivation})
    trainable = (5 * 128 + 128) + (4 * 4 * 128 * 128 + 128) + (128 * 12 + 12) + 2 * (128 + 128 + 12)
    moving = 2 * (128 + 128 + 12)
    extra = 10 if preactivation else 0
    assert sum(w.numpy().size for w in head.trainable_weights) == trainable + extra
    assert sum(w.numpy().size for w in head.non_trainable_weights) == moving + extra
    norms = [block for block in head.blocks if isinstance(block, BatchNormalization)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}


def test_trap_12_bottleneck_kernels_are_fan_out_untruncated_normal():
    keras.utils.set_random_seed(0)
    head = Bottleneck(256, 4)
    head.build((None, 8, 8, 64))
    kernels = [block.kernel.numpy() for block in head.blocks if hasattr(block, "kernel")]
    assert [k.shape for k in kernels] == [(1, 1, 64, 128), (4, 4, 128, 128), (1, 1, 128, 256)]
    for kernel in kernels:
        size, filters = kernel.shape[0], kernel.shape[-1]
        scaled = kernel / np.sqrt(2 / (size * size * filters))
        np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=0.05)
        assert np.abs(scaled).max() > 3  # Keras's truncated normal ends at 2.27


def test_bottleneck_round_trip_of_its_config():
    kwargs = {"filters": 12, "pool": 2, "middle_filters": 7, "preactivation": True}
    head = Bottleneck(**kwargs, name="head")
    for copy in (
        Bottleneck.from_config(head.get_config()),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head)),
    ):
        assert {name: getattr(copy, name) for name in kwargs} == kwargs and copy.name == "head"
        assert [block.name for block in copy.blocks] == [block.name for block in head.blocks]


@pytest.mark.parametrize("shape,kwargs,expected", BOTTLENECKS)
def test_bottleneck_survives_a_file(shape, kwargs, expected, tmp_path):
    model, loaded = reload(bottleneck(shape, kwargs, name="head"), shape, tmp_path)
    x = normal(3, *shape)
    for training in (False, True):
        np.testing.assert_array_equal(
            numpy(loaded(x, training=training)), numpy(model(x, training=training))
        )
    assert loaded.get_layer("head").get_config() == model.get_layer("head").get_config()


def test_bottleneck_takes_its_precision_to_all_parts():
    head = Bottleneck(6, 2, middle_filters=4, dtype="mixed_bfloat16")
    got = head(normal(2, 4, 4, 3), training=True)
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert {block.compute_dtype for block in head.blocks} == {"bfloat16"}
    assert {keras.backend.standardize_dtype(w.dtype) for w in head.weights} == {"float32"}


@pytest.mark.parametrize("argument", ["filters", "pool", "middle_filters"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "2"])
def test_bottleneck_names_bad_sizes(argument, value):
    arguments = {"filters": 8} | {argument: value}
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}={value!r}"):
        Bottleneck(**arguments)


def test_bottleneck_wants_a_feature_map():
    with pytest.raises(ValueError, match=r"`Bottleneck`.*input_shape=\(None, 16\)"):
        Bottleneck(8).build((None, 16))


# Shortcut A.


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
@pytest.mark.parametrize("filters,strides", [(6, 2), (3, 1), (3, 2), (8, 3)])
def test_identity_shortcut_equals_numpy(shape, filters, strides):
    x = normal(2, *shape, 3)
    expected = np.zeros((2, -(-shape[0] // strides), -(-shape[1] // strides), filters), "float32")
    for row in range(expected.shape[1]):
        for column in range(expected.shape[2]):
            expected[:, row, column, :3] = x[:, row * strides, column * strides]
    layer = IdentityShortcut(filters, strides)
    for training in (False, True):
        np.testing.assert_array_equal(numpy(layer(x, training=training)), expected)
    assert layer.compute_output_shape((None, *shape, 3)) == (None, *expected.shape[1:])
    assert layer.compute_output_shape((None, None, None, 3)) == (None, None, None, filters)
    assert layer.weights == []


def test_gradient_of_the_identity_shortcut():
    import tensorflow as tf

    x, upstream = tf.constant(normal(2, 7, 8, 3)), normal(2, 4, 4, 5)
    gradients = []
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(IdentityShortcut(5, 2)(x, training=training) * upstream)
        gradients.append(tape.gradient(total, x).numpy())
    expected = np.zeros((2, 7, 8, 3), "float32")
    expected[:, ::2, ::2] = upstream[..., :3]
    np.testing.assert_array_equal(gradients, [expected, expected])


def test_identity_shortcut_survives_a_file(tmp_path):
    layer = IdentityShortcut(6, 2, name="shortcut")
    model, loaded = reload(layer, (7, 9, 3), tmp_path)
    copy = loaded.get_layer("shortcut")
    assert (copy.filters, copy.strides) == (6, 2)
    np.testing.assert_array_equal(
        numpy(loaded(normal(2, 7, 9, 3))), numpy(model(normal(2, 7, 9, 3)))
    )


def test_identity_shortcut_cannot_drop_channels():
    with pytest.raises(ValueError, match=r"`filters`.*3 channels.*filters=2"):
        IdentityShortcut(2)(normal(1, 4, 4, 3))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "shape,size,strides",
    [
        ((2, 4, 4, 256), 3, 1),
        ((3, 5, 4, 260), 1, 1),
        ((1, 6, 6, 256), 5, 1),
        ((2, 10, 10, 64), 3, 2),
        ((2, 8, 12, 70), 1, 2),
        ((2, 8, 6, 64), 4, 2),
    ],
)
def test_wide_bfloat16_convolution_equals_keras(shape, size, strides, compiled):
    """Value and both gradients of sd_keras's Conv2D, where its own gradient is used."""
    tf = pytest.importorskip("tensorflow")
    if keras.config.backend() != "tensorflow":
        pytest.skip("the gradient is TensorFlow's own elsewhere")
    options = {"use_bias": False, "dtype": "mixed_bfloat16", "strides": strides}
    options["padding"] = "same" if strides == 1 else "valid"
    own = sd_keras.layers.Conv2D(256, size, **options)
    stock = keras.layers.Conv2D(256, size, **options)
    x = tf.cast(tf.random.stateless_normal(shape, (1, 2)), "bfloat16")
    own.build(shape), stock.build(shape)
    stock.kernel.assign(own.kernel)
    assert own._is_slow_in_bfloat16(x)
    upstream = tf.random.stateless_normal(own.compute_output_shape(shape), (3, 4))
    upstream = tf.cast(upstream, "bfloat16")

    def run(layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True) if layer is own else layer(x)
        gradients = tape.gradient(y, [x, layer.kernel.value], upstream)
        return [y, *gradients]

    results = [(tf.function(run) if compiled else run)(layer) for layer in (own, stock)]
    for got, expected in zip(*results):
        got, expected = (tf.cast(v, "float32").numpy() for v in (got, expected))
        np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-2 * np.abs(expected).max())


def test_convolution_is_kerass_where_it_is_narrow_or_strided():
    layer = sd_keras.layers.Conv2D(256, 3, padding="same", dtype="mixed_bfloat16")
    wide, narrow = (keras.KerasTensor((2, 4, 4, c), "bfloat16") for c in (256, 64))
    usable = keras.config.backend() == "tensorflow"
    assert layer._is_slow_in_bfloat16(wide) == usable
    assert not layer._is_slow_in_bfloat16(narrow)
    strided = sd_keras.layers.Conv2D(256, 3, strides=2, padding="same", dtype="mixed_bfloat16")
    single = sd_keras.layers.Conv2D(256, 3, padding="same")
    assert not strided._is_slow_in_bfloat16(wide)
    assert not single._is_slow_in_bfloat16(wide)
