"""The part of benchmark.py that measures training at ImageNet's size against the processor.

Run by `python apps/benchmark.py train`, see there. What the processor can do at best is
measured, not looked up: a 3x3 convolution with both of its gradients, in a shape that suits it,
so that the share that a training step reaches says what is left to gain. The views are
ready-made, as the input pipeline gives them.
"""

import gc
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from benchmarks.figures import fact, figure
from benchmarks.machine import machine
from benchmarks.parts import BOTH
from benchmarks.trainers import in_precision, multiply_accumulates

from sd_keras import SelfDistillModel, attach_exits, methods, models
from sd_keras.optimizers import SGD

# What is trained where --model and --batch_size are not given.
NETWORK, BATCH_SIZE = "resnet50", 8
METHODS = ("baseline", "be_your_own_teacher", "data_distortion", BOTH)
# Calls take seconds: more rounds than this, or longer ones, would tell little more.
ROUNDS, SECONDS = 3, 60
PEAK_ROUNDS, PEAK_SECONDS = 10, 5
# Images, size and channels, in and out, that ran fastest of those tried.
PEAK_SHAPE = (16, 32, 128)
MATMUL_SIZE = 1024
BFLOAT16_BAR = 1.6


def train_figures(settings):
    """The processor's peak, and images per second of each method as a share of it."""
    peaks = {}
    figures = []
    for precision in settings.precision:
        convolution, matmul = peak_of(precision, settings.repeats)
        peaks[precision] = max(convolution)
        best = f"best {max(convolution):.1f}; a matrix product {max(matmul):.1f}"
        row = {"values": convolution, "precision": precision, "unit": "GFLOP/s"}
        figures.append(fact("train", "peak of a 3x3 convolution", beside=best, **row))
    for method in METHODS:
        figures += _method_figures(method, precisions_of(method, settings), peaks, settings)
        keras.utils.clear_session()
        gc.collect()  # the next method needs the memory
    if settings.workers:
        from benchmarks.workers import workers_figures

        figures += workers_figures(settings)
    return figures


def precisions_of(method, settings):
    """The precisions to measure a method in; without AVX512-BF16 bfloat16 takes minutes."""
    asked = not settings["precision"].using_default_value
    if asked or machine()["avx512_bf16"] or method == METHODS[0]:
        return settings.precision
    return settings.precision[:1]


def peak_of(precision, repeats):
    """GFLOP/s of a convolution with its gradients, and of a matrix product, one per repeat."""
    dtype = "bfloat16" if precision == "mixed_bfloat16" else precision
    count, size, channels = PEAK_SHAPE
    shapes = (count, size, size, channels), (3, 3, channels, channels)
    images, kernel = (tf.cast(tf.random.normal(shape, stddev=0.1), dtype) for shape in shapes)
    matrix = tf.cast(tf.random.normal((MATMUL_SIZE, MATMUL_SIZE)), dtype)

    @tf.function(autograph=False)
    def convolution(images, kernel):
        options = {"strides": [1, 1, 1, 1], "padding": "SAME"}
        outputs = tf.nn.conv2d(images, kernel, **options)
        to_images = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shapes[0], filter=kernel, out_backprop=outputs, **options
        )
        to_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=images, filter_sizes=shapes[1], out_backprop=outputs, **options
        )
        return outputs, to_images, to_kernel

    product = tf.function(lambda a: tf.matmul(a, a), autograph=False)
    operations = 3 * 2 * count * size**2 * 9 * channels**2
    seconds = timed(
        {
            "convolution": lambda: [x.numpy() for x in convolution(images, kernel)[2:]],
            "matmul": lambda: product(matrix).numpy(),
        },
        min(PEAK_ROUNDS, repeats),
        PEAK_SECONDS,
    )
    return (
        [operations / 1e9 / value for value in seconds["convolution"]],
        [2 * MATMUL_SIZE**3 / 1e9 / value for value in seconds["matmul"]],
    )


def timed(functions, repeats, limit=SECONDS):
    """Calls functions in turn until `repeats` rounds or `limit` seconds are over, after a warm-up.

    Returns:
        A dict from name to the seconds of each call.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    end = time.perf_counter() + limit
    for index in range(repeats):
        if index and time.perf_counter() > end:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def trainer(settings, precision, method):
    """Returns a compiled SelfDistillModel of ImageNet's form."""
    method = methods.get(method)
    name = NETWORK if settings["model"].using_default_value else settings.model
    with in_precision(precision):
        keras.utils.set_random_seed(0)
        size = settings.image_size
        backbone = models.build(name, input_shape=(size, size, 3), stem="imagenet")
        at = None if method.min_exits > 1 else []
        model = SelfDistillModel(attach_exits(backbone, settings.num_classes, at=at), method)
    optimizer = SGD(0.1, momentum=0.9, weight_decay=1e-4)
    model.compile(optimizer=optimizer, metrics=["accuracy"])
    return model


def batch(settings, count, views):
    """Returns raw images, a tuple of batches for several views, and class numbers."""
    generator = np.random.default_rng(0)
    shape = (count, settings.image_size, settings.image_size, 3)
    images = tuple(generator.integers(0, 256, shape, dtype="uint8") for _ in range(views))
    labels = generator.integers(0, settings.num_classes, count, dtype="int32")
    return images if views > 1 else images[0], labels


def _method_figures(method, precisions, peaks, settings):
    """Images per second in each precision, in turn; the share of the peak, and the ratio."""
    count = BATCH_SIZE if settings["batch_size"].using_default_value else settings.batch_size
    trainers = {precision: trainer(settings, precision, method) for precision in precisions}
    steps = {}
    for precision, model in trainers.items():
        data = batch(settings, count, model.method.num_views)
        steps[precision] = lambda model=model, data=data: model.train_on_batch(*data)
    seconds = timed(steps, min(ROUNDS, settings.repeats))
    speeds, figures = {}, []
    for precision, model in trainers.items():
        speeds[precision] = [count / value for value in seconds[precision]]
        # Backward takes twice the products of forward: one for each gradient.
        operations = 3 * 2 * multiply_accumulates(model) / 1e9
        shares = [speed * operations / peaks[precision] for speed in speeds[precision]]
        reached = operations * statistics.median(speeds[precision])
        row = {"precision": precision, "values": shares, "unit": "%"}
        row["beside"] = f"{reached:.1f} GFLOP/s, {operations:.2f} GFLOP an image"
        row |= {"gflops": reached, "gflop_per_image": operations}
        speed = {"precision": precision, "values": speeds[precision], "unit": "images/s"}
        figures.append(fact("train", method, **speed, beside=f"batches of {count}"))
        figures.append(fact("train", f"{method}, share of the peak", **row))
    if len(precisions) > 1:
        figures.append(_ratio(method, speeds))
    return figures


def _ratio(method, speeds):
    """Images per second in mixed_bfloat16 against float32; a bar only where it applies."""
    low, high = speeds["mixed_bfloat16"], speeds["float32"]
    values = [a / b for a, b in zip(low, high)]
    name = f"{method}, mixed_bfloat16 / float32 images/s"
    row = {"values": values, "of_fastest": max(low) / max(high)}
    if machine()["avx512_bf16"]:
        return figure("train", name, f">= {BFLOAT16_BAR}", beside="", **row)
    beside = f"the bar {BFLOAT16_BAR} does not apply: no AVX512-BF16"
    return fact("train", name, beside=beside, **row)
