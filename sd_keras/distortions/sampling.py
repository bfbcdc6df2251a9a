"""Bilinear sampling of a batch of images at places between pixels."""

from sd_keras.distortions.base import as_pixels, wide_dtype


def sample(images, rows, columns, xp):
    """Returns the images' values at the given places, black outside.

    Between four pixels the value is interpolated in rows and columns; around the image lies
    black. One gather from the whole batch for each of the four: no loop over images.

    Args:
        images: `(n, h, w, c)`.
        rows, columns: `(n, h, w)` float32, for each pixel of the view the place it shows, in
            pixels; (0, 0) is the middle of the first pixel.
        xp: as `Distortion.distort`.

    Returns:
        `(n, h, w, c)` of the images' dtype, integers rounded.
    """
    height, width, channels = images.shape[1:]
    n = xp.shape(images)[0]
    row_length = width + 1
    first_row, down = _split(rows, height, xp)
    first_column, right = _split(columns, width, xp)
    first = xp.arange(n)[:, None, None] * ((height + 1) * row_length)
    index = first + (first_row + 1) * row_length + (first_column + 1)
    pixels = _framed(images, n, xp)
    dtype = wide_dtype(images)
    upper_left, upper_right, lower_left, lower_right = (
        xp.cast(xp.take(pixels, index + step, axis=0), dtype)
        for step in (0, 1, row_length, row_length + 1)
    )
    down, right = (xp.cast(part, dtype)[..., None] for part in (down, right))
    upper = upper_left + right * (upper_right - upper_left)
    lower = lower_left + right * (lower_right - lower_left)
    return as_pixels(upper + down * (lower - upper), images, xp)


def _split(places, size, xp):
    """Returns the last whole pixel in front of each place, −1…size−1, and the rest, 0…1."""
    places = xp.clip(places, -1.0, float(size))
    whole = xp.minimum(xp.floor(places), float(size - 1))
    return xp.cast(whole, "int32"), places - whole


def _framed(images, n, xp):
    """Returns the pixels with black around each image, `(pixels, c)`.

    Rows are stored one behind the other, so one zero left of a row serves the row before as
    well, and one row of zeros above an image serves the image before.
    """
    height, width, channels = images.shape[1:]
    rows = xp.reshape(images, (n, height, width * channels))
    rows = xp.pad(rows, [[0, 0], [1, 0], [channels, 0]])
    return xp.pad(xp.reshape(rows, (-1, channels)), [[0, width + 2], [0, 0]])


def pixel_places(images, xp):
    """Returns row `(1, h, 1)` and column `(1, 1, w)` of each pixel, float32."""
    height, width = images.shape[1:3]
    rows = xp.cast(xp.arange(height), "float32")[None, :, None]
    return rows, xp.cast(xp.arange(width), "float32")[None, None, :]
