"""The part of benchmark.py that measures analyses: noisy weights, and gradients by layer.

Run by `python apps/benchmark.py analysis`, see there. A sweep of noise on the weights is one
call, with all that it has to compile; beside it stand as many plain evaluations of the same
images by a compiled function, which is compiled before. Gradients by layer are compared, batch by
batch, with training steps: what a further batch takes, without the compilation.
"""

import time

import keras
import numpy as np
from benchmarks.figures import compare, figure
from benchmarks.images import IMAGE_SHAPE, batch
from benchmarks.trainers import step_of, trainer

from sd_keras import analysis, attach_exits, models
from sd_keras.analysis.inputs import Evaluation

LEVELS, DRAWS = 20, 5
IMAGES = 128
BAR = "<= 1.1"
# A sweep takes a minute or more.
MOST_ROUNDS = 3
# Batches of the gradients' analysis beyond the first, and how much more than a step each may take.
BATCHES, GRADIENTS_BAR = 8, "<= 1.05"


def analysis_figures(settings):
    """A sweep of noise against plain evaluations, gradients by layer against steps."""
    return [_noise_figure(settings), _gradients_figure(settings)]


def _gradients_figure(settings):
    """A further batch of the gradients by layer against a training step."""
    model = trainer(settings, "float32", "be_your_own_teacher")
    step, size = step_of(model, settings, settings.batch_size), settings.batch_size
    images, labels = batch(settings, size * (1 + BATCHES))

    def analysed(count):
        part = slice(0, size * count)
        analysis.gradient_magnitudes(model, images[part], labels[part], size)

    step()  # compiles
    further, steps = [], []
    for _ in range(_rounds(settings)):
        first = _seconds(lambda: analysed(1))
        further.append(max(1e-9, _seconds(lambda: analysed(1 + BATCHES)) - first))
        steps.append(_seconds(lambda: [step() for _ in range(BATCHES)]))
    row = compare(further, steps)
    row["beside"] = (
        f"{min(further) / BATCHES:.3f} / {min(steps) / BATCHES:.3f} s, batches of {size}"
    )
    name = "gradients by layer / training step, a batch"
    return figure("analysis", name, GRADIENTS_BAR, **row)


def _noise_figure(settings):
    """A sweep of 20 levels and 5 draws of noise against 100 plain evaluations."""
    keras.utils.set_random_seed(0)
    backbone = models.build(settings.model, IMAGE_SHAPE)
    network = attach_exits(backbone, settings.num_classes)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, *IMAGE_SHAPE), dtype="uint8")
    labels = generator.integers(0, settings.num_classes, IMAGES)
    deviations = np.linspace(0, 0.02, LEVELS)
    evaluation = Evaluation(network)
    evaluation(images, labels)  # compiles

    def plainly():
        for _ in range(LEVELS * DRAWS):
            evaluation(images, labels)

    def with_noise():
        analysis.weight_noise(network, images, labels, deviations, DRAWS)

    rounds = [(_seconds(with_noise), _seconds(plainly)) for _ in range(_rounds(settings))]
    noisy, plain = zip(*rounds)
    beside = f"{min(noisy):.1f} / {min(plain):.1f} s, {IMAGES} images"
    row = compare(noisy, plain) | {"beside": beside}
    return figure("analysis", f"{LEVELS * DRAWS} noisy / plain evaluations", BAR, **row)


def _rounds(settings):
    return min(settings.repeats, MOST_ROUNDS)


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
