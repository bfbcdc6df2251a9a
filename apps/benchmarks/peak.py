"""What a device can do at best: the fastest matrix product and 3x3 convolution, measured.

Run as a process of its own by benchmarks.device:

    python -m benchmarks.peak FRAMEWORK PRECISION

FRAMEWORK is torch, or `ours` for the one that Keras works on. Answers with one line of JSON.
"""

import sys
import time
from typing import NamedTuple

from benchmarks.accelerators import description
from benchmarks.turns import Turns


class Work(NamedTuple):
    """How much is timed: sizes that keep the device busy for a moment, not for long.

    Attributes:
        matrix: rows and columns of the matrices.
        images, size, channels: of the convolution, channels in and out.
        calls: in a row before the device is waited for.
    """

    matrix: int
    images: int
    size: int
    channels: int
    calls: int

    @property
    def operations(self):
        """Floating point operations of a call, a multiply-accumulate being two."""
        convolution = 2 * self.images * self.size**2 * 9 * self.channels**2
        return {"matrix product": 2 * self.matrix**3, "3x3 convolution": convolution}


ON_ACCELERATOR = Work(8192, 1024, 16, 256, calls=20)
ON_CPU = Work(1024, 16, 32, 128, calls=1)
ROUNDS, SECONDS = 10, 5


def rates(functions, wait, work, clock=time.perf_counter):
    """Times functions whose results the device makes later.

    Args:
        functions: dict from name to a function that returns what will be made.
        wait: a function that waits until that is there.
        work: a Work.
        clock: returns seconds.

    Returns:
        A dict from name to TFLOP/s, one per round.
    """
    results = {}
    for name, function in functions.items():
        for _ in range(2):
            wait(function())
        results[name] = []
        end = clock() + SECONDS
        while len(results[name]) < ROUNDS and (not results[name] or clock() < end):
            start = clock()
            for _ in range(work.calls):
                made = function()
            wait(made)
            seconds = (clock() - start) / work.calls
            results[name].append(work.operations[name] / seconds / 1e12)
    return results


def _shapes(work):
    images = (work.images, work.size, work.size, work.channels)
    return (work.matrix, work.matrix), images, (3, 3, work.channels, work.channels)


def of_jax(dtype, work):
    """Returns the functions and how to wait for them."""
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    matrix, images, kernel = (
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, _shapes(work))
    )
    product = jax.jit(lambda a: a @ a)
    layout = ("NHWC", "HWIO", "NHWC")
    convolution = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
    )
    functions = {
        "matrix product": lambda: product(matrix),
        "3x3 convolution": lambda: convolution(images, kernel),
    }
    return functions, jax.block_until_ready


def of_tensorflow(dtype, work):
    """Returns the functions and how to wait for them."""
    import tensorflow as tf

    matrix, images, kernel = (tf.cast(tf.random.normal(s), dtype) for s in _shapes(work))
    product = tf.function(lambda a: tf.matmul(a, a), autograph=False)
    convolution = tf.function(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), autograph=False)
    functions = {
        "matrix product": lambda: product(matrix),
        "3x3 convolution": lambda: convolution(images, kernel),
    }
    return functions, lambda made: made[(0,) * len(made.shape)].numpy()


def of_torch(dtype, work):
    """Returns the functions and how to wait for them."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    is_cuda = torch.cuda.is_available()
    settings = {"device": "cuda" if is_cuda else "cpu", "dtype": getattr(torch, dtype)}
    matrix, images, kernel = (torch.randn(shape, **settings) for shape in _shapes(work))
    # Views, which keep the order of the memory: what PyTorch calls channels_last.
    images = images.permute(0, 3, 1, 2)
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    functions = {
        "matrix product": lambda: matrix @ matrix,
        "3x3 convolution": lambda: torch.nn.functional.conv2d(images, kernel, padding=1),
    }
    return functions, lambda made: torch.cuda.synchronize() if is_cuda else None


def measured(framework, precision):
    """Returns what the device is, and its rates in TFLOP/s."""
    name, is_accelerator = description(framework)
    dtype = "bfloat16" if precision == "mixed_bfloat16" else precision
    work = ON_ACCELERATOR if is_accelerator else ON_CPU
    prepare = {"jax": of_jax, "tensorflow": of_tensorflow, "torch": of_torch}[framework]
    about = {"framework": framework, "device": name, "is_accelerator": is_accelerator}
    return about | {"rates": rates(*prepare(dtype, work), work)}


def main(framework, precision):
    """Measures, and answers."""
    turns = Turns()
    if framework == "ours":
        import keras

        framework = keras.config.backend()
    turns.answer(**measured(framework, precision))


if __name__ == "__main__":
    main(*sys.argv[1:])
