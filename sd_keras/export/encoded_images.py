"""Encoded images to the pixels that a network takes, inside a TensorFlow graph."""

from sd_keras.data.crops import PAPER_SIZE, crops
from sd_keras.data.decoding import decode_other, may_decode, shape_in_header
from sd_keras.data.images import resize
from sd_keras.keras_internals import tensorflow as tf

PREPROCESSING = ("resize", "center_crop")
# Of images that TensorFlow decodes to: grey, and red, green, blue.
CHANNELS = (1, 3)


def check_preprocessing(preprocessing, shape):
    """Raises ValueError unless images can be brought to a shape in this way."""
    if preprocessing not in PREPROCESSING:
        raise ValueError(
            f"`preprocessing` must be one of {PREPROCESSING}. "
            f"Received: preprocessing={preprocessing!r}"
        )
    height, width, channels = shape
    square = height == width <= PAPER_SIZE and channels == 3
    if preprocessing == "center_crop" and not square:
        raise ValueError(
            f"`preprocessing` can be 'center_crop' for square RGB images of at most {PAPER_SIZE} "
            f"pixels only. Received: preprocessing='center_crop' and images of shape {shape}"
        )


def decoder(shape, preprocessing, max_pixels):
    """Returns a function of tensors: encoded images `(n,)` to uint8 pixels `(n, h, w, c)`.

    Running it fails with INVALID_ARGUMENT where one is no JPEG, PNG or BMP image, is damaged,
    or has too many pixels; of those none is decoded. GIF is refused: its frames may be larger
    than its header says, and all are decoded.

    Args:
        shape: `(h, w, c)` of what the network takes; c is 1 or 3.
        preprocessing: "resize" to `(h, w)`, as `data.load` does with files; "center_crop" of the
            image resized to 256x256, the evaluation of `data.stream`.
        max_pixels: height × width above which an image is refused.
    """

    def decode_one(content):
        is_gif = tf.strings.substr(content, 0, 3) == b"GIF"
        content = tf.where(is_gif, b"", content)  # an unknown form, as any other text
        is_jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
        return tf.cond(
            is_jpeg,
            lambda: _decode(content, "jpeg", shape, preprocessing, max_pixels),
            lambda: _decode(content, "other", shape, preprocessing, max_pixels),
        )

    pixels = tf.TensorSpec(shape, "uint8")
    return lambda contents: tf.map_fn(decode_one, contents, fn_output_signature=pixels)


def _decode(content, form, shape, preprocessing, max_pixels):
    height, width, channels = shape
    content = _checked(content, shape_in_header(content, form), max_pixels)
    if preprocessing == "center_crop":
        corners = tf.constant([[(PAPER_SIZE - height) // 2] * 2])
        (image,) = crops(content, form, "center", height, corners, [False], max_pixels)
    elif form == "jpeg":
        image = tf.io.decode_jpeg(content, channels=channels, dct_method="INTEGER_ACCURATE")
        image = resize(image, (height, width))
    else:
        image = resize(decode_other(content, channels), (height, width))
    return tf.ensure_shape(image, shape)


def _checked(content, size, max_pixels):
    """Returns an encoded image once its size from the header is known to be allowed."""
    fits = may_decode(size, max_pixels)
    message = (
        "`image_bytes` must hold JPEG, PNG or BMP images of at most "
        f"{max_pixels} pixels. Received: one of height and width (0: of another form)"
    )
    check = tf.debugging.Assert(fits, [message, size])
    with tf.control_dependencies([check]):
        # What is refused is no image any more, should a graph be rewritten without the check.
        return tf.where(fits, content, b"")
