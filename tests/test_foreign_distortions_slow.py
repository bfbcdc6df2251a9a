"""Every layer of Keras and KerasCV that distorts images, in a training step and under XLA.

What docs/distortions.md says of them comes from here.
"""

import keras
import numpy as np
import pytest
from test_chain import fits, random_images

from sd_keras.trainer.self_distill import draw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="tried on TensorFlow"),
]
RANGE = (0, 255)
RANGED = {"value_range": RANGE}
OF_KERAS = {
    "RandomFlip": {"mode": "horizontal"},
    "RandomRotation": {"factor": 0.05},
    "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
    "RandomZoom": {"height_factor": 0.1},
    "RandomShear": {"x_factor": 0.1, "y_factor": 0.1},
    "RandomPerspective": {"scale": 0.2},
    "RandomElasticTransform": {},
    "RandomBrightness": {"factor": 0.2} | RANGED,
    "RandomContrast": {"factor": 0.2} | RANGED,
    "RandomSaturation": {"factor": 0.5} | RANGED,
    "RandomHue": {"factor": 0.1} | RANGED,
    "RandomColorJitter": {"brightness_factor": 0.2, "hue_factor": 0.1} | RANGED,
    "RandomColorDegeneration": {"factor": 0.5} | RANGED,
    "RandomGrayscale": {"factor": 0.5},
    "RandomInvert": {"factor": 0.5} | RANGED,
    "RandomPosterization": {"factor": 4} | RANGED,
    "RandomSharpness": {"factor": 0.5} | RANGED,
    "RandomGaussianBlur": RANGED,
    "RandomErasing": RANGED,
    "RandAugment": RANGED,
    "AugMix": RANGED,
}
OF_KERAS_CV = {
    "RandomFlip": {"mode": "horizontal"},
    "RandomRotation": {"factor": 0.05},
    "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
    "RandomZoom": {"height_factor": 0.1},
    "RandomShear": {"x_factor": 0.1, "y_factor": 0.1},
    "RandomCropAndResize": {
        "target_size": (12, 12),
        "crop_area_factor": (0.5, 1.0),
        "aspect_ratio_factor": (0.8, 1.2),
    },
    "RandomBrightness": {"factor": 0.2} | RANGED,
    "RandomContrast": {"factor": 0.2} | RANGED,
    "RandomSaturation": {"factor": 0.5},
    "RandomHue": {"factor": 0.1} | RANGED,
    "RandomColorJitter": {
        "brightness_factor": 0.2,
        "contrast_factor": 0.2,
        "saturation_factor": 0.5,
        "hue_factor": 0.1,
    }
    | RANGED,
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5} | RANGED,
    "RandomGaussianBlur": {"kernel_size": 3, "factor": 1.0},
    "RandomCutout": {"height_factor": 0.5, "width_factor": 0.5},
    "GridMask": {},
    "ChannelShuffle": {"groups": 3},
    "RandomChannelShift": {"factor": 0.3} | RANGED,
    "JitteredResize": {"target_size": (12, 12), "scale_factor": (0.8, 1.2)},
    "RandAugment": RANGED,
    "AugMix": RANGED,
}
# Which of them XLA cannot compile.
NOT_UNDER_XLA = {
    "keras": {
        *("RandomRotation", "RandomTranslation", "RandomZoom", "RandomShear"),
        *("RandomPerspective", "RandomElasticTransform", "RandAugment", "AugMix"),
    },
    "keras_cv": {
        *("RandomRotation", "RandomTranslation", "RandomZoom", "RandomShear"),
        *("RandomCropAndResize", "GridMask", "RandomChannelShift", "JitteredResize"),
        *("RandAugment", "AugMix"),
    },
}
ALL = [("keras", name) for name in OF_KERAS] + [("keras_cv", name) for name in OF_KERAS_CV]


def layer_of(library, name):
    if library == "keras":
        return getattr(keras.layers, name)(**OF_KERAS[name], seed=0)
    return getattr(pytest.importorskip("keras_cv").layers, name)(**OF_KERAS_CV[name], seed=0)


@pytest.mark.parametrize("library,name", ALL)
def test_draws_anew_in_each_step_and_for_each_view(library, name):
    views = fits(layer_of(library, name))
    assert len({view.tobytes() for view in views}) == 6
    assert views[0].dtype == "float32" and views[0].min() >= 0 and 1 < views[0].max() <= 255


@pytest.mark.parametrize("library,name", ALL)
def test_under_xla(library, name):
    import tensorflow as tf

    layer, images = layer_of(library, name), tf.constant(random_images())
    step = tf.function(lambda x: draw(layer, x, 2), jit_compile=True, autograph=False)
    if name in NOT_UNDER_XLA[library]:
        with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
            step(images)
        # By this Keras compiles a model without XLA. KerasCV does not say so, nor do these two.
        says_nothing = library == "keras_cv" or name in ("RandAugment", "AugMix")
        assert layer.supports_jit == says_nothing
    else:
        a, b = (view.numpy() for view in step(images))
        assert (a != b).any()


@pytest.mark.parametrize("library,name", ALL)
def test_random_states_that_are_saved(library, name):
    """Those of Keras are variables of the layer, those of KerasCV are not."""
    states = [variable for variable in layer_of(library, name).variables if "seed" in variable.path]
    assert bool(states) == (library == "keras")


@pytest.mark.parametrize("library", ["keras", "keras_cv"])
@pytest.mark.parametrize("name", ["Equalization", "AutoContrast", "Solarization"])
def test_without_draws_all_views_are_the_same(library, name):
    import tensorflow as tf

    package = keras if library == "keras" else pytest.importorskip("keras_cv")
    layer = getattr(package.layers, name)(value_range=RANGE)
    step = tf.function(lambda x: draw(layer, x, 2), autograph=False)
    a, b = step(tf.constant(random_images()))
    np.testing.assert_array_equal(a, b)


def test_random_crop_of_keras_draws_once_for_the_batch():
    same = np.repeat(random_images()[:1], 16, 0)
    views = np.array(keras.layers.RandomCrop(6, 6, seed=0)(same, training=True))
    assert len({view.tobytes() for view in views}) == 1
