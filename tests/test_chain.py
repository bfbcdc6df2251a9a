"""Several distortions in a chain, and those of Keras and KerasCV, in a model that trains."""

import keras
import numpy as np
import pytest
from conftest import large_except, smallest_network, tiny_model
from keras import ops

import sd_keras
from sd_keras import methods
from sd_keras.distortions import (
    Affine,
    Chain,
    Color,
    CropFlip,
    Perspective,
    ThinPlateSpline,
)
from sd_keras.trainer.self_distill import draw

SHAPE = (16, 12, 12, 3)
layers = keras.layers


def chain(seed=0):
    return Chain([CropFlip(2, seed=seed), Affine(seed=seed + 1), Color(seed=seed + 2)])


def random_images(shape=SHAPE, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def test_applies_one_after_another():
    images = random_images()
    one = CropFlip(2, seed=0), Affine(seed=1), Color(seed=2)
    expected = one[2](one[1](one[0](images)))
    got = chain()(images)
    assert keras.backend.standardize_dtype(got.dtype) == "uint8"
    np.testing.assert_array_equal(numpy(got), numpy(expected))
    np.testing.assert_array_equal(chain()(images, training=False), images)
    assert chain().compute_output_shape(SHAPE) == SHAPE


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_dtype_is_kept_by_layers_of_keras(dtype):
    distortion = Chain([layers.RandomTranslation(0.2, 0.2, seed=0), CropFlip(1, seed=1)])
    images = random_images(dtype=dtype)
    views = distortion(images)
    assert keras.backend.standardize_dtype(views.dtype) == dtype
    assert (numpy(views) != images).any()
    # What leaves the range of pixels is cut, not wrapped around.
    brighter = Chain([lambda x: ops.cast(x, "float32") + 300.7])(images)
    assert (numpy(brighter) == 255).all() or dtype == "float32"


def test_functions_and_layers_without_training(images):
    """A function is called on the batch; a plain layer is not told of training."""
    distortion = Chain([lambda x: 255 - x, layers.Rescaling(1.0)])
    np.testing.assert_array_equal(numpy(distortion(images)), 255 - images)


def test_config_round_trip():
    distortion = Chain([CropFlip(3, seed=1), layers.RandomRotation(0.1, seed=2), Chain([Color(0)])])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(distortion))
    kinds = [type(part) for part in copy.distortions]
    assert kinds == [CropFlip, layers.RandomRotation, Chain]
    assert copy.distortions[0].get_config() == distortion.distortions[0].get_config()
    images = random_images()
    np.testing.assert_array_equal(numpy(copy(images)[:, :, 0, 0]).shape, (16, 12))


@pytest.mark.parametrize("distortions", [[], None, Color, [Color], [CropFlip(), "flip"]])
def test_bad_lists_are_named(distortions):
    with pytest.raises(ValueError, match="`distortions` must be a list.*Received: distortions="):
        Chain(distortions)


def test_in_tf_data():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(random_images()).batch(10).map(chain())
    views = [batch.numpy() for batch in data]
    assert [view.shape[0] for view in views] == [10, 6] and views[0].dtype == "uint8"


def test_random_states_of_a_chain_are_saved_and_drawn_on(tmp_path):
    """Trained, saved, loaded, trained on: the same as without the break."""
    distortion = Chain(
        [
            CropFlip(1, seed=1),
            Perspective(seed=2),
            ThinPlateSpline(3, seed=3),
            Color(seed=4),
            layers.RandomContrast(0.3, value_range=(0, 255), seed=5),
        ]
    )
    model = tiny_model(methods.data_distortion(), distortion, at=[])
    images, labels = random_images((16, 8, 8, 1)), np.arange(16) % 4
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(images, labels, **options)
    states = [numpy(v) for v in model.variables if "seed" in v.path]
    assert len(states) >= 5
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    restored = [numpy(v) for v in loaded.variables if "seed" in v.path]
    np.testing.assert_array_equal(restored, states)
    first, second = (m.fit(images, labels, **options).history for m in (model, loaded))
    assert first == second
    moved = [numpy(v) for v in model.variables if "seed" in v.path]
    assert all((a != b).any() for a, b in zip(moved, states))


VALUES = {"value_range": (0, 255)}
OF_KERAS = {
    "RandomFlip": lambda: layers.RandomFlip("horizontal", seed=0),
    "RandomRotation": lambda: layers.RandomRotation(0.05, fill_mode="constant", seed=0),
    "RandomTranslation": lambda: layers.RandomTranslation(0.1, 0.1, seed=0),
    "RandomZoom": lambda: layers.RandomZoom(0.1, seed=0),
    "RandomShear": lambda: layers.RandomShear(0.1, 0.1, seed=0),
    "RandomPerspective": lambda: layers.RandomPerspective(scale=0.2, seed=0),
    "RandomColorJitter": lambda: layers.RandomColorJitter(
        **VALUES, brightness_factor=0.2, hue_factor=0.1, seed=0
    ),
    "RandomErasing": lambda: layers.RandomErasing(**VALUES, seed=0),
    "RandAugment": lambda: layers.RandAugment(**VALUES, seed=0),
}
# One that has a kernel of its own, one that draws boxes, one that decides on tensors.
QUICK = ("RandomRotation", "RandomErasing", "RandAugment")
on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="layers of Keras are tried on TensorFlow"
)


def fits(distortion):
    """Trains a step with the distortion; returns six views of the same images, of three steps."""
    import tensorflow as tf

    images, labels = random_images(), np.arange(16) % 4
    model = sd_keras.SelfDistillModel(
        smallest_network(SHAPE[1:]), methods.data_distortion(), distortion
    )
    model.compile(sd_keras.optimizers.SGD(0.01), jit_compile=False)
    history = model.fit(images, labels, batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["view_mmd"][0] > 0
    step = tf.function(lambda x: draw(distortion, x, 2), autograph=False)
    return [view.numpy() for _ in range(3) for view in step(tf.constant(images))]


@on_tensorflow
@pytest.mark.parametrize("name", large_except(OF_KERAS, QUICK))
def test_layers_of_keras_serve_in_fit(name):
    views = fits(Chain([OF_KERAS[name](), CropFlip(1, flip=False, seed=0)]))
    assert len({view.tobytes() for view in views}) == 6


def of_keras_cv(name):
    cv = pytest.importorskip("keras_cv").layers
    return {
        "RandomRotation": lambda: cv.RandomRotation(0.05, seed=0),
        "RandomBrightness": lambda: cv.RandomBrightness(0.2, (0, 255), seed=0),
        "RandomColorJitter": lambda: cv.RandomColorJitter((0, 255), 0.2, 0.2, 0.5, 0.1, seed=0),
        "RandomCutout": lambda: cv.RandomCutout(0.5, 0.5, seed=0),
        "RandAugment": lambda: cv.RandAugment((0, 255), seed=0),
        "AugMix": lambda: cv.AugMix((0, 255), seed=0),
        "RandomApply": lambda: cv.RandomApply(cv.RandomHue(0.3, (0, 255), seed=1), seed=0),
    }[name]()


@on_tensorflow
@pytest.mark.large
@pytest.mark.parametrize(
    "name",
    [
        *("RandomCutout", "RandomApply", "RandomRotation", "RandomBrightness"),
        *("RandomColorJitter", "RandAugment", "AugMix"),
    ],
)
def test_layers_of_keras_cv_serve_in_fit(name):
    """The last three decide on tensors, which fails in a step of Keras if nothing is done.

    RandomBrightness draws by the global seed, which must not make both views the same.
    """
    views = fits(of_keras_cv(name))
    assert len({view.tobytes() for view in views}) == 6


def test_what_is_said_of_keras_cv_under_another_backend(monkeypatch):
    class OfKerasCV:
        __module__ = "keras_cv.layers"

        def __call__(self, images):
            return images

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KerasCV.*tf.data.*Received: OfKerasCV under jax"):
        Chain([OfKerasCV()])(random_images())
