"""CropFlip against a plain NumPy transcription, in every place it runs."""

import keras
import numpy as np
import pytest
from keras import ops

from sd_keras.distortions import CropFlip
from sd_keras.distortions.crop_flip import crop_flip


def reference(images, uniform, padding, flip):
    """The same crop and flip, one image at a time."""
    n, height, width, _ = images.shape
    result = np.zeros_like(images)
    for i in range(n):
        top, left = (np.float32(uniform[:2, i]) * (2 * padding + 1)).astype(int)
        padded = np.pad(images[i], [(padding, padding), (padding, padding), (0, 0)])
        crop = padded[top : top + height, left : left + width]
        result[i] = crop[:, ::-1] if flip and uniform[2, i] < 0.5 else crop
    return result


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(64, 8, 8, 1), (32, 12, 10, 3)])
@pytest.mark.parametrize("padding,flip", [(0, True), (3, False), (4, True)])
def test_equals_the_transcription(dtype, shape, padding, flip):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, shape).astype(dtype)
    uniform = generator.random((3, shape[0])).astype("float32")
    uniform[:2, 0], uniform[:2, 1] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    tensors = ops.convert_to_tensor(images), ops.convert_to_tensor(uniform)
    got = crop_flip(tensors[0], tensors[1], padding, flip, ops)
    np.testing.assert_array_equal(got, reference(images, uniform, padding, flip))
    assert str(got.dtype).endswith(f"{dtype}'>") or dtype in str(got.dtype)


def numbered(n=64):
    """Images in which every pixel differs, so that a view tells its crop and flip."""
    return np.arange(1, n * 8 * 8 + 1, dtype="float32").reshape(n, 8, 8, 1)


def draws(views):
    """One hashable draw per image: where the image's pixels went."""
    n = len(views)
    relative = np.where(views > 0, views - np.arange(n)[:, None, None, None] * 64, 0)
    return [tuple(image.ravel()) for image in relative]


def test_each_image_and_each_view_has_its_own_draw():
    distort = CropFlip(4, seed=1)
    first, second = (draws(np.array(distort(numbered()))) for _ in range(2))
    assert len(set(first)) > 40, "162 draws are possible; 64 images must not share a few"
    assert sum(a == b for a, b in zip(first, second)) < 5


def test_same_seed_same_views_and_training_false_is_the_image():
    a, b = CropFlip(2, seed=5), CropFlip(2, seed=5)
    np.testing.assert_array_equal(a(numbered()), b(numbered()))
    np.testing.assert_array_equal(a(numbered(), training=False), numbered())


def test_all_offsets_are_drawn_equally_often():
    images = np.ones((4050, 5, 5, 1), "uint8")
    views = np.array(CropFlip(4, flip=False, seed=0)(images))[..., 0]
    # With padding 4 on 5 pixels the count of kept rows tells |offset - 4|.
    rows = (views.max(2) > 0).sum(1)
    counts = np.bincount(rows, minlength=6)[1:]
    np.testing.assert_allclose(counts / len(images), [2 / 9] * 4 + [1 / 9], atol=0.03)


def test_in_tf_data_each_batch_is_drawn_anew():
    tf = pytest.importorskip("tensorflow")
    distort = CropFlip(4, seed=3)
    data = tf.data.Dataset.from_tensors(numbered()).repeat(3)
    data = data.map(lambda x: (distort(x), distort(x)))
    views = [draws(view.numpy()) for pair in data for view in pair]
    agreements = [
        sum(p == q for p, q in zip(views[i], views[j])) for i in range(6) for j in range(i)
    ]
    assert max(agreements) < 6
    assert views[0] != views[1]


def test_in_tf_data_with_unknown_batch_size():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(numbered()).batch(24).map(CropFlip(1, seed=0))
    assert [tuple(batch.shape) for batch in data] == [(24, 8, 8, 1), (24, 8, 8, 1), (16, 8, 8, 1)]


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="XLA through tf.function")
def test_compiles_under_xla():
    import tensorflow as tf

    # XLA's generator draws other numbers than TensorFlow's, so each image is compared with
    # all of its possible views instead of with the plain draw.
    images = numbered(16)
    views = tf.function(CropFlip(2, seed=3), jit_compile=True)(tf.constant(images)).numpy()
    grid = (np.arange(5) + 0.5) / 5
    uniform = np.stack(np.meshgrid(grid, grid, [0.25, 0.75]), -1).reshape(-1, 3).T
    for image, view in zip(images, views):
        possible = reference(np.repeat(image[None], 50, 0), uniform.astype("float32"), 2, True)
        assert any(np.array_equal(view, candidate) for candidate in possible)
    assert len(set(draws(views))) > 8


def test_config_round_trip():
    distort = CropFlip(3, flip=False, seed=9)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(distort))
    assert (copy.padding, copy.flip, copy.seed) == (3, False, 9)
    np.testing.assert_array_equal(copy(numbered()), distort(numbered()))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`padding`.*Received: padding=-1"):
        CropFlip(padding=-1)
    with pytest.raises(ValueError, match=r"`images`.*\(8, 8, 1\)"):
        CropFlip()(np.zeros((8, 8, 1)))
