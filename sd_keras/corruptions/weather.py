"""Snow, frost and fog, drawn by noise."""

import numpy as np

from sd_keras.corruptions.sampling import clouds, convolve, grid, lines, side, smooth

FLAKES = (0.05, 0.09, 0.13, 0.18, 0.24)  # share of the picture under falling flakes
WHITENED = (0.10, 0.18, 0.25, 0.32, 0.40)
ICED = (0.42, 0.52, 0.62, 0.72, 0.82)
HAZE = (0.25, 0.36, 0.47, 0.58, 0.68)
GREY = (0.299, 0.587, 0.114)


def snow(images, severity, generator):
    """Whitens the picture and lets flakes fall, all of an image in one direction."""
    noise = generator.standard_normal(images.shape[:3], "float32")
    noise = smooth(noise, max(0.5, 0.01 * side(images)))
    least = np.quantile(noise, 1 - FLAKES[severity], axis=(1, 2), keepdims=True)
    spread = noise.std(axis=(1, 2), keepdims=True)
    flakes = np.clip((noise - least) / (0.5 * spread), 0, 1)[..., None]
    angles = np.pi / 2 + generator.uniform(-0.7, 0.7, len(images))
    flakes = np.clip(1.3 * convolve(flakes, lines(angles, 1 + 0.06 * side(images))), 0, 1)
    share = WHITENED[severity]
    images = images * (1 - share) + share * (0.55 + 0.45 * _grey(images))
    return images + (0.97 - images) * flakes


def frost(images, severity, generator):
    """Lets crystals grow in from the border, of ridges in noise, and veils what they cover."""
    shape = images.shape[:3]
    first, second = (clouds(shape, generator, 0.7, 4) for _ in range(2))
    ridges = np.maximum(*((1 - np.abs(2 * noise - 1)) ** 5 for noise in (first, second)))
    rows, columns = (
        np.abs(2 * (place + 0.5) / size - 1) for place, size in zip(grid(images), images.shape[1:3])
    )
    ice = ICED[severity]
    covered = np.clip(np.maximum(rows, columns) + clouds(shape, generator) + 2 * ice - 1.7, 0, 1)
    veil = ice * covered * (0.55 + 0.45 * ridges)
    colour = (0.75 + 0.25 * ridges)[..., None]
    if images.shape[-1] == 3:
        colour = colour * np.float32([0.90, 0.96, 1.0])  # ice is bluish
    return images + (colour - images) * veil[..., None]


def fog(images, severity, generator):
    """Mixes in a light haze, denser here and thinner there."""
    noise = clouds(images.shape[:3], generator)[..., None]
    haze = HAZE[severity] * (0.7 + 0.6 * noise)
    haze = np.minimum(haze, 0.97)
    return images * (1 - haze) + haze * 0.88


def _grey(images):
    if images.shape[-1] == 1:
        return images
    return (images @ np.float32(GREY))[..., None]
