"""A rectangle of an encoded image, as pixels of the image itself or of a smaller one.

All is operations for `tf.data`, which fail where the bytes are not what they should be.
"""

import functools

from sd_keras.keras_internals import tensorflow as tf

# Height × width above which images are not decoded.
MAX_PIXELS = 50_000_000


def may_decode(shape, max_pixels):
    """Returns whether an image of int32 (height, width) has pixels, and not too many: a tensor."""
    pixels = tf.reduce_prod(tf.cast(shape, "int64"))
    # A form that the header does not tell has no pixels, and is not decoded either.
    return (pixels > 0) & (pixels <= max_pixels)


def shape_in_header(content, form):
    """Returns int32 (height, width) of an image from its first bytes.

    Args:
        content: scalar string, an encoded image.
        form: "jpeg", or "other" for PNG, BMP and GIF. What is none of these has shape (0, 0).
    """
    if form == "jpeg":
        return tf.image.extract_jpeg_shape(content)[:2]

    def pair(width, height):
        # In a BMP a negative height says that the rows run from the top.
        return lambda: tf.stack([tf.abs(height()), width()])

    forms = {
        # With the head of its first chunk: decoders pass over one that stands before it.
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR": pair(
            lambda: _number(content, 16, 4, True), lambda: _number(content, 20, 4, True)
        ),
        b"GIF8": pair(lambda: _number(content, 6, 2), lambda: _number(content, 8, 2)),
        b"BM": pair(lambda: _number(content, 18, 4), lambda: _number(content, 22, 4)),
    }
    cases = [(tf.strings.substr(content, 0, len(key)) == key, f) for key, f in forms.items()]
    return tf.case(cases, default=lambda: tf.zeros([2], "int32"))


def decode_part(content, form, which, start, extent):
    """Returns a rectangle of the image reduced by 2 ** which, uint8 (height, width, 3).

    A pixel of the reduced image is the mean of a square of pixels. Of a JPEG it is so nearly:
    its decoder leaves out the finer cosines.

    Args:
        content, form: as for `shape_in_header`.
        which: int32 scalar, 0 to 3.
        start, extent: int32 (2,), the corner (top, left) and the (height, width) of the
            rectangle in the reduced image, whose size is rounded upwards.
    """
    if form == "jpeg":
        return _part_of_jpeg(content, which, start, extent)
    image = decode_other(content)
    return tf.cond(
        which > 0,
        lambda: _averaged(image, tf.bitwise.left_shift(1, which), start, extent),
        lambda: slice_of(image, start, extent),
    )


def slice_of(image, corner, shape):
    """Returns the rectangle of int32 (height, width) at a corner (top, left)."""
    return tf.slice(image, tf.concat([corner, [0]], 0), tf.concat([shape, [3]], 0))


def _part_of_jpeg(content, which, start, extent):
    """Returns a rectangle of a reduced JPEG: the decoder reduces, and skips what is outside."""
    window = tf.concat([start, extent], 0)

    def at(ratio):
        # The accurate transform, as in evaluation: the fast one saved a twentieth at most.
        return tf.image.decode_and_crop_jpeg(
            content, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )

    smaller = [functools.partial(at, ratio) for ratio in (2, 4, 8)]
    return tf.cond(which > 0, lambda: tf.switch_case(which - 1, smaller), lambda: at(1))


def decode_other(content, channels=3):
    """Returns a whole PNG, BMP or GIF image, of its first frame, uint8 (height, width, channels).

    A BMP image is always of 3 channels; asking for others fails.
    """
    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    if channels != 3:
        return image

    def of_bitmap():
        has_palette = _number(content, 28, 2) == 8
        return tf.cond(has_palette, lambda: _coloured(image, content), lambda: image)

    return tf.cond(tf.strings.substr(content, 0, 2) == b"BM", of_bitmap, lambda: image)


def _averaged(image, ratio, start, extent):
    """Returns a rectangle of the image whose pixels are means of `ratio` × `ratio` pixels."""
    first, last = start * ratio, (start + extent) * ratio
    inside = tf.minimum(last, tf.shape(image)[:2])
    image = slice_of(image, first, inside - first)
    # Squares that reach beyond the image are filled with its last pixels, as in a JPEG.
    down, right = tf.unstack(last - inside)
    image = tf.concat([image, tf.tile(image[-1:], [down, 1, 1])], 0)
    image = tf.concat([image, tf.tile(image[:, -1:], [1, right, 1])], 1)
    # By a whole number this is the plain mean; `reduce_mean` and pooling took three times as long.
    means = tf.raw_ops.ResizeArea(images=image[None], size=extent)[0]
    return tf.cast(means + 0.5, "uint8")


def _coloured(image, content):
    """Looks up the colours of an 8-bit BMP, whose palette TensorFlow's decoder leaves out.

    The file's header holds, little-endian, at byte 10 where the pixels start, at 14 the size
    of the second header (the palette follows it) and at 28 the bits per pixel.
    """
    start = 14 + _number(content, 14, 4)
    palette = tf.io.decode_raw(
        tf.strings.substr(content, start, _number(content, 10, 4) - start), "uint8"
    )
    palette = tf.reshape(palette[: tf.size(palette) // 4 * 4], [-1, 4])[:256, 2::-1]
    # 256 entries always, so that an index beyond a short palette is black and not an error.
    palette = tf.pad(palette, [[0, 256 - tf.shape(palette)[0]], [0, 0]])
    return tf.gather(palette, tf.cast(image[..., 0], "int32"))


def _number(content, start, length, big_endian=False):
    """Returns a whole number of 2 or 4 bytes in the content, as int32."""
    kind = {2: "uint16", 4: "int32"}[length]
    text = tf.strings.substr(content, start, length)
    return tf.cast(tf.io.decode_raw(text, kind, little_endian=not big_endian)[0], "int32")
