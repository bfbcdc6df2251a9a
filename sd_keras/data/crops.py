"""Several crops of one encoded image from one decode, as raw pixels of one size.

Only the rectangle that encloses the windows is decoded, once: a decode per window would read
the compressed data twice. In one measurement nine tenths of each side took 9 % less than the
whole image and seven tenths 18 %; in others nine tenths saved nothing.

Resizing is bilinear between pixel centres, without antialiasing, as OpenCV resizes by
default; TensorFlow's antialiased kernel takes longer than the decoder. An image of twice the
size or more is decoded at 1/2, 1/4 or 1/8 of it instead, whose pixels are means of those that
bilinear sampling would skip; of a JPEG that is faster, too.
"""

import functools

import numpy as np

from sd_keras.data.decoding import decode_part, may_decode, shape_in_header, slice_of
from sd_keras.keras_internals import tensorflow as tf

# The paper's images have this height and width before they are cropped.
PAPER_SIZE = 256
# Of an image, and its lowest and highest width / height (Inception's crops, arXiv 1409.4842).
AREAS, RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)
PROTOCOLS = ("paper", "random_resized_crop", "center")


def draw(protocol, size, views, seed, epoch, count):
    """Returns the random numbers of an epoch's crops, one row per place in the epoch.

    They are drawn here for all of them, by NumPy: drawn one image at a time by TensorFlow's
    operations they would take a tenth as long as decoding. A row depends on neither `views`
    nor `count`: one view is the first of two.

    Args:
        protocol, size, views: as for `crops`.
        seed, epoch: integers of at least 0.
        count: number of rows.

    Returns:
        Pair of arrays: places, for "random_resized_crop" int64 seeds (count, views, 2), else
        int32 corners (top, left) in the image of PAPER_SIZE, (count, views, 2); and whether
        each crop is mirrored, bool (count, views).
    """
    if protocol == "center":
        corners = np.full((count, views, 2), (PAPER_SIZE - size) // 2, "int32")
        return corners, np.zeros((count, views), bool)
    if protocol == "paper":
        highest, kind = PAPER_SIZE - size, "int32"
    else:
        highest, kind = 2**62 - 1, "int64"
    places, flips = [], []
    for view in range(views):
        # Other generators than that of the order, see `Stream.cells`.
        of_places, of_flips = (np.random.default_rng((seed, epoch, k, view)) for k in (1, 2))
        places.append(of_places.integers(0, highest, (count, 2), kind, endpoint=True))
        flips.append(of_flips.integers(0, 2, count, bool))
    return np.stack(places, 1), np.stack(flips, 1)


def crops(content, form, protocol, size, places, flips, max_pixels):
    """Returns the crops of one image.

    Args:
        content: scalar string, an encoded image.
        form: "jpeg", or "other" for PNG, BMP and GIF. Two graphs, as every branch that a
            graph for all would have to pass costs some hundredths of decoding.
        protocol: one of PROTOCOLS.
        size: height and width of a crop in pixels.
        places, flips: tensors (views, 2) and (views,), one row of what `draw` returns.
        max_pixels: height × width above which the image is not decoded.

    Returns:
        Tuple of tensors uint8 (size, size, 3), one per view. Running it fails where the
        content is not of that form, is cut off within the windows, or has too many pixels.
    """
    shape = shape_in_header(content, form)
    # The bare operation: `tf.debugging.Assert` puts it into a branch, which takes longer.
    fits = may_decode(shape, max_pixels)
    with tf.control_dependencies([tf.raw_ops.Assert(condition=fits, data=[shape])]):
        shape, content = tf.identity(shape), tf.identity(content)
    decode = functools.partial(decode_part, content, form)
    make = _resized_crops if protocol == "random_resized_crop" else _paper_crops
    images = make(decode, shape, size, tf.unstack(places), protocol)
    if protocol == "center":
        return images
    # A reversal of no dimension copies, but takes less than a branch around it.
    return tuple(
        tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, flip, False]))
        for image, flip in zip(images, tf.unstack(flips))
    )


def _paper_crops(decode, shape, size, corners, protocol):
    """Crops of the image resized to PAPER_SIZE: of one resize of what encloses them."""
    which, shape = _reduction(shape, tf.cast(shape, "float32") / PAPER_SIZE)
    first = functools.reduce(tf.minimum, corners)
    last = functools.reduce(tf.maximum, corners) + size
    # Evaluation is exact. In training, windows move by up to half a pixel of the file for
    # their edges to lie between pixels, so that what is outside need not be decoded; where
    # the image is enlarged a pixel is too coarse for that, and edges need what lies beyond.
    whole = tf.fill([2], True) if protocol == "center" else shape < PAPER_SIZE
    first, last = tf.where(whole, 0, first), tf.where(whole, PAPER_SIZE, last)
    edges = tf.cast(tf.stack([first, last]), "float32")
    edges = tf.cast(tf.round(edges * (tf.cast(shape, "float32") / PAPER_SIZE)), "int32")
    start, stop = tf.unstack(edges)
    image = _resize(decode(which, start, stop - start), last - first)
    return tuple(slice_of(image, corner - first, (size, size)) for corner in corners)


def _resized_crops(decode, shape, size, seeds, protocol):
    """Windows of random area and aspect ratio, each resized to `size`."""
    windows = []
    for seed in seeds:
        start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([shape, [3]], 0),
            [[[0.0, 0.0, 1.0, 1.0]]],
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=RATIOS,
            area_range=AREAS,
        )
        windows.append(tf.stack([start[:2], start[:2] + extent[:2]]))
    windows = tf.stack(windows)
    extents = tf.cast(windows[:, 1] - windows[:, 0], "float32")
    which, _ = _reduction(shape, extents / size)
    # Rounded outwards to pixels of the reduced image.
    ratio = tf.bitwise.left_shift(1, which)
    windows = tf.bitwise.right_shift(windows + [[[0], [1]]] * (ratio - 1), which)
    start, stop = tf.reduce_min(windows[:, 0], 0), tf.reduce_max(windows[:, 1], 0)
    image = decode(which, start, stop - start)
    return tuple(
        _resize(slice_of(image, first - start, last - first), [size, size])
        for first, last in (tf.unstack(window) for window in tf.unstack(windows))
    )


def _reduction(shape, scale):
    """Returns by which power of two an image is reduced when decoded, and its shape then.

    Args:
        shape: int32 (2,), height and width of the image.
        scale: float32, how many pixels of the image fall on one of the result, by view and
            direction: the image is reduced as far as none of them falls below 1.

    Returns:
        Pair of an int32 scalar, 0 to 3, and int32 (2,).
    """
    which = tf.reduce_sum(tf.cast(tf.reduce_min(scale) >= [2.0, 4.0, 8.0], "int32"))
    return which, tf.bitwise.right_shift(shape + (tf.bitwise.left_shift(1, which) - 1), which)


def _resize(image, shape):
    """Returns the uint8 image resized to the int32 shape (height, width)."""
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=shape, half_pixel_centers=True)
    # A weighted mean of pixels never leaves 0…255, so adding a half rounds without clipping.
    return tf.cast(resized[0] + 0.5, "uint8")
