"""The part of benchmark.py that measures what the distortions cost.

Run by `python apps/benchmark.py distortion`, see there. All get raw images, as in training,
and are compiled functions of TensorFlow without XLA, as in a step on a CPU.
"""

import statistics

import keras
import tensorflow as tf
from benchmarks.figures import compare, fact, figure, interleave
from benchmarks.images import IMAGE_SHAPE, batch
from benchmarks.trainers import step_of, trainer

from sd_keras import distortions

# Calls in one turn: a single one is too short to be timed.
CALLS = 20
CROP_FLIP = "CropFlip"
# The nearest of Keras's layers to each of ours, at about the same magnitudes.
KERAS_LAYERS = {
    "Affine": ("RandomRotation", {"factor": 15 / 360, "fill_mode": "constant"}),
    "Perspective": ("RandomPerspective", {"scale": 0.24}),
    "ThinPlateSpline": ("RandomElasticTransform", {}),
    "Color": (
        "RandomColorJitter",
        {
            "value_range": (0, 255),
            "brightness_factor": 0.3,
            "contrast_factor": 0.3,
            "saturation_factor": 0.65,
            "hue_factor": 0.05,
        },
    ),
}


def distortion_figures(settings):
    """Each distortion against CropFlip and Keras's layers, and as a share of the plain step."""
    images = tf.constant(batch(settings, settings.piece_batch_size)[0])
    ours = {
        name: _calls(getattr(distortions, name)(seed=0), images)
        for name in (CROP_FLIP, *KERAS_LAYERS)
    }
    figures = _against_keras(ours, images, settings)
    for precision in settings.precision:
        step = step_of(trainer(settings, precision), settings, settings.piece_batch_size)
        seconds = interleave(ours | {"step": step}, settings.repeats)
        for name in ours:
            medians = [statistics.median(seconds[key]) for key in (name, "step")]
            beside = f"{medians[0] * 1e3:.2f} ms of {medians[1]:.3f} s"
            row = compare(seconds[name], seconds["step"]) | {"precision": precision}
            row |= {"unit": "%", "beside": beside, "seconds": medians}
            bar = "<= 0.005" if name == CROP_FLIP else "<= 0.01"
            figures.append(figure("distortion", f"{name} / step", bar, **row))
    return figures


def _against_keras(ours, images, settings):
    """Keras's layers against ours, and ours against CropFlip.

    Keras's RandomCrop draws one place for the whole batch where CropFlip draws one for each
    image, so Keras's layers do the easier work; RandomRotation is one part of Affine.
    """
    theirs = {CROP_FLIP: ("layers", _crop_flip_of_keras())}
    for name, (kind, arguments) in KERAS_LAYERS.items():
        theirs[name] = (kind, getattr(keras.layers, kind)(**arguments, seed=0))
    compiled = {f"keras {n}": _calls(layer, images, True) for n, (_, layer) in theirs.items()}
    seconds = interleave(compiled | ours, settings.repeats)
    figures = []
    for name, (kind, _) in theirs.items():
        pair = seconds[f"keras {name}"], seconds[name]
        times = [statistics.median(values) * 1e3 for values in pair]
        row = compare(*pair) | {"beside": "{:.2f} / {:.2f} ms".format(*times)}
        title = f"Keras's {kind} / {name}"
        if name == CROP_FLIP:
            figures.append(figure("distortion", title, ">= 2.0", **row))
            continue
        figures.append(fact("distortion", title, **row))
        row = compare(seconds[name], seconds[CROP_FLIP]) | {"beside": ""}
        figures.append(fact("distortion", f"{name} / {CROP_FLIP}", **row))
    return figures


def _crop_flip_of_keras():
    return keras.Sequential(
        [
            keras.layers.ZeroPadding2D(4),
            keras.layers.RandomCrop(*IMAGE_SHAPE[:2], seed=0),
            keras.layers.RandomFlip("horizontal", seed=0),
        ]
    )


def _calls(distortion, images, of_keras=False):
    """Returns a function that distorts the images, and how often one turn calls it."""
    arguments = {"training": True} if of_keras else {}
    compiled = tf.function(lambda x: distortion(x, **arguments), autograph=False)
    return lambda: compiled(images), CALLS
