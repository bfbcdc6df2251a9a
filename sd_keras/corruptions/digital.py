"""Light, lens and file: brightness, contrast, elastic, pixelate and JPEG."""

import numpy as np

from sd_keras.corruptions.sampling import grid, sample, side, smooth

ADDED = (0.08, 0.16, 0.24, 0.32, 0.40)
CONTRASTS = (0.60, 0.45, 0.33, 0.22, 0.13)
# Shares of the image's side.
BENT = (0.012, 0.020, 0.030, 0.042, 0.056)
BEND_WIDTH = 0.07
KEPT = (0.70, 0.55, 0.42, 0.32, 0.24)
QUALITIES = (40, 25, 15, 10, 6)


def brightness(images, severity, generator):
    """Adds ADDED to every value."""
    del generator
    return images + ADDED[severity]


def contrast(images, severity, generator):
    """Draws values towards the image's mean, channel by channel, down to CONTRASTS."""
    del generator
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + (images - mean) * CONTRASTS[severity]


def elastic(images, severity, generator):
    """Bends the picture by a smooth random field, of BENT in root mean square."""
    rows, columns = grid(images)
    fields = generator.standard_normal((2 * len(images), *images.shape[1:3]), "float32")
    fields = smooth(fields, BEND_WIDTH * side(images))
    fields /= np.sqrt(np.square(fields).mean(axis=(1, 2), keepdims=True))
    down, right = BENT[severity] * side(images) * fields.reshape(2, *images.shape[:3])
    return sample(images, rows + down, columns + right)


def pixelate(images, severity, generator):
    """Shrinks the picture to KEPT of its side by areas, and enlarges it by repeating pixels."""
    del generator
    for axis in (1, 2):
        size = images.shape[axis]
        small = max(1, round(KEPT[severity] * size))
        edges, places = np.arange(small + 1) * size / small, np.arange(size)
        # How much of each pixel lies in each of the smaller picture's, `(small, size)`.
        high = np.minimum(edges[1:, None], places + 1)
        overlap = np.clip(high - np.maximum(edges[:-1, None], places), 0, None)
        repeated = ((places + 0.5) * small / size).astype(int)
        weights = (overlap * small / size)[repeated].astype("float32")
        images = np.moveaxis(np.tensordot(images, weights, axes=(axis, 1)), -1, axis)
    return images


def jpeg(images, severity, generator):
    """Writes and reads a JPEG file of QUALITIES for each image."""
    del generator
    import tensorflow as tf

    def through(image):
        file = tf.io.encode_jpeg(image, quality=QUALITIES[severity])
        return tf.io.decode_jpeg(file, image.shape[-1]).numpy()

    with tf.device("CPU"):
        files = [through(image) for image in np.rint(255 * images).astype("uint8")]
    return np.stack(files).astype("float32") / 255
