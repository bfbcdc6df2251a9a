"""The 15 common corruptions of images at 5 severities, made procedurally.

The kinds are those of Hendrycks & Dietterich 2019 (Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations). Code and parameters are our own, lengths are
shares of the image's side, and snow, frost and fog are drawn, not photographed: figures are
not comparable with those of CIFAR-10-C, CIFAR-100-C or ImageNet-C.

All kinds are functions of images `(n, h, w, c)` float32 from 0 to 1, the index of the severity
0…4 and a NumPy generator; what they return may leave that range.
"""

import numpy as np

from sd_keras.keras_internals import tensorflow as tf


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


DEVIATIONS = (0.04, 0.07, 0.11, 0.16, 0.22)
PHOTONS = (120, 60, 30, 15, 8)
SPOILT = (0.01, 0.03, 0.06, 0.10, 0.16)


def gaussian(images, severity, generator):
    """Adds normal noise of DEVIATIONS, that of an amplifier in poor light."""
    return images + DEVIATIONS[severity] * generator.standard_normal(images.shape, "float32")


def shot(images, severity, generator):
    """Counts light by the photon, at most PHOTONS of them."""
    photons = PHOTONS[severity]
    return (generator.poisson(images * photons) / photons).astype("float32")


def impulse(images, severity, generator):
    """Turns a share SPOILT of all values black or white."""
    uniform = generator.random(images.shape, "float32")
    spoilt = SPOILT[severity]
    return np.where(uniform < spoilt, (uniform < spoilt / 2).astype("float32"), images)


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


ADDED = (0.08, 0.16, 0.24, 0.32, 0.40)
CONTRASTS = (0.60, 0.45, 0.33, 0.22, 0.13)
# Shares of the image's side.
BENT = (0.012, 0.020, 0.030, 0.042, 0.056)
BEND_WIDTH = 0.07
KEPT = (0.70, 0.55, 0.42, 0.32, 0.24)
QUALITIES = (40, 25, 15, 10, 6)


def brightness(images, severity, generator):
    """Adds ADDED to every value."""
    return images + ADDED[severity]


def contrast(images, severity, generator):
    """Draws values towards the image's mean, channel by channel, down to CONTRASTS."""
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

    def through(image):
        file = tf.io.encode_jpeg(image, quality=QUALITIES[severity])
        return tf.io.decode_jpeg(file, image.shape[-1]).numpy()

    with tf.device("CPU"):
        files = [through(image) for image in np.rint(255 * images).astype("uint8")]
    return np.stack(files).astype("float32") / 255


KINDS = {
    "gaussian_noise": gaussian,
    "shot_noise": shot,
    "impulse_noise": impulse,
    "defocus_blur": defocus,
    "glass_blur": glass,
    "motion_blur": motion,
    "zoom_blur": zoom,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic": elastic,
    "pixelate": pixelate,
    "jpeg": jpeg,
}
SEVERITIES = (1, 2, 3, 4, 5)
# Values worked on at once, so that the copies in float32 stay small.
MOST_VALUES = 8_000_000


def corrupt(images, kind, severity, seed=0):
    """Corrupts a batch of images, each by a draw of its own.

    Args:
        images: `(n, h, w, c)` uint8, 1 or 3 channels, of any size.
        kind: one of `KINDS`.
        severity: an integer 1…5.
        seed: an integer of at least 0. All severities of a kind are drawn alike.

    Returns:
        `(n, h, w, c)` uint8.

    Raises:
        ValueError: for an argument that does not fit.
    """
    images = check(images, kind, severity, seed)
    step = max(1, MOST_VALUES // max(1, images[0].size)) if len(images) else 1
    corrupted = np.empty_like(images)
    for start in range(0, len(images), step):
        generator = np.random.default_rng([seed, list(KINDS).index(kind), start])
        floats = images[start : start + step].astype("float32") / 255
        made = KINDS[kind](floats, severity - 1, generator)
        corrupted[start : start + step] = np.rint(255 * np.clip(made, 0, 1))
    return corrupted


def check(images, kind, severity, seed=0):
    """Returns images as an array; raises ValueError for what `corrupt` cannot take."""
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "`images` must be uint8 of shape (n, height, width, 1 or 3). "
            f"Received: images of shape {images.shape}, {images.dtype}"
        )
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"`severity` must be an integer 1…5. Received: severity={severity!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    return images
