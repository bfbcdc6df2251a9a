"""Mix against a plain NumPy transcription, and what holds of every mixed batch anywhere."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from sd_keras import mixing
from sd_keras.distortions import Affine, Color, CropFlip, Perspective, ThinPlateSpline
from sd_keras.mixing import Mix

BACKEND = keras.config.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="through tf.function")
KINDS = {
    "mixup": {"mixup": 0.2, "cutmix": 0},
    "cutmix": {"mixup": 0, "cutmix": 1},
    "both": {"mixup": 1, "cutmix": 1},
}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def plan(n, height, width, mixup=1.0, cutmix=1.0, share=0.5, seed=0):
    """Weights and boxes as `mix` makes them, as arrays."""
    uniform = np.random.default_rng(seed).random((5, n)).astype("float32")
    uniform = ops.convert_to_tensor(uniform)
    weight, box = mixing._plan(uniform, mixup, cutmix, share, height, width)
    return array(weight), array(box)


def reference(values, weight, box):
    """One image after the other: eq. of mixup, then the partner's pixels within the box."""
    result = np.empty_like(values)
    for i in range(len(values)):
        own, partner = values[i].astype("float32"), values[i - 1].astype("float32")
        mixed = weight[i] * own + (1 - weight[i]) * partner
        top, bottom, left, right = box[:, i]
        mixed[top:bottom, left:right] = partner[top:bottom, left:right]
        result[i] = mixed if values.dtype.kind == "f" else np.round(mixed)
    return result


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float16"])
@pytest.mark.parametrize("shape", [(64, 8, 8, 1), (32, 12, 7, 3)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_images_equal_the_transcription(dtype, shape, share):
    images = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    weight, box = plan(*shape[:3], share=share)
    arguments = [ops.convert_to_tensor(value) for value in (images, weight, box)]
    got = mixing._mix_images(*arguments)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    np.testing.assert_array_equal(array(got), reference(images, weight, box))
    assert (array(got) != images).any(axis=(1, 2, 3)).mean() > 0.8


def test_no_weight_is_weight_one_and_no_box_an_empty_one():
    images = ops.convert_to_tensor(np.random.default_rng(1).random((8, 6, 6, 3), "float32"))
    weight, box = (ops.convert_to_tensor(value) for value in plan(8, 6, 6))
    for given, equal in [
        ((None, box), (ops.ones(8), box)),
        ((weight, None), (weight, ops.zeros((4, 8), "int32"))),
    ]:
        got, expected = (mixing._mix_images(images, *pair) for pair in (given, equal))
        np.testing.assert_array_equal(array(got), array(expected))


@pytest.mark.parametrize("height,width", [(8, 8), (9, 31)])
def test_boxes_are_those_of_equation_2(height, width):
    generator = np.random.default_rng(2)
    weight, centre = generator.random(500), generator.random((2, 500))
    weight[:3], centre[:, :2] = (0, 1, 0), 0.5
    tensors = [ops.convert_to_tensor(value.astype("float32")) for value in (weight, centre)]
    box = array(mixing._boxes(*tensors, height, width))
    for i in range(500):
        r_y, r_x = centre[0, i] * height, centre[1, i] * width
        r_h, r_w = height * np.sqrt(1 - weight[i]), width * np.sqrt(1 - weight[i])
        edges = np.clip([r_y - r_h / 2, r_y + r_h / 2], 0, height)
        np.testing.assert_allclose(box[:2, i], edges, atol=0.501)
        edges = np.clip([r_x - r_w / 2, r_x + r_w / 2], 0, width)
        np.testing.assert_allclose(box[2:, i], edges, atol=0.501)
    assert box[:, 0].tolist() == [0, height, 0, width]
    assert box[0, 1] == box[1, 1] and box[2, 1] == box[3, 1]
    assert (box[0] >= 0).all() and (box[1] <= height).all() and (box[0] <= box[1]).all()
    assert (box[2] >= 0).all() and (box[3] <= width).all() and (box[2] <= box[3]).all()


def test_each_image_gets_one_of_the_two_at_the_share():
    weight, box = plan(4000, 32, 32, share=0.3)
    pasted = (box[1] - box[0]) * (box[3] - box[2]) > 0
    assert not (pasted & (weight < 1)).any()
    assert abs(pasted.mean() - 0.3) < 0.03


def beta_below(place, alpha):
    """P(λ ≤ place) under Beta(α, α), place ≤ ½, by the trapezoidal rule.

    ∫ t^(α−1) (1 − t)^(α−1) dt, for α < 1 in s = t^α to be bounded. Over both halves it is 1.
    """

    def integral(end):
        power = min(alpha, 1)
        s = np.linspace(0, end**power, 2001)
        return np.trapezoid(s ** (alpha / power - 1) * (1 - s ** (1 / power)) ** (alpha - 1), s)

    return integral(place) / integral(0.5) / 2


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 0.5, 1.0, 4.0, 50.0])
def test_lambda_has_the_beta_distribution(alpha):
    grid = np.meshgrid((np.arange(1000) + 0.5) / 1000, (np.arange(400) + 0.5) / 400)
    radius, angle = (ops.convert_to_tensor(x.ravel().astype("float32")) for x in grid)
    got = array(mixing._symmetric_beta(radius, angle, alpha)).astype("float64")
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
    deviation = 1 / np.sqrt(4 * (2 * alpha + 1))
    np.testing.assert_allclose(got.mean(), 0.5, atol=1e-6)
    np.testing.assert_allclose(got.std(), deviation, rtol=2e-3)
    for place in (0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5):
        expected = beta_below(place, alpha)
        np.testing.assert_allclose((got < place).mean(), expected, atol=1e-3, err_msg=str(place))
        np.testing.assert_allclose((1 - got < place).mean(), expected, atol=1e-3)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e6])
def test_lambda_is_a_share_at_the_ends_of_the_uniform_numbers(alpha):
    # 0.25 and 0.75 are where the cosine vanishes.
    grid = np.meshgrid([0, 1e-9, 0.5, 1 - 2**-24], [0, 0.25, 0.5, 0.75, 1 - 2**-24])
    radius, angle = (ops.convert_to_tensor(x.ravel().astype("float32")) for x in grid)
    got = array(mixing._symmetric_beta(radius, angle, alpha))
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_many_draws_of_the_layer_stay_in_bounds(alpha):
    layer = Mix(mixup=alpha, cutmix=0, seed=0)
    images = ops.zeros((20_000, 1, 1, 1))
    labels = ops.arange(20_000) % 2
    for _ in range(5):
        kept = array(layer.mix(images, labels, 2)[1])
        assert np.isfinite(kept).all() and kept.min() >= 0 and kept.max() <= 1
        assert abs(kept.mean() - 0.5) < 1e-6
        assert abs(kept.std() - 1 / np.sqrt(4 * (2 * alpha + 1))) < 0.01


def numbered(n=16, height=12, width=10, dtype="uint8"):
    """Images of one value each, 10, 20, …, and their labels: a pixel tells where it is from."""
    images = np.empty((n, height, width, 3), dtype)
    images[:] = 10 * np.arange(1, n + 1).reshape(-1, 1, 1, 1)
    return images, np.arange(n, dtype="int32")


def check_mixed(images, mixed, soft, kind):
    """What must hold between the images and the labels of a mixed `numbered` batch.

    Returns:
        The share of the own image in each, by its label.
    """
    n = len(images)
    assert mixed.dtype == images.dtype and mixed.shape == images.shape
    assert soft.dtype == "float32" and soft.shape == (n, n)
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    kept, rest = np.diag(soft), soft[np.arange(n), np.arange(n) - 1]
    np.testing.assert_allclose(kept + rest, 1, atol=1e-6)
    pixels = images[0, :, :, 0].size
    for i in range(n):
        own, partner = float(images[i, 0, 0, 0]), float(images[i - 1, 0, 0, 0])
        strange = ~np.isin(mixed[i], [own, partner])
        if strange.any():
            assert kind != "cutmix" and strange.all()
            expected = kept[i] * own + rest[i] * partner
            rounding = 0.501 if images.dtype.kind == "u" else 1e-4
            np.testing.assert_allclose(mixed[i], expected, atol=rounding)
            continue
        if kind == "mixup":
            continue
        inside = mixed[i, :, :, 0] == partner
        assert (mixed[i] == mixed[i, :, :, :1]).all()
        if abs(rest[i] * pixels - inside.sum()) > 1e-3:
            # A blend so slight that rounding hid it.
            assert kind == "both" and min(kept[i], rest[i]) < 0.1
            continue
        np.testing.assert_array_equal(inside, inside.any(1)[:, None] & inside.any(0)[None])
    return kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_labels_say_what_the_pixels_show(kind, dtype):
    images, labels = numbered(dtype=dtype)
    layer = Mix(**KINDS[kind], seed=1)
    kept = [check_mixed(images, *map(array, layer.mix(images, labels, 16)), kind) for _ in "ab"]
    assert len({*kept[0], *kept[1]}) > 16, "each image of each batch has its own λ"


@on_tensorflow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_tensorflow_graph(kind, jit_compile):
    import tensorflow as tf

    layer = Mix(**KINDS[kind], seed=1)
    images, labels = numbered()
    signature = [tf.TensorSpec((None, 12, 10, 3), "uint8"), tf.TensorSpec((None,), "int32")]
    signature = None if jit_compile else signature

    @tf.function(jit_compile=jit_compile, input_signature=signature)
    def step(images, labels):
        return layer.mix(images, labels, 16)

    first, second = (step(tf.constant(images), tf.constant(labels)) for _ in range(2))
    kept = [check_mixed(images, *map(array, pair), kind) for pair in (first, second)]
    assert not np.array_equal(*kept)
    if not jit_compile:  # XLA draws other numbers than TensorFlow
        assert step.get_concrete_function().output_shapes[0].as_list() == [None, 12, 10, 3]
        eager = array(Mix(**KINDS[kind], seed=1).mix(images, labels, 16)[1])
        np.testing.assert_allclose(array(first[1]), eager, atol=1e-6)


@on_tensorflow
def test_in_a_tensorflow_graph_of_unknown_size():
    import tensorflow as tf

    layer = Mix(seed=1)
    images, labels = numbered()
    signature = [tf.TensorSpec((None, None, None, 3), "uint8"), tf.TensorSpec((None,), "int32")]
    step = tf.function(lambda x, y: layer.mix(x, y, 16), input_signature=signature)
    check_mixed(images, *map(array, step(images, labels)), "both")


@pytest.mark.skipif(BACKEND != "jax", reason="a jitted step of jax")
def test_in_a_jitted_step_of_jax():
    import jax

    layer = Mix(seed=1)
    images, labels = numbered()

    @jax.jit
    def step(state, images, labels):
        with keras.StatelessScope([(layer.seed_generator.state, state)]) as scope:
            mixed = layer.mix(images, labels, 16)
        return mixed, scope.get_current_value(layer.seed_generator.state)

    first, state = step(layer.seed_generator.state.value, images, labels)
    second, _ = step(state, images, labels)
    kept = [check_mixed(images, *map(array, pair), "both") for pair in (first, second)]
    assert not np.array_equal(*kept)


@pytest.mark.parametrize("kind", KINDS)
def test_views_share_partner_weight_and_box(kind):
    images, labels = numbered(dtype="float32")
    pair, soft = Mix(**KINDS[kind], seed=1).mix((images, 10 * images), labels, 16)
    assert isinstance(pair, tuple) and len(pair) == 2
    np.testing.assert_allclose(array(pair[1]), 10 * array(pair[0]), rtol=1e-6)
    one, same_soft = Mix(**KINDS[kind], seed=1).mix(images, labels, 16)
    np.testing.assert_array_equal(array(pair[0]), array(one))
    np.testing.assert_array_equal(array(soft), array(same_soft))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_shape", [(16,), (16, 1)])
def test_a_partner_of_weight_zero_is_mixed_into_none(kind, weight_shape):
    images, labels = numbered()
    weights = np.ones(16, "float32")
    weights[[0, 6, 15]], weights[3] = 0, 0.5
    layers = [Mix(**KINDS[kind], seed=1) for _ in range(2)]
    mixed, soft = map(array, layers[0].mix(images, labels, 16, weights.reshape(weight_shape)))
    check_mixed(images, mixed, soft, kind)
    behind = [1, 7, 0]
    np.testing.assert_array_equal(mixed[behind], images[behind])
    np.testing.assert_array_equal(soft[behind], np.eye(16, dtype="float32")[behind])
    others = np.setdiff1d(np.arange(16), behind)
    for got, free in zip((mixed, soft), map(array, layers[1].mix(images, labels, 16))):
        np.testing.assert_array_equal(got[others], free[others])


def test_soft_labels_and_labels_beyond_the_classes():
    images = numbered(4)[0]
    given = np.random.default_rng(0).dirichlet([1] * 3, 4).astype("float32")
    weight = np.diag(array(Mix(seed=2).mix(images, np.arange(4), 4)[1]))[:, None]
    soft = array(Mix(seed=2).mix(images, given, 3)[1])
    np.testing.assert_allclose(
        soft, weight * given + (1 - weight) * np.roll(given, 1, 0), rtol=1e-5
    )
    soft = array(Mix(seed=2).mix(images, np.array([0, 7, -1, 2]), 3)[1])
    expected = np.eye(3)[[0, 0, 0, 2]] * np.array([[1], [0], [0], [1]])
    np.testing.assert_allclose(soft, weight * expected + (1 - weight) * np.roll(expected, 1, 0))


def test_one_image_stays_as_it_is():
    images, labels = numbered(1)
    mixed, soft = Mix(seed=0).mix(images, labels, 2)
    np.testing.assert_array_equal(array(mixed), images)
    np.testing.assert_allclose(array(soft), [[1, 0]])


def test_a_copy_continues_the_same_draws():
    images, labels = numbered()
    layer = Mix(0.3, 0.7, 0.4, seed=9)
    layer.mix(images, labels, 16)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (copy.mixup, copy.cutmix, copy.cutmix_share, copy.seed) == (0.3, 0.7, 0.4, 9)
    copy.seed_generator.state.assign(layer.seed_generator.state)
    drawn = [[array(value) for value in each.mix(images, labels, 16)] for each in (layer, copy)]
    for ours, theirs in zip(*drawn):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_changes_nothing(policy):
    images, labels = numbered()
    expected = [array(value) for value in Mix(seed=1).mix(images, labels, 16)]
    keras.config.set_dtype_policy(policy)
    for got, value in zip(Mix(seed=1).mix(images, labels, 16), expected):
        np.testing.assert_array_equal(array(got), value)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutmix_share"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.2", None, True])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a.*Received: {name}={value!r}"):
        Mix(**{name: value})


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="`cutmix_share`.*from 0 to 1.*cutmix_share=1.5"):
        Mix(cutmix_share=1.5)
    with pytest.raises(ValueError, match="`mixup` or `cutmix`.*mixup=0, cutmix=0.0"):
        Mix(mixup=0, cutmix=0.0)
    images, labels = numbered()
    with pytest.raises(ValueError, match=r"`images`.*Received: images of shape \(12, 10, 3\)"):
        Mix().mix(images[0], labels, 16)
    with pytest.raises(ValueError, match=r"`images`.*\(16, 12, 10, 3\), \(16, 8, 10, 3\)"):
        Mix().mix((images, images[:, :8]), labels, 16)
    with pytest.raises(ValueError, match=r"`labels`.*\(n, 5\).*labels of shape \(16, 16\)"):
        Mix().mix(images, np.eye(16, dtype="float32"), 5)


@on_tensorflow
@pytest.mark.process
@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.torch)])
def test_the_same_under_another_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    chosen = "0.5-shape1-uint8 or jitted or distribution[0.2"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_what_is_mixed_does_not_depend_on_the_crop():
    """Layers of one seed would draw the same numbers, if all took it as it is."""
    distortions = [cls(seed=0) for cls in (CropFlip, Affine, Perspective, ThinPlateSpline, Color)]
    first = [
        np.asarray(keras.random.uniform((8,), seed=layer.seed_generator))
        for layer in (*distortions, Mix(seed=0))
    ]
    assert len({tuple(draw.tolist()) for draw in first}) == len(first)
    again = keras.random.uniform((8,), seed=Mix(seed=0).seed_generator)
    np.testing.assert_array_equal(again, first[-1])
    assert Mix(seed=3).get_config()["seed"] == 3
