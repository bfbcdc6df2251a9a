"""The part of benchmark.py that measures the ImageNet input pipeline on one processor core.

Run by `python apps/benchmark.py input`, see there. It works in a process of its own, bound to
one core, as TensorFlow cannot change the number of its threads later. What is compared is the
time that core worked for the process: other programs on it would be counted otherwise. The
images are the ImageNet sample in ../shared/data where there is one, else generated.
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import process_of

SAMPLE = pathlib.Path(__file__).resolve().parents[3] / "shared/data/imagenet_sample"
# Of a pass. What starting one takes, a tenth to a third of a second, is measured by a pass of one
# batch, and left out: an epoch of ImageNet has thousands of batches.
STEPS = 12
CROP, WHOLE = 224, 256
PROTOCOLS = ("paper", "random_resized_crop")
DECODER = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
LIMIT = "paper, 2 views without any choice"
# Images per second of two views of one decode, as multiples of: decoding alone, two pipelines
# that decode the whole image, two that decode their window.
BARS = {"bare decode": ">= 0.75", "2 full decodes": ">= 1.5", "2 decode_and_crop": ">= 1.1"}


def input_figures(settings):
    """Two views of each image, read, decoded once, cropped and batched, against the bars."""
    from benchmarks.figures import compare, figure

    command, environment = process_of("input", settings.batch_size, settings.repeats)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"the input part failed:\n{result.stderr[-3000:]}")
    seconds = json.loads(result.stdout.splitlines()[-1])
    images = seconds.pop("images")
    rates = {name: images / min(values) for name, values in seconds.items()}
    decoders = [name for name in ("bare decode", "Pillow decode") if name in rates]
    figures = []
    for protocol in PROTOCOLS:
        for other, bar in BARS.items():
            slower = other if other == "bare decode" else f"{protocol}, {other}"
            row = compare(seconds[slower], seconds[protocol])
            shown = [protocol, *decoders] if other == "bare decode" else [protocol, slower]
            beside = ", ".join(f"{name} {rates[name]:.0f} images/s" for name in shown)
            name = f"{protocol}, 2 views / {other}"
            figures.append(figure("input", name, bar, beside=beside, **row))
    return [*figures, limit_of(seconds)]


def limit_of(seconds):
    """What any such pipeline could reach at best, a figure without a bar."""
    from benchmarks.figures import compare, fact

    row = compare(seconds["bare decode"], seconds[LIMIT])
    row["beside"] = "read, decode, one resize, two slices and mirrors, batch; nothing checked"
    return fact("input", f"{LIMIT} / bare decode", **row)


def measure(batch_size, repeats):
    """Returns the seconds of each pipeline, one value per round, and the number of images."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    from benchmarks.figures import WARM_UP

    with tempfile.TemporaryDirectory() as folder:
        passes = []
        for steps in (1, STEPS):
            inside = pathlib.Path(folder) / str(steps)
            lay_out(inside, steps * batch_size)
            passes.append(pipelines(inside, batch_size))
        seconds = {name: [] for name in passes[0]}
        for index in range(WARM_UP + repeats):
            for name in seconds:
                short, long = (working(turns[name]) for turns in passes)
                if index >= WARM_UP:
                    seconds[name].append(long - short)
    return seconds | {"images": (STEPS - 1) * batch_size}


def working(function):
    """Returns the seconds that a core worked for the process while it called the function."""
    start = time.process_time()
    function()
    return time.process_time() - start


def lay_out(folder, count):
    """Makes a folder of `count` JPEGs of one class: of the sample, in turn, or generated."""
    (folder / "class").mkdir(parents=True)
    files = sorted(SAMPLE.glob("*/*.JPEG")) or generate(folder)
    for index in range(count):
        (folder / "class" / f"{index:06}.jpg").symlink_to(files[index % len(files)])


def generate(folder, count=8):
    """Writes JPEGs of about ImageNet's size and detail, 500 × 375 and 110 KB; their paths."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    paths = [folder / f".{index}.jpg" for index in range(count)]
    for path in paths:
        coarse = generator.uniform(0, 255, (1, 12, 16, 3))
        image = tf.image.resize(coarse, (375, 500), "bicubic")[0]
        image += generator.normal(0, 12, image.shape)
        image = tf.cast(tf.clip_by_value(image, 0, 255), "uint8")
        path.write_bytes(tf.io.encode_jpeg(image, quality=95).numpy())
    return paths


def pipelines(folder, batch_size):
    """Returns functions that go once through the same images, each in its way."""
    import tensorflow as tf

    from sd_keras.data import stream

    paths = [str(path) for path in sorted((folder / "class").iterdir())]
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    held = tf.data.Dataset.from_tensor_slices(contents)
    data = {"bare decode": held.map(lambda content: tf.io.decode_jpeg(content, **DECODER), 1)}
    # What a training without this library's pipeline would read: each view by itself.
    views = {f"{p}, 2 full decodes": two_views(paths, p, whole_view) for p in PROTOCOLS}
    views |= {f"{p}, 2 decode_and_crop": two_views(paths, p, window_view) for p in PROTOCOLS}
    data |= {name: view.batch(batch_size, drop_remainder=True) for name, view in views.items()}
    data[LIMIT] = tf.data.Dataset.from_tensor_slices(paths).map(fixed_views, 1).batch(batch_size)
    for protocol in PROTOCOLS:
        ours = stream(f"folder:{folder}", batch_size, protocol=protocol, views=2)
        data[protocol] = ours.dataset()
    turns = {name: passing(dataset) for name, dataset in data.items()}
    return turns | pillow(contents)


def passing(dataset):
    """Returns a function that reads a data set on one thread."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.with_options(options)

    def read():
        for _ in dataset:
            pass

    return read


def pillow(contents):
    """Returns Pillow's libjpeg-turbo decoding the same images, if it is installed."""
    try:
        from PIL import Image
    except ImportError:
        return {}

    def decode():
        for content in contents:
            Image.open(io.BytesIO(content)).convert("RGB").load()

    return {"Pillow decode": decode}


def two_views(paths, protocol, view):
    """Returns a Dataset of two views, each read, decoded and cropped by itself."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(paths).enumerate()

    def one(number):
        return lambda index, path: view(
            tf.io.read_file(path), tf.stack([index, tf.constant(number, "int64")]), protocol
        )

    return tf.data.Dataset.zip(*(data.map(one(number), 1) for number in range(2)))


def window_of(shape, seed, protocol):
    """Returns int32 (top, left, height, width) of a random window."""
    import tensorflow as tf

    if protocol == "random_resized_crop":
        start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape, [[[0.0, 0.0, 1.0, 1.0]]], seed, 0.0, (3 / 4, 4 / 3), (0.08, 1.0)
        )
        return tf.concat([start[:2], extent[:2]], 0)
    sides = tf.cast(shape[:2], "float32") * CROP / WHOLE
    free = tf.cast(shape[:2], "float32") - sides
    start = tf.random.stateless_uniform([2], seed) * free
    return tf.cast(tf.concat([start, sides], 0), "int32")


def whole_view(content, seed, protocol):
    """One view from a decode of the whole image."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(content, **DECODER)
    if protocol == "paper":
        image = tf.image.resize(image, (WHOLE, WHOLE))
        image = tf.image.stateless_random_crop(image, (CROP, CROP, 3), seed)
    else:
        top, left, height, width = tf.unstack(window_of(tf.shape(image), seed, protocol))
        image = image[top : top + height, left : left + width]
        image = tf.image.resize(image, (CROP, CROP))
    return tf.image.stateless_random_flip_left_right(tf.cast(image + 0.5, "uint8"), seed)


def fixed_views(path):
    """Two views at fixed places: only what takes time."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(path), **DECODER)
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None], size=[WHOLE, WHOLE], half_pixel_centers=True
    )
    image = tf.cast(resized[0] + 0.5, "uint8")
    return tuple(tf.reverse(image[k : k + CROP, k : k + CROP], [1]) for k in (3, 20))


def window_view(content, seed, protocol):
    """One view from a decode of its window."""
    import tensorflow as tf

    window = window_of(tf.image.extract_jpeg_shape(content), seed, protocol)
    image = tf.image.decode_and_crop_jpeg(content, window, **DECODER)
    image = tf.image.resize(image, (CROP, CROP))
    return tf.image.stateless_random_flip_left_right(tf.cast(image + 0.5, "uint8"), seed)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
