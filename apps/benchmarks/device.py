"""The benchmark of training on the machine's accelerator, against plain PyTorch.

Every method is trained by the ordinary `fit` on `sd_keras.data.OnDevice`, and by the same step in
PyTorch. Each is a process of its own, so that its compilation and its memory are its own; all
are started together, wait for each other and train an epoch in turn. The process that starts
them imports no framework: the accelerator is for those that measure.
"""

import importlib.util
import statistics
import sys
import tempfile
from types import SimpleNamespace

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
from machine import accelerators

PLAIN, BYOT, DDGSD = "baseline", "be_your_own_teacher", "data_distortion"
# Views of an image that a step of each method forwards.
VIEWS = {PLAIN: 1, BYOT: 1, DDGSD: 2, f"{BYOT}+{DDGSD}": 2}
# The bars hold on this device with the default settings: images per second of the plain network;
# of each method against the plain network, by view; against PyTorch.
BAR_DEVICE, SPEED_BAR, TORCH_BAR = "H200", ">= 40000", ">= 1.0"
METHOD_BARS = {BYOT: ">= 0.9", DDGSD: ">= 0.95"}
# Steps in one program, unless a divisor of an epoch's steps is taken.
BLOCK = 100
# Rounds that do not count: one compiles, one warms up.
WARM_UP = 2
# The sides share the device, so none may take all of it; and each compiles what it runs.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


def whole_blocks(images, batch_size):
    """Returns steps of an epoch and of a block, such that blocks of one size hold nearly all.

    Blocks of another size would be another program to compile.
    """
    for steps in range(images // batch_size, 0, -1):
        largest = min(BLOCK, steps)
        for block in range(largest, largest // 2, -1):
            if steps % block == 0:
                return steps, block
    raise SystemExit(
        "`--images` must be at least the batch size. "
        f"Received: --images={images}, batches of {batch_size}"
    )


def device(settings):
    """Yields the figures, and notes on them."""
    steps, block = whole_blocks(settings.images, settings.batch_size)
    sides = {"ours": "device.train_in_turns", "torch": "pytorch.train_in_turns"}
    reason = without_torch(settings.model)
    if reason:
        yield f"torch is left out: {reason}"
        del sides["torch"]
    yield f"epochs of {steps} steps of {settings.batch_size} images"
    shape = {key: getattr(settings, key) for key in ("model", "num_classes", "batch_size")}
    shape |= {"steps": steps, "block": block}
    for precision in settings.precision:
        peaks = [peak(side, precision) for side in sides]
        has_bars = BAR_DEVICE in peaks[0]["device"] and not settings.chosen
        if not has_bars:
            yield f"the bars are for {BAR_DEVICE} and the default settings, not for this run"
        if len({bool(each["is_accelerator"]) for each in peaks}) > 1:
            yield "the frameworks work on different devices: do not compare them"
        for each in peaks:
            for name, values in each["rates"].items():
                title = f"peak of a {name}, {each['framework']}"
                note = f"best {max(values):.3f}; {each['device']}"
                yield figure(title, values, unit="TFLOP/s", note=note, precision=precision)
        best = max(max(values) for each in peaks for values in each["rates"].values())
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:
            workers = {}
            for method in settings.methods:
                for side, function in sides.items():
                    name = f"{side}, {method}"
                    variables = ENVIRONMENT | {
                        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/{side}-{method}"
                    }
                    work = {"method": method, "precision": precision, "views": VIEWS[method]}
                    work |= shape
                    workers[side, method] = [WorkerProcess(name, function, variables, **work)]
            first, answers = take_turns(workers, WARM_UP + settings.repeats)
        macs = {method: first["ours", method]["macs"] for method in settings.methods}
        count = steps * settings.batch_size
        for row in rows(answers, macs, count, best, peaks[0]["is_accelerator"], has_bars):
            yield row | {"precision": precision}


def without_torch(model):
    """Returns why there is no PyTorch side for a network, or None."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed (pip install '.[torch]')"
    from benchmarks.pytorch import BLOCKS

    return None if model in BLOCKS else f"{model} is not written in PyTorch here"


def rows(answers, macs, images, peak_rate, is_accelerator, has_bars):
    """Yields speed, share of the peak, seconds to compile and memory of each side, and ratios.

    Takes a dict from (side, method) to its answers, one from method to the multiply-accumulates of
    all views, images of an epoch, TFLOP/s, and whether the memory is the accelerator's.
    """
    seconds = {key: [each["seconds"] for each in turns[WARM_UP:]] for key, turns in answers.items()}
    for (side, method), values in seconds.items():
        name, turns = f"{side}, {method}", answers[side, method]
        bar = SPEED_BAR if has_bars and (side, method) == ("ours", PLAIN) else None
        note = turns[-1].get("note", "")
        yield from speed_figures(name, values, images, macs[method], peak_rate, bar, note)
        first = turns[0]["seconds"]
        compiling, note = first - statistics.median(values), f"first epoch {first:.1f} s"
        yield figure(f"{name}, compile time", [compiling], unit="s", note=note)
        if turns[-1]["memory"] is not None:
            note = "of the device" if is_accelerator else "largest resident set of the process"
            memory = [turns[-1]["memory"] / 2**30]
            yield figure(f"{name}, peak memory", memory, unit="GiB", note=note)
    for side, method in answers:
        if method != PLAIN and (side, PLAIN) in answers:
            views = VIEWS[method]
            name = f"{side}, {method} / plain images/s{', by view' * (views > 1)}"
            bar = METHOD_BARS.get(method) if has_bars and side == "ours" else None
            by_view = seconds | {(side, method): [s / views for s in seconds[side, method]]}
            yield ratio(name, by_view, (side, method), (side, PLAIN), bar, images=images)
    for side, method in answers:
        if side == "torch":
            name, bar = f"{method}, ours / torch images/s", TORCH_BAR if has_bars else None
            yield ratio(name, seconds, ("ours", method), (side, method), bar, images=images)


def train_in_turns(protocol, steps, block, method, precision, **settings):
    """Trains an epoch of an ordinary `fit` in each turn."""
    import keras
    from benchmarks.training import Turns, multiply_accumulates, trainer

    from sd_keras.data import OnDevice

    settings = SimpleNamespace(**settings)
    try:
        model = trainer(settings, precision, method)
    except ValueError as error:  # for instance for an unknown model
        raise SystemExit(str(error)) from None
    images = batch(settings, steps * settings.batch_size)
    data = OnDevice(*images, settings.batch_size, seed=0, drop_remainder=True, steps=block)
    protocol.answer(macs=multiply_accumulates(model))
    turns = Turns(protocol, lambda: peak_memory(keras.config.backend()))  # waits for the first one
    model.fit(data, epochs=10**6, verbose=0, callbacks=[turns])


def peak_memory(framework):
    """Bytes taken at most so far: on the accelerator, on a CPU by the whole process.

    None where the device does not say.
    """
    if not accelerators(framework):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if framework == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    import torch

    return torch.cuda.max_memory_allocated()


def peak(side, precision):
    """Returns what a device can do at best, measured in a process of its own."""
    variables = ENVIRONMENT | ({"KERAS_BACKEND": "torch"} if side == "torch" else {})
    name, function = f"the peak of {side}", "device.measure_peak"
    return result_of(name, function, environment=variables, precision=precision)


def measure_peak(protocol, precision):
    """Answers with TFLOP/s of a matrix product, and of a 3x3 convolution with its gradients.

    Sizes keep the device busy for a moment, not for long.
    """
    import keras
    from keras import ops

    from sd_keras import gradients

    framework = keras.config.backend()
    names = accelerators(framework)
    # Rows of the matrix; images, size and channels of the convolution; calls before a wait.
    size, (count, width, channels), calls = 1024, (16, 32, 128), 1
    if names:
        size, (count, width, channels), calls = 8192, (1024, 16, 256), 20
    dtype = "bfloat16" if precision == "mixed_bfloat16" else precision
    shapes = (size, size), (count, width, width, channels), (3, 3, channels, channels)
    matrix, images, kernel = (keras.random.normal(s, stddev=0.1, dtype=dtype) for s in shapes)

    def half_square(images, kernel):  # whose gradient is the convolution itself
        y = ops.conv(images, kernel, padding="same", data_format="channels_last")
        return ops.sum(ops.square(y)) / 2

    functions = {
        "matrix product": (lambda a: [a @ a], [matrix]),
        "3x3 convolution with its gradients": (
            lambda *tensors: gradients.of_inputs(half_square, tensors),
            [images, kernel],
        ),
    }
    operations = [2 * size**3, 3 * 2 * count * width**2 * 9 * channels**2]
    rates = {}
    for number, (name, (function, tensors)) in zip(operations, functions.items()):
        if framework == "jax":
            import jax

            function = jax.jit(function)
        elif framework == "tensorflow":
            import tensorflow as tf

            function = tf.function(function, autograph=False)

        def run(function=function, tensors=tensors):
            for _ in range(calls):
                results = function(*tensors)
            for result in results:  # waits for the device
                ops.convert_to_numpy(ops.cast(result[(0,) * len(result.shape)], "float32"))

        seconds = interleave({name: run}, 10, limit=5)[name]
        rates[name] = [calls * number / value / 1e12 for value in seconds]
    about = {"framework": framework, "device": (names or ["cpu"])[0]}
    protocol.answer(**about, is_accelerator=bool(names), rates=rates)
