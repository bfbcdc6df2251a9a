"""Benchmarks of training at ImageNet's size on the CPU: steps, workers, backups, input pipeline.

Every function without `protocol` takes the Settings of apps/benchmark.py and yields figures, see
`harness.figure`; the others run in processes of their own, see `harness.WorkerProcess`.
"""

import functools
import gc
import json
import os
import pathlib
import socket
import tempfile
import time
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from benchmarks.device import VIEWS, peak
from benchmarks.harness import (
    WorkerProcess,
    batch,
    figure,
    interleave,
    ratio,
    result_of,
    speed_figures,
    take_turns,
)
from benchmarks.training import Turns, multiply_accumulates, step_of, trainer
from machine import machine

import sd_keras

# Steps of a worker's turn.
WORKER_STEPS = 4
BACKUP_STEPS = 50
# Batches of a pass over the input. What starting one takes, up to a third of a second, is measured
# by a pass of one batch and subtracted: an epoch of ImageNet has thousands of batches.
INPUT_STEPS = 12
CROP, WHOLE = 224, 256
PROTOCOLS = ("paper", "random_resized_crop")
DECODER = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


def train(settings):
    """Images per second of each method as a share of the processor's peak.

    The peak is that of a 3x3 convolution. The views are ready-made, as the input pipeline gives
    them.
    """
    peaks = {}
    for precision in settings.precision:
        product, convolution = peak("ours", precision)["rates"].values()
        peaks[precision] = 1000 * max(convolution)
        note = f"best {max(convolution):.3f}; a matrix product {max(product):.3f}"
        row = {"precision": precision, "unit": "TFLOP/s", "note": note}
        yield figure("peak of a 3x3 convolution with its gradients", convolution, **row)
    for method in VIEWS:
        yield from _method_figures(method, peaks, settings)
        keras.utils.clear_session()
        gc.collect()  # the next method needs the memory


def _method_figures(method, peaks, settings):
    """Images per second in each precision, in turn; the share of the peak, and the ratio."""
    size, count = settings.image_size, settings.batch_size
    trainers = {each: trainer(settings, each, method, size=size) for each in settings.precision}
    data = batch(settings, views=VIEWS[method], size=size)
    functions = {each: step_of(model, data) for each, model in trainers.items()}
    # Calls take seconds: more rounds, or longer ones, would tell little more.
    seconds = interleave(functions, min(3, settings.repeats), warm_up=1, limit=60)
    for precision, model in trainers.items():
        work = multiply_accumulates(model), peaks[precision] / 1e3
        row = {"precision": precision, "note": f"batches of {count}"}
        yield from speed_figures(method, seconds[precision], count, *work, **row)
    if len(trainers) > 1:
        bar = ">= 1.6" if machine()["avx512_bf16"] else None
        name = f"{method}, mixed_bfloat16 / float32 images/s"
        yield ratio(name, seconds, "mixed_bfloat16", "float32", bar, images=count)


def workers(settings):
    """Images per second of two workers with a core each against one process with both cores."""
    cores = sorted(getattr(os, "sched_getaffinity", lambda pid: ())(0))[:2]
    if len(cores) < 2:
        raise SystemExit("workers needs 2 processor cores, and Linux to assign them")
    names = ("model", "num_classes", "batch_size")
    arguments = {name: getattr(settings, name) for name in names}
    sockets = [socket.socket() for _ in cores]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    function = "imagenet.train_in_turns"
    one = WorkerProcess("the single process", function, cores=cores, **arguments)
    sides = {"one": [one], "two": []}
    for index, core in enumerate(cores):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        variables = {"TF_CONFIG": json.dumps(task)}
        worker = WorkerProcess(f"worker {index}", function, variables, [core], **arguments)
        sides["two"].append(worker)
    _, answers = take_turns(sides, 1 + min(4, settings.repeats))
    # The first turn compiles.
    seconds = {side: [each["seconds"] for each in turns[1:]] for side, turns in answers.items()}
    count = settings.batch_size
    note = f"batches of {count}, TF_ENABLE_ONEDNN_OPTS={os.environ.get('TF_ENABLE_ONEDNN_OPTS')}"
    name = f"{settings.model}, 2 workers / 1 process images/s"
    yield ratio(name, seconds, "two", "one", ">= 0.85", note, images=count)


def train_in_turns(protocol, model, num_classes, batch_size):
    """Trains some steps of an ordinary `fit` in each turn."""
    tf.config.threading.set_intra_op_parallelism_threads(len(os.sched_getaffinity(0)))
    kind = "multi_worker" if "TF_CONFIG" in os.environ else "none"
    strategy = sd_keras.distribute.strategy(kind)
    settings = SimpleNamespace(model=model, num_classes=num_classes, batch_size=batch_size)
    with strategy.scope():
        model = trainer(settings, "float32")
    data = tf.data.Dataset.from_tensor_slices(batch(settings, 4 * batch_size))

    protocol.answer()
    run = {"steps_per_epoch": WORKER_STEPS, "epochs": 10**6, "verbose": 0, "shuffle": False}
    model.fit(data.batch(batch_size).repeat(), callbacks=[Turns(protocol)], **run)


def backup(settings):
    """The share of training that backups take, and a resumed run's start against a new one's.

    A start is timed from the birth of the process to the end of its first training step.
    """
    seconds = {"step": [], "save": []}

    class Timer(keras.callbacks.Callback):
        """A Backup writes after all callbacks' `on_epoch_end`."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch > 1:  # the first one compiles
                seconds["save"].append(time.perf_counter() - self.end)
                seconds["step"].append(self.step)

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.step = time.perf_counter() - self.start

        def on_epoch_end(self, epoch, logs=None):
            self.end = time.perf_counter()

    model = trainer(settings, "float32", size=settings.image_size)
    images, labels = batch(settings, size=settings.image_size)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [Timer(), sd_keras.Backup(folder, keep=1)]
        run = {"epochs": 2 + min(5, settings.repeats), "batch_size": settings.batch_size}
        model.fit(images, labels, verbose=0, callbacks=callbacks, **run)
        size = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*")) / 1e6
    seconds["steps"] = [BACKUP_STEPS * value for value in seconds["step"]]
    name = f"a backup every {BACKUP_STEPS} steps / these steps"
    note = f"{size:.0f} MB, steps of {settings.batch_size} images"
    yield ratio(name, seconds, "save", "steps", "<= 0.03", note, unit="%")

    with tempfile.TemporaryDirectory() as folder:
        _start(settings.model, folder, "resumed")
        sides = {"resumed": [], "begun": []}
        for index in range(min(3, settings.repeats)):
            sides["begun"].append(_start(settings.model, folder, f"begun_{index}"))
            sides["resumed"].append(_start(settings.model, folder, "resumed"))
    name = f"{settings.model}, first step of a resumed run / of a new one"
    yield ratio(name, sides, "resumed", "begun", "<= 1.2")


def _start(model, folder, name):
    """Returns the seconds from the start of a process to the end of its first step."""
    start = time.time()
    arguments = {"model": model, "folder": os.path.join(folder, name)}
    return result_of("a run with backups", "imagenet.train_one_step", **arguments)["time"] - start


def train_one_step(protocol, model, folder):
    """Trains the next epoch of a run, of one step; answers with when that step ended."""
    settings = SimpleNamespace(model=model, num_classes=2, batch_size=8)
    model = trainer(settings, "float32", size=64)

    class FirstStep(keras.callbacks.Callback):
        end = None

        def on_train_batch_end(self, batch, logs=None):
            self.end = time.time()

        def on_epoch_begin(self, epoch, logs=None):
            if self.end:  # and the epoch is saved; `stop_training` would end the run for good
                protocol.answer(time=self.end)
                raise SystemExit

    images, labels = batch(settings, size=64)
    run = {"epochs": 10**6, "batch_size": settings.batch_size, "verbose": 0}
    model.fit(images, labels, callbacks=[FirstStep(), sd_keras.Backup(folder, keep=1)], **run)


def input_pipeline(settings):
    """Two views of each image, read, decoded once, cropped and batched, on one thread.

    Compared is the processor time. Files are those of --jpegs, or generated.
    """
    # Images per second as multiples of: decoding alone, two pipelines that decode the whole
    # image, two that decode their window.
    bars = {"bare decode": ">= 0.75", "2 full decodes": ">= 1.5", "2 decode_and_crop": ">= 1.1"}
    count, functions = settings.batch_size, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = sorted(pathlib.Path(settings.jpegs or folder).rglob("*.JPEG")) or _jpegs(folder)
        for steps in (1, INPUT_STEPS):
            images = folder / str(steps) / "class"
            images.mkdir(parents=True)
            for index in range(steps * count):
                path = files[index % len(files)].absolute()
                (images / f"{index:06}.jpg").symlink_to(path)
            for name, data in _pipelines(images, count).items():
                functions[name, steps] = lambda data=data: [None for _ in data]
        times = interleave(functions, settings.repeats, clock=time.process_time)
    seconds = {
        name: [long - short for long, short in zip(times[name, INPUT_STEPS], times[name, 1])]
        for name, _ in functions
    }
    count *= INPUT_STEPS - 1
    for protocol in PROTOCOLS:
        for other, bar in bars.items():
            side = other if other == "bare decode" else f"{protocol}, {other}"
            name = f"{protocol}, 2 views / {other}"
            yield ratio(name, seconds, protocol, side, bar, images=count)
    note = "read, decode, one resize, two slices and mirrors, batch; nothing checked"
    name = "paper, 2 fixed views / bare decode"
    yield ratio(name, seconds, "fixed views", "bare decode", note=note, images=count)


def _jpegs(folder, count=8):
    """Writes JPEGs of about ImageNet's size and detail, 500 × 375 and 110 KB; returns paths."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for path in paths:
        coarse = generator.uniform(0, 255, (1, 12, 16, 3))
        image = tf.image.resize(coarse, (375, 500), "bicubic")[0]
        image += generator.normal(0, 12, image.shape)
        image = tf.cast(tf.clip_by_value(image, 0, 255), "uint8")
        path.write_bytes(tf.io.encode_jpeg(image, quality=95).numpy())
    return paths


def _pipelines(folder, batch_size):
    """Returns Datasets that pass once through the same images, each in its way, on one thread."""
    paths = [str(path) for path in sorted(folder.iterdir())]
    held = tf.data.Dataset.from_tensor_slices([pathlib.Path(p).read_bytes() for p in paths])
    read = tf.data.Dataset.from_tensor_slices(paths)
    data = {"bare decode": held.map(lambda content: tf.io.decode_jpeg(content, **DECODER), 1)}
    data["fixed views"] = read.map(_fixed_views, 1).batch(batch_size)
    for protocol in PROTOCOLS:
        # What a training without this library's pipeline would read: each view by itself.
        for name, is_whole in (("full decodes", True), ("decode_and_crop", False)):

            def view(index, path, number, protocol=protocol, is_whole=is_whole):
                seed = tf.stack([index, tf.constant(number, "int64")])
                return _view(tf.io.read_file(path), seed, protocol, is_whole)

            views = [
                read.enumerate().map(functools.partial(view, number=number), 1) for number in (0, 1)
            ]
            zipped = tf.data.Dataset.zip(*views)
            data[f"{protocol}, 2 {name}"] = zipped.batch(batch_size, drop_remainder=True)
        source = f"folder:{folder.parent}"
        ours = sd_keras.data.stream(source, batch_size, protocol=protocol, views=2)
        data[protocol] = ours.dataset()
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return {name: each.with_options(options) for name, each in data.items()}


def _window(shape, seed, protocol):
    """Returns int32 (top, left, height, width) of a random window."""
    if protocol == "random_resized_crop":
        start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape, [[[0.0, 0.0, 1.0, 1.0]]], seed, 0.0, (3 / 4, 4 / 3), (0.08, 1.0)
        )
        return tf.concat([start[:2], extent[:2]], 0)
    sides = tf.cast(shape[:2], "float32") * CROP / WHOLE
    free = tf.cast(shape[:2], "float32") - sides
    start = tf.random.stateless_uniform([2], seed) * free
    return tf.cast(tf.concat([start, sides], 0), "int32")


def _view(content, seed, protocol, is_whole):
    """One view from a decode of the whole image, or of its window."""
    window = _window(tf.image.extract_jpeg_shape(content), seed, protocol)
    if is_whole:
        top, left, height, width = tf.unstack(window)
        image = tf.io.decode_jpeg(content, **DECODER)[top : top + height, left : left + width]
    else:
        image = tf.image.decode_and_crop_jpeg(content, window, **DECODER)
    image = tf.image.resize(image, (CROP, CROP))
    return tf.image.stateless_random_flip_left_right(tf.cast(image + 0.5, "uint8"), seed)


def _fixed_views(path):
    """Two views at fixed places: only what takes time."""
    image = tf.io.decode_jpeg(tf.io.read_file(path), **DECODER)
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None], size=[WHOLE, WHOLE], half_pixel_centers=True
    )
    image = tf.cast(resized[0] + 0.5, "uint8")
    return tuple(tf.reverse(image[k : k + CROP, k : k + CROP], [1]) for k in (3, 20))
