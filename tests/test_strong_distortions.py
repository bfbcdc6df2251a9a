"""Affine, Perspective, ThinPlateSpline and Color against plain NumPy, in every place they run."""

import keras
import numpy as np
import pytest
from keras import ops

from sd_keras.distortions import Affine, Color, CropFlip, Perspective, ThinPlateSpline

KINDS = {
    "affine": lambda **kwargs: Affine(25, 0.3, 15, 0.2, **kwargs),
    "perspective": lambda **kwargs: Perspective(0.2, **kwargs),
    "thin_plate_spline": lambda **kwargs: ThinPlateSpline(3, 0.25, **kwargs),
    "color": lambda **kwargs: Color(0.4, 0.5, 0.6, 0.3, **kwargs),
}
NOTHING = {
    "affine": lambda: Affine(0, 0, 0, 0),
    "perspective": lambda: Perspective(0),
    "thin_plate_spline": lambda: ThinPlateSpline(magnitude=0),
    "color": lambda: Color(0, 0, 0, 0),
    "crop_flip": lambda: CropFlip(0, flip=False),
}


def bilinear(image, row, column):
    """The value between four pixels; black outside."""
    height, width, channels = image.shape
    total = np.zeros(channels)
    for y in (np.floor(row), np.floor(row) + 1):
        for x in (np.floor(column), np.floor(column) + 1):
            if 0 <= y < height and 0 <= x < width:
                share = (1 - abs(row - y)) * (1 - abs(column - x))
                total += share * image[int(y), int(x)].astype("float64")
    return total


def affine_place(distortion, signed, size):
    """A point goes to s R S q + t about the centre; the place shown is found backwards."""
    (height, width), (angle, scale, shear, down, right) = size, signed
    angle, shear = np.radians(angle * distortion.rotation), np.radians(shear * distortion.shear)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forwards = (1 + scale * distortion.scale) * rotation @ [[1, np.tan(shear)], [0, 1]]
    move = distortion.translation * np.array([right * width, down * height])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])

    def place(row, column):
        source = np.linalg.solve(forwards, np.array([column, row]) - centre - move) + centre
        return source[1], source[0]

    return place


def perspective_place(distortion, signed, size):
    """The eight numbers of the projective map from the equations of its four corners."""
    height, width = size
    corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) * np.array([height - 1, width - 1])
    moves = distortion.magnitude * signed.reshape(2, 4).T * np.array([height - 1, width - 1])
    system, targets = [], []
    for (row, column), (to_row, to_column) in zip(corners, corners + moves):
        system.append([row, column, 1, 0, 0, 0, -row * to_row, -column * to_row])
        system.append([0, 0, 0, row, column, 1, -row * to_column, -column * to_column])
        targets += [to_row, to_column]
    map_ = np.append(np.linalg.solve(system, targets), 1).reshape(3, 3)

    def place(row, column):
        source = map_ @ [row, column, 1]
        return source[:2] / source[2]

    return place


def spline_place(distortion, signed, size):
    """Bookstein's system, solved for the moves of one draw, in pixels."""
    height, width = size
    points = distortion.points
    control = np.array(
        [
            (r, c)
            for r in np.linspace(0, height - 1, points)
            for c in np.linspace(0, width - 1, points)
        ]
    )
    moves = distortion.magnitude * signed.reshape(2, -1).T * np.array([height, width])

    def bend(a, b):
        square = ((a - b) ** 2).sum()
        return square * np.log(square) if square else 0.0

    affine = np.hstack([np.ones((len(control), 1)), control])
    bending = np.array([[bend(a, b) for b in control] for a in control])
    system = np.block([[bending, affine], [affine.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.vstack([moves, np.zeros((3, 2))]))

    def place(row, column):
        at = np.array([row, column])
        terms = np.array([*(bend(at, b) for b in control), 1, row, column])
        return at + terms @ weights

    return place


PLACES = {
    "affine": affine_place,
    "perspective": perspective_place,
    "thin_plate_spline": spline_place,
}


def sampled(name, distortion, images, uniform):
    """Each pixel of each view by itself."""
    views = np.zeros(images.shape)
    for i, image in enumerate(images):
        place = PLACES[name](distortion, 2.0 * uniform[:, i] - 1, image.shape[:2])
        for row, column in np.ndindex(image.shape[:2]):
            views[i, row, column] = bilinear(image, *place(row, column))
    return views


def coloured(distortion, images, uniform):
    """Each pixel by way of luminance and its colour in the I-Q plane."""
    views = np.zeros(images.shape)
    to_yiq = np.array(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
    )
    for i, image in enumerate(images.astype("float64")):
        b, c, s, angle = 2.0 * uniform[:, i] - 1
        b, c, s = (
            1 + b * distortion.brightness,
            1 + c * distortion.contrast,
            1 + s * distortion.saturation,
        )
        angle *= 2 * np.pi * distortion.hue
        mean = (image @ to_yiq[0]).mean()
        for at in np.ndindex(image.shape[:2]):
            y, first, second = to_yiq @ image[at]
            turned = (first + 1j * second) * np.exp(1j * angle)
            pixel = np.linalg.solve(to_yiq, [y, s * turned.real, s * turned.imag])
            views[(i, *at)] = b * (c * pixel + (1 - c) * mean)
    return np.clip(views, 0, distortion.max_value)


def random_images(shape=(5, 9, 7, 3), dtype="float32", seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def random_uniform(distortion, n):
    uniform = np.random.default_rng(1).random((distortion.num_draws, n)).astype("float32")
    uniform[:, 0], uniform[:, 1] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    return uniform


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_equals_the_transcription(name, dtype):
    distortion, images = KINDS[name](), random_images()
    uniform = random_uniform(distortion, len(images))
    got = distortion.distort(ops.cast(images, dtype), ops.convert_to_tensor(uniform), ops)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    got = ops.convert_to_numpy(ops.cast(got, "float32"))
    if name == "color":
        expected = coloured(distortion, images, uniform)
    else:
        expected = sampled(name, distortion, images, uniform)
        assert (expected == 0).any(), "some place must lie outside"
    tolerance = {"float32": 0.01, "uint8": 0.51, "bfloat16": 1.0}[dtype]
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_one_channel_has_brightness_and_contrast_only():
    distortion, gray = Color(0.4, 0.5, 0.6, 0.3), random_images((4, 5, 5, 1))
    uniform = random_uniform(distortion, 4)
    got = distortion.distort(ops.convert_to_tensor(gray), ops.convert_to_tensor(uniform), ops)
    expected = coloured(distortion, gray.repeat(3, -1), uniform)[..., :1]
    np.testing.assert_allclose(ops.convert_to_numpy(got), expected, atol=0.01)


def test_color_cuts_at_the_largest_value():
    images = np.ones((64, 4, 4, 3), "float32")
    views = ops.convert_to_numpy(Color(0.5, 0, 0, 0, max_value=1.0, seed=0)(images))
    assert views.max() == 1 and 0.5 <= views.min() < 0.6


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", NOTHING)
def test_without_magnitude_the_images_to_the_bit(name, dtype):
    images = random_images(dtype=dtype) * np.asarray(1, dtype)
    np.testing.assert_array_equal(NOTHING[name]()(images), images)


@pytest.mark.parametrize("name", ["affine", "thin_plate_spline", "color"])
def test_the_middle_of_each_range_is_the_image_to_the_bit(name):
    distortion, images = KINDS[name](), random_images() / np.float32(3)
    middle = ops.convert_to_tensor(np.full((distortion.num_draws, 5), 0.5, "float32"))
    got = distortion.distort(ops.convert_to_tensor(images), middle, ops)
    np.testing.assert_array_equal(ops.convert_to_numpy(got), images)


@pytest.mark.parametrize("name", KINDS)
def test_each_image_and_each_view_has_its_own_draw(name):
    same = random_images((1, 8, 8, 3)).repeat(24, 0)
    distortion = KINDS[name](seed=3)
    views = np.concatenate([ops.convert_to_numpy(distortion(same)) for _ in range(2)])
    assert len({view.tobytes() for view in views}) == 48
    again = ops.convert_to_numpy(KINDS[name](seed=3)(same))
    np.testing.assert_array_equal(views[:24], again)
    np.testing.assert_array_equal(distortion(same, training=False), same)


def test_parameters_of_affine_fill_their_ranges():
    distortion = Affine(20, 0.2, 10, 0.1)
    uniform = keras.random.uniform((5, 4000), seed=keras.random.SeedGenerator(0))
    images = np.zeros((1, 10, 20, 3), "uint8")
    cosine, sine, scale, slope, down, right = (
        ops.convert_to_numpy(value).ravel() for value in distortion.parameters(uniform, images, ops)
    )
    drawn = {
        20: np.degrees(np.arctan2(sine, cosine)),
        0.2: scale - 1,
        10: np.degrees(np.arctan(slope)),
        1: down,
        2: right,
    }
    for limit, values in drawn.items():
        assert np.abs(values).max() <= limit * (1 + 1e-4)
        counts, _ = np.histogram(values, 8, (-limit, limit))
        np.testing.assert_allclose(counts / 4000, 1 / 8, atol=0.025)
    assert np.abs(np.corrcoef(list(drawn.values())) - np.eye(5)).max() < 0.08


def test_draws_are_uniform_through_the_layer():
    """A single bright column tells how far a view was moved to the side."""
    images = np.zeros((2000, 2, 41, 1), "float32")
    images[:, :, 20] = 255
    views = ops.convert_to_numpy(Affine(0, 0, 0, 0.2, seed=0)(images)).mean(1)[..., 0]
    moved = (views * np.arange(41)).sum(1) / np.maximum(views.sum(1), 1e-9) - 20
    moved = moved[views.sum(1) > 1]  # what is moved up or down by its height shows nothing
    assert np.abs(moved).max() <= 8.2
    counts, _ = np.histogram(moved, 4, (-8.2, 8.2))
    np.testing.assert_allclose(counts / len(moved), 1 / 4, atol=0.04)


@pytest.mark.parametrize("name", KINDS)
def test_in_tf_data_with_unknown_batch_size(name):
    tf = pytest.importorskip("tensorflow")
    distortion, images = KINDS[name](seed=3), random_images((1, 8, 8, 3), "uint8").repeat(12, 0)
    data = tf.data.Dataset.from_tensor_slices(images).batch(5)
    views = [batch.numpy() for batch in data.map(distortion)]
    assert [view.shape for view in views] == [(5, 8, 8, 3), (5, 8, 8, 3), (2, 8, 8, 3)]
    assert all(view.dtype == "uint8" for view in views)
    assert len({view.tobytes() for view in np.concatenate(views)}) == 12


@pytest.mark.parametrize("name", KINDS)
def test_tensorflow_computes_the_same_as_the_backend(name):
    tf = pytest.importorskip("tensorflow")
    from sd_keras.distortions import operations

    distortion, images = KINDS[name](), random_images()
    uniform = random_uniform(distortion, len(images))
    got = distortion.distort(
        tf.constant(images), tf.constant(uniform), operations.of(tf.constant(0))
    )
    expected = distortion.distort(
        ops.convert_to_tensor(images), ops.convert_to_tensor(uniform), ops
    )
    np.testing.assert_allclose(got.numpy(), ops.convert_to_numpy(expected), atol=0.02)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="XLA through tf.function")
@pytest.mark.parametrize("name", KINDS)
def test_compiles_under_xla(name):
    import tensorflow as tf

    distortion, images = KINDS[name](seed=0), random_images()
    uniform = random_uniform(distortion, len(images))
    compiled = tf.function(lambda x, u: distortion.distort(x, u, ops), jit_compile=True)
    expected = distortion.distort(tf.constant(images), tf.constant(uniform), ops)
    got = compiled(tf.constant(images), tf.constant(uniform))
    np.testing.assert_allclose(got, expected, atol=0.05)
    # With the draws inside, whose numbers are other ones under XLA.
    views = tf.function(distortion, jit_compile=True)(tf.constant(images.astype("uint8")))
    assert views.dtype == tf.uint8 and (views.numpy() != images).any()


@pytest.mark.parametrize("name", KINDS)
def test_config_round_trip(name):
    distortion = KINDS[name](seed=9)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(distortion))
    assert copy.get_config() == distortion.get_config()
    images = random_images()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(copy(images)), ops.convert_to_numpy(distortion(images))
    )
    assert copy.compute_output_shape((None, 9, 7, 3)) == (None, 9, 7, 3)


BAD = [
    (Affine, "rotation", 181),
    (Affine, "rotation", -1),
    (Affine, "scale", 1),
    (Affine, "shear", 90),
    (Affine, "translation", 1.5),
    (Affine, "translation", float("nan")),
    (Perspective, "magnitude", 0.25),
    (Perspective, "magnitude", "0.1"),
    (ThinPlateSpline, "magnitude", 0.5),
    (ThinPlateSpline, "points", 1),
    (ThinPlateSpline, "points", 2.5),
    (Color, "brightness", 1.1),
    (Color, "contrast", True),
    (Color, "saturation", -0.1),
    (Color, "hue", 0.6),
    (Color, "max_value", 0),
]


@pytest.mark.parametrize("kind,argument,value", BAD)
def test_bad_arguments_are_named(kind, argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}={value!r}"):
        kind(**{argument: value})


def test_images_of_unknown_size_are_named():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensors(np.zeros((2, 8, 8, 3)))
    data = data.map(
        lambda x: tf.ensure_shape(tf.py_function(lambda y: y, [x], x.dtype), [None] * 4)
    )
    with pytest.raises(ValueError, match=r"`images`.*known.*\(None, None, None, None\)"):
        data.map(Affine())


@pytest.mark.parametrize("name", KINDS)
def test_bad_images_are_named(name):
    with pytest.raises(ValueError, match=r"`images`.*rank 4.*\(8, 8, 3\)"):
        KINDS[name]()(np.zeros((8, 8, 3)))
    if name == "color":
        with pytest.raises(ValueError, match=r"`images`.*3 channels.*\(1, 8, 8, 2\)"):
            Color()(np.zeros((1, 8, 8, 2)))
    elif name != "affine":
        with pytest.raises(ValueError, match=r"`images`.*2x2 pixels.*\(1, 1, 8, 3\)"):
            KINDS[name]()(np.zeros((1, 1, 8, 3)))
