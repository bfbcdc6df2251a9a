"""Benchmarks of training on 32x32 images, in one process on the CPU.

Every function takes the Settings of apps/benchmark.py and yields figures, see `harness.figure`.
"""

import gc
import os
import statistics
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from benchmarks.device import without_torch
from benchmarks.harness import IMAGE_SHAPE, batch, figure, interleave, ratio
from benchmarks.training import in_precision, multiply_accumulates, step_of, trainer

from sd_keras import analysis, attach_exits, distortions, exit_names, methods, models, submodel
from sd_keras.analysis.inputs import Evaluation

if keras.config.backend() != "tensorflow":
    raise SystemExit("the bars are for Keras on TensorFlow: set KERAS_BACKEND=tensorflow")

# One compiled step per model is what is measured here; TensorFlow suspects a mistake.
tf.get_logger().setLevel("ERROR")

BOTH = "be_your_own_teacher+data_distortion"
# How many plain steps a step of each method may take, in float32 and in mixed_bfloat16.
STEP_BARS = {
    "be_your_own_teacher": ("<= 1.12", "<= 1.18"),
    "data_distortion": ("<= 2.1", "<= 2.1"),
    BOTH: ("<= 2.4", "<= 2.4"),
}
TEACHER = "resnet50"
NOISE_LEVELS, NOISE_DRAWS, NOISE_IMAGES = 20, 5, 128
GRADIENT_BATCHES = 8
# Both imports in one fresh interpreter: the difference between two whole start-ups would
# drown in their noise, since `import keras` takes seconds.
IMPORT_SCRIPT = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import sd_keras
print(middle - start, time.perf_counter() - middle)
"""


def steps(settings):
    """A step of each method against a step of the plain network, on batches of one size."""
    data = batch(settings)
    for precision in settings.precision:
        trainers = {name: trainer(settings, precision, name) for name in ("baseline", *STEP_BARS)}
        macs = {name: multiply_accumulates(model) for name, model in trainers.items()}
        functions = {name: step_of(model, data) for name, model in trainers.items()}
        seconds = interleave(functions, settings.repeats)
        for name, bars in STEP_BARS.items():
            bound = macs[name] / macs["baseline"]
            row = {"precision": precision, "macs_ratio": bound}
            row |= {"bar": bars[precision != "float32"], "note": f"{bound:.3f} by MACs"}
            yield ratio(f"{name} / plain step", seconds, name, "baseline", **row)


def torch_steps(settings):
    """Images per second against the same step in plain PyTorch, with one exit and with all.

    Both start from the same weights and see the same batch. Distortion, metrics and the check of
    the labels are part of our step only: PyTorch scripts distort in worker processes. Other
    programs disturb PyTorch more: its threads wait for each other at every operation.
    """
    if reason := without_torch(settings.model):
        raise SystemExit(f"torch cannot be measured: {reason}")
    import torch
    from benchmarks import pytorch

    # TensorFlow takes every core unless it is told otherwise.
    available = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count()))(0)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or len(available)
    torch.set_num_threads(threads)
    data = batch(settings)
    for precision in settings.precision:
        for method, exits in (("baseline", "one"), ("be_your_own_teacher", "all")):
            model = trainer(settings, precision, method)
            network = pytorch.TorchNetwork(settings.model, settings.num_classes, exits)
            pytorch.copy_weights(model.network, network)
            functions = {
                "ours": step_of(model, data),
                "torch": pytorch.step_of(network, *data, precision == "mixed_bfloat16"),
            }
            seconds = interleave(functions, settings.repeats)
            row = {"precision": precision, "threads": threads, "images": settings.batch_size}
            name = f"{method}, ours / torch images/s"
            yield ratio(name, seconds, "ours", "torch", ">= 0.95", **row)


def precision(settings):
    """Images per second of the plain step in mixed_bfloat16 against float32."""
    data = batch(settings)
    both = ("mixed_bfloat16", "float32")
    functions = {each: step_of(trainer(settings, each), data) for each in both}
    seconds = interleave(functions, settings.repeats)
    name = "mixed_bfloat16 / float32 images/s"
    yield ratio(name, seconds, *both, ">= 1.6", images=settings.batch_size)


def distortion(settings):
    """Each distortion against Keras's layers and CropFlip, and as a share of the plain step.

    All are compiled functions without XLA, as in a step on a CPU. Keras's RandomCrop draws one
    place for the whole batch where CropFlip draws one for each image, and RandomRotation is one
    part of Affine: Keras's layers do the easier work.
    """
    layers = keras.layers
    crop_flip = layers.ZeroPadding2D(4), layers.RandomCrop(32, 32), layers.RandomFlip("horizontal")
    color = {"brightness_factor": 0.3, "contrast_factor": 0.3, "saturation_factor": 0.65}
    # The nearest of Keras's layers to each distortion, at about the same magnitudes.
    theirs = {
        "CropFlip": keras.Sequential(crop_flip),
        "Affine": layers.RandomRotation(15 / 360, "constant"),
        "Perspective": layers.RandomPerspective(scale=0.24),
        "ThinPlateSpline": layers.RandomElasticTransform(),
        "Color": layers.RandomColorJitter((0, 255), hue_factor=0.05, **color),
    }
    data = batch(settings)
    images = tf.constant(data[0])

    def calls(layer, **arguments):
        compiled = tf.function(lambda x: layer(x, **arguments), autograph=False)
        return lambda: compiled(images), 20

    ours = {name: calls(getattr(distortions, name)(seed=0)) for name in theirs}
    functions = {name: calls(layer, training=True) for name, layer in theirs.items()}
    functions = ours | {("keras", name): function for name, function in functions.items()}
    seconds = interleave(functions, settings.repeats)
    for name, layer in theirs.items():
        bar = ">= 2.0" if name == "CropFlip" else None
        yield ratio(f"Keras's {type(layer).__name__} / {name}", seconds, ("keras", name), name, bar)
        if name != "CropFlip":
            yield ratio(f"{name} / CropFlip", seconds, name, "CropFlip")
    for each in settings.precision:
        step = step_of(trainer(settings, each), data)
        seconds = interleave(ours | {"step": step}, settings.repeats)
        for name in ours:
            row = {"bar": "<= 0.005" if name == "CropFlip" else "<= 0.01", "unit": "%"}
            yield ratio(f"{name} / step", seconds, name, "step", precision=each, **row)


def losses(settings):
    """Everything in compute_loss and its gradient, as a share of the step it belongs to."""
    data = batch(settings)
    row = {"bar": "<= 0.01", "unit": "%"}
    names = {f"data_distortion with {name}": name for name in methods.DISCREPANCIES}
    for each in settings.precision:
        trainers = {"losses and gradient": trainer(settings, each, BOTH)}
        for name, discrepancy in names.items():
            method = methods.data_distortion(discrepancy=discrepancy)
            trainers[name] = trainer(settings, each, method)
        functions = {name: _loss_and_gradient(model, data) for name, model in trainers.items()}
        for name in ("losses and gradient", "data_distortion with mmd"):
            functions["step of", name] = step_of(trainers[name], data)
        seconds = interleave(functions, settings.repeats)
        for name in trainers:
            step = "step of", "data_distortion with mmd" if name in names else name
            yield ratio(f"{name} / step", seconds, name, step, precision=each, **row)


def _loss_and_gradient(model, data):
    """Returns a function that computes the loss and its gradient, and how often to call it.

    The outputs are arguments of the compiled function, not constants that its optimizer
    could fold, and all gradients are returned, so that none is pruned away.
    """
    images, labels = (tf.constant(each) for each in data)
    views = tuple(model.distortion(images) for _ in range(model.method.num_views))
    outputs = tf.function(lambda x: model(x, training=True), autograph=False)(views)

    @tf.function(autograph=False)
    def compiled(outputs, labels):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = model.compute_loss(y=labels, y_pred=outputs)
        return loss, tape.gradient(loss, outputs)

    return lambda: compiled(outputs, labels), 10


def build(settings):
    """Building a network with all exits, and cutting it at the last but one, against the plain."""
    names = (settings.model,) if "model" in settings.chosen else (settings.model, "resnet152")
    for name in names:

        def built(at, name=name):
            return attach_exits(models.build(name, IMAGE_SHAPE), settings.num_classes, at=at)

        whole = built(None)
        functions = {
            "plain": lambda: built([]),
            "exits": lambda: built(None),
            "cut": lambda whole=whole: submodel(whole, exit_names(whole)[-2]),
        }
        seconds = interleave(functions, settings.repeats)
        bar = "<= 1.2" if name == "resnet152" else "<= 1.7"
        yield ratio(f"{name} with exits / plain", seconds, "exits", "plain", bar)
        yield ratio(f"{name} submodel / plain", seconds, "cut", "plain", "<= 0.5")
        keras.utils.clear_session()


def companions(settings):
    """A step with a teacher, and one with a peer, against what it cannot do without."""
    images, labels = data = batch(settings)
    for each in settings.precision:
        with in_precision(each):
            teacher, peer = (
                attach_exits(models.build(name, IMAGE_SHAPE), settings.num_classes, at=[])
                for name in (TEACHER, settings.model)
            )
        forward = tf.function(lambda x, net=teacher: net(x, training=False), autograph=False)
        plain = {"step": step_of(trainer(settings, each), data)}
        sides = {
            f"step with {TEACHER} as teacher / its forward pass + plain step": (
                trainer(settings, each, methods.knowledge_distillation(), teacher=teacher),
                plain | {"forward": lambda run=forward: run(tf.constant(images))["exit_1"].numpy()},
                "<= 1.03",
            ),
            "step of two peers / a plain step of each": (
                trainer(settings, each, methods.deep_mutual_learning(), peer=peer),
                plain | {"peer's step": step_of(trainer(settings, each), data)},
                "<= 1.05",
            ),
        }
        for name, (together, parts, bar) in sides.items():
            functions = {"together": step_of(together, data)} | parts
            seconds = interleave(functions, settings.repeats)
            seconds["sum"] = [sum(values) for values in zip(*(seconds[part] for part in parts))]
            medians = " + ".join(f"{statistics.median(seconds[part]):.3f}" for part in parts)
            row = {"precision": each, "note": f"sum of {medians} s"}
            yield ratio(name, seconds, "together", "sum", bar, **row)
        gc.collect()


def analyses(settings):
    """Evaluations under noise on the weights, and gradients by layer.

    A sweep is one call, with all that it has to compile, against as many plain evaluations of
    the same images. Of gradients by layer a further batch is compared with a training step.
    """
    rounds = min(settings.repeats, 3)  # a sweep takes a minute or more
    keras.utils.set_random_seed(0)
    network = attach_exits(models.build(settings.model, IMAGE_SHAPE), settings.num_classes)
    data = batch(settings, NOISE_IMAGES)
    deviations = np.linspace(0, 0.02, NOISE_LEVELS)
    evaluation = Evaluation(network)
    evaluation(*data)  # compiles
    count = NOISE_LEVELS * NOISE_DRAWS
    functions = {
        "noisy": lambda: analysis.weight_noise(network, *data, deviations, NOISE_DRAWS),
        "plain": lambda: [evaluation(*data) for _ in range(count)],
    }
    seconds = interleave(functions, rounds, warm_up=0)
    yield ratio(f"{count} noisy / plain evaluations", seconds, "noisy", "plain", "<= 1.1")

    model, size = trainer(settings, "float32", "be_your_own_teacher"), settings.batch_size
    images, labels = batch(settings, size * (1 + GRADIENT_BATCHES))
    step = step_of(model, (images[:size], labels[:size]))
    step()  # compiles

    def gradients(count):
        part = slice(0, size * count)
        return lambda: analysis.gradient_magnitudes(model, images[part], labels[part], size)

    functions = {"first": gradients(1), "all": gradients(1 + GRADIENT_BATCHES)}
    functions["step"] = lambda: [step() for _ in range(GRADIENT_BATCHES)]
    seconds = interleave(functions, rounds, warm_up=0)
    seconds["further"] = [max(1e-9, a - b) for a, b in zip(seconds["all"], seconds["first"])]
    name = "gradients by layer / training step, a batch"
    note = f"{GRADIENT_BATCHES} batches of {size}"
    yield ratio(name, seconds, "further", "step", "<= 1.05", note)


def import_time(settings):
    """The seconds that `import sd_keras` adds to `import keras`, in fresh interpreters."""
    imports = []
    for _ in range(min(5, settings.repeats) + 1):  # the first fills the file cache
        command = [sys.executable, "-c", IMPORT_SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        imports.append([float(word) for word in done.stdout.split()[-2:]])
    keras_seconds, added = zip(*imports[1:])
    note = f"import keras {statistics.median(keras_seconds):.2f} s"
    yield figure("seconds sd_keras adds", added, "<= 0.3", unit="s", note=note)
