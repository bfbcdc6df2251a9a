"""What several corruptions need: values between pixels, filters, noise like that of clouds."""

import numpy as np


def sample(images, rows, columns):
    """Interpolates bilinearly; places beyond the border take the value at it.

    Args:
        images: `(n, h, w, c)`.
        rows, columns: places in pixels, `(n, h, w)` or what broadcasts to it.

    Returns:
        `(n, h, w, c)` float32.
    """
    count, height, width, channels = images.shape
    rows, columns = np.broadcast_arrays(rows, columns)
    rows = np.clip(rows, 0, height - 1).astype("float32")
    columns = np.clip(columns, 0, width - 1).astype("float32")
    top, left = rows.astype("int32"), columns.astype("int32")
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    bottom, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    pixels = images.reshape(-1, channels)
    first = (np.arange(count) * height * width)[:, None, None]

    def at(row, column):
        return pixels[first + row * width + column]

    above = at(top, left) * (1 - right) + at(top, beside) * right
    below = at(bottom, left) * (1 - right) + at(bottom, beside) * right
    return above * (1 - down) + below * down


def grid(images):
    """Returns the pixels' rows `(1, h, 1)` and columns `(1, 1, w)`."""
    height, width = images.shape[1:3]
    return np.arange(height)[None, :, None], np.arange(width)[None, None, :]


def side(images):
    """Returns the shorter side of the images, the unit of all lengths."""
    return min(images.shape[1:3])


def convolve(images, kernels):
    """Filters images `(n, h, w, c)` by kernels `(n or 1, k, k)`, k odd, mirrored at the border."""
    from scipy import signal

    margin = kernels.shape[1] // 2
    border = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    padded = np.pad(images, border, mode="symmetric")
    kernels = kernels[..., None].astype("float32")
    return signal.fftconvolve(padded, kernels, mode="valid", axes=(1, 2)).astype("float32")


def smooth(maps, deviation):
    """Blurs maps `(n, h, w, …)` by a Gaussian of that standard deviation in pixels."""
    from scipy import ndimage

    sigma = (0, deviation, deviation, *[0] * (maps.ndim - 3))
    return ndimage.gaussian_filter(maps, sigma, mode="reflect")


def lines(angles, length, finest=4):
    """Returns kernels `(n, k, k)` of sum 1: straight lines of a length in pixels.

    Args:
        angles: `(n,)`, in radians.
        length: in pixels, at least 1.
        finest: points a pixel.
    """
    half = int(np.ceil((length - 1) / 2))
    size = 2 * half + 1
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, max(2, int(finest * length)))
    rows = half + np.sin(angles)[:, None] * along
    columns = half + np.cos(angles)[:, None] * along
    places = np.arange(size)
    # Each point of the line is shared out among the pixels around it.
    by_row = np.clip(1 - np.abs(rows[..., None] - places), 0, None)
    by_column = np.clip(1 - np.abs(columns[..., None] - places), 0, None)
    kernels = np.einsum("npr,npc->nrc", by_row, by_column)
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def clouds(shape, generator, roughness=0.55, coarsest=2):
    """Draws noise of all sizes, each half as large as the last one and fainter.

    Args:
        shape: `(n, h, w)`.
        generator: of NumPy.
        roughness: strength of a size as a share of that of the next larger one.
        coarsest: cells along a side of the largest.

    Returns:
        `shape` float32, from 0 to 1 in each map.
    """
    count, height, width = shape
    total, strength, cells = np.zeros(shape, "float32"), 1.0, coarsest
    while cells < max(height, width):
        drawn = generator.random((count, cells + 1, cells + 1), "float32")
        total += strength * (_between(height, cells) @ drawn @ _between(width, cells).T)
        strength, cells = strength * roughness, cells * 2
    low, high = (f(axis=(1, 2), keepdims=True) for f in (total.min, total.max))
    return (total - low) / np.maximum(high - low, 1e-6)


def _between(pixels, cells):
    """Returns weights `(pixels, cells + 1)` that interpolate between the corners of cells."""
    places = (np.arange(pixels) + 0.5) / pixels * cells
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(cells + 1)), 0, None)
    return weights.astype("float32")
