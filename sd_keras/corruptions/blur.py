"""Blur of the lens, of glass before it, of a motion across and of one towards the scene."""

import numpy as np

from sd_keras.corruptions.sampling import convolve, grid, lines, sample, side, smooth

# Shares of the image's side.
RADII = (0.02, 0.03, 0.04, 0.055, 0.07)
OFFSETS = (0.012, 0.018, 0.026, 0.036, 0.05)
LENGTHS = (0.06, 0.10, 0.14, 0.19, 0.25)
# Of the nearest copy against the farthest.
ZOOMS = (1.06, 1.12, 1.18, 1.25, 1.33)
COPIES = 9
FINER = 5


def defocus(images, severity, generator):
    """Spreads each point over a disc of RADII."""
    del generator
    radius = RADII[severity] * side(images) + 0.5
    half = int(np.ceil(radius))
    # The share of each pixel that the disc covers, counted on a finer grid.
    places = (np.arange((2 * half + 1) * FINER) + 0.5) / FINER - half - 0.5
    inside = (np.hypot(*np.meshgrid(places, places)) <= radius).astype("float32")
    kernel = inside.reshape(2 * half + 1, FINER, 2 * half + 1, FINER).mean(axis=(1, 3))
    return convolve(images, kernel[None] / kernel.sum())


def glass(images, severity, generator):
    """Takes each pixel from a random place at most OFFSETS away, of a slightly blurred image."""
    most = OFFSETS[severity] * side(images)
    rows, columns = grid(images)
    offsets = most * generator.uniform(-1, 1, (2, *images.shape[:3])).astype("float32")
    return sample(smooth(images, most / 3), rows + offsets[0], columns + offsets[1])


def motion(images, severity, generator):
    """Spreads each point over a line of LENGTHS, in a direction of its own for each image."""
    angles = generator.uniform(0, np.pi, len(images))
    return convolve(images, lines(angles, 1 + LENGTHS[severity] * side(images)))


def zoom(images, severity, generator):
    """Averages COPIES, ever nearer about the centre up to ZOOMS."""
    del generator
    count, height, width, channels = images.shape
    total = np.zeros_like(images)
    # The same for all images, hence products with matrices and no gathering.
    for factor in np.linspace(1, ZOOMS[severity], COPIES):
        nearer = _nearer(height, factor) @ images.reshape(count, height, -1)
        nearer = nearer.reshape(count * height, width, channels)
        total += (_nearer(width, factor) @ nearer).reshape(images.shape)
    return total / COPIES


def _nearer(size, factor):
    """Returns weights `(size, size)` that enlarge a line of pixels about its middle."""
    places = np.arange(size)
    middle = (size - 1) / 2
    wanted = middle + (places - middle) / factor
    return np.clip(1 - np.abs(wanted[:, None] - places), 0, None).astype("float32")
