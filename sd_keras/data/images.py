"""Image files to pixels of one size, by TensorFlow.

TensorFlow rather than Pillow: Pillow is no dependency of Keras, TensorFlow or TensorFlow
Datasets, so asking for it would add one. TensorFlow's operations release Python's lock, so
threads decode on every core, and its JPEG decoder reads CMYK.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from os import cpu_count

import numpy as np

from sd_keras.data.decoding import MAX_PIXELS, decode_other, shape_in_header
from sd_keras.data.splits import RawSets
from sd_keras.keras_internals import tensorflow as tf

# Images in flight at a time, both in memory and lost when a file turns out unreadable.
BLOCK = 256


def read_images(paths, image_size=None):
    """Reads image files as RGB; grey and CMYK are converted, transparency is dropped.

    Args:
        paths: JPEG, PNG or BMP files, at least one.
        image_size: (height, width) to resize to, or None where all are of one size.

    Returns:
        uint8 (n, height, width, 3), in the order of `paths`.
    """
    images = None
    read = partial(read_image, image_size=image_size)
    with ThreadPoolExecutor(cpu_count()) as threads:
        for start in range(0, len(paths), BLOCK):
            block = paths[start : start + BLOCK]
            for offset, image in enumerate(threads.map(read, block)):
                if images is None:
                    images = np.empty((len(paths), *image.shape), "uint8")
                check_same_size(image, images.shape[1:], f"{block[offset]} and {paths[0]}")
                images[start + offset] = image
    return images


def read_image(path, image_size=None):
    """Reads one image file as uint8 (height, width, 3), resized unless `image_size` is None.

    An image of more than `MAX_PIXELS` is refused by its header, before it takes memory.
    A rotation noted in the EXIF data is not applied, as the pixels are what networks are
    trained on elsewhere, too.
    """
    # On a machine with an accelerator, small images cost more to move than to decode.
    with tf.device("CPU:0"):
        try:
            content = tf.io.read_file(str(path))
            form = "jpeg" if tf.io.is_jpeg(content) else "other"
            height, width = _read_header(form)(content).numpy()
            if not height or not width:
                raise tf.errors.InvalidArgumentError(None, None, "unknown format")
            if int(height) * int(width) > MAX_PIXELS:
                raise ValueError(
                    f"Every file of an image folder must have at most {MAX_PIXELS} pixels. "
                    f"Received: path={str(path)!r} of {height} x {width}"
                )
            if form == "jpeg":
                # The default inverse transform trades accuracy for a speed that resizing hides.
                image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
            else:
                image = decode_other(content)
        except tf.errors.OpError as error:
            raise ValueError(
                "Every file of an image folder must be a readable JPEG, PNG or BMP image "
                f"({type(error).__name__}). Received: path={str(path)!r}"
            ) from error
        return np.asarray(image) if image_size is None else np.asarray(resize(image, image_size))


@cache
def _read_header(form):
    """Returns `shape_in_header` of a form as a TensorFlow function, which is traced once."""
    read = tf.function(lambda content: shape_in_header(content, form), autograph=False)
    return read.get_concrete_function(tf.TensorSpec([], "string"))


def resize(images, image_size):
    """Resizes a TensorFlow tensor, uint8 (…, height, width, channels), to `image_size`."""
    # Antialiasing: without it, reducing a photograph keeps one pixel in many and drops the rest.
    resized = tf.image.resize(images, image_size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), "uint8")


def resize_sets(raw, image_size):
    """Returns the RawSets with all images resized to (height, width)."""

    def resized(pair):
        if pair is None or pair[0].shape[1:3] == image_size:
            return pair
        images = np.empty((len(pair[0]), *image_size, pair[0].shape[3]), "uint8")
        with tf.device("CPU:0"):
            for start in range(0, len(images), BLOCK):
                block = pair[0][start : start + BLOCK]
                images[start : start + BLOCK] = resize(tf.constant(block), image_size)
        return images, pair[1]

    return RawSets(resized(raw.train), raw.class_names, resized(raw.validation), resized(raw.test))


def check_same_size(image, shape, what):
    """Raises ValueError where an image is not of `shape`, as only `image_size` can help."""
    if image.shape != shape:
        raise ValueError(
            "`image_size` must be given, an int or (height, width), because the images differ "
            f"in size: {what} have the shapes {image.shape} and {tuple(shape)}. "
            "Received: image_size=None"
        )
