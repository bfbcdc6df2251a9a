"""The 15 common corruptions of images at 5 severities, made procedurally.

The kinds are those of Hendrycks & Dietterich 2019 (Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations). Code and parameters are our own, lengths are
shares of the image's side, and snow, frost and fog are drawn, not photographed: figures are
not comparable with those of CIFAR-10-C, CIFAR-100-C or ImageNet-C.
"""

import numpy as np

from sd_keras.corruptions import kinds

KINDS = {
    "gaussian_noise": kinds.gaussian,
    "shot_noise": kinds.shot,
    "impulse_noise": kinds.impulse,
    "defocus_blur": kinds.defocus,
    "glass_blur": kinds.glass,
    "motion_blur": kinds.motion,
    "zoom_blur": kinds.zoom,
    "snow": kinds.snow,
    "frost": kinds.frost,
    "fog": kinds.fog,
    "brightness": kinds.brightness,
    "contrast": kinds.contrast,
    "elastic": kinds.elastic,
    "pixelate": kinds.pixelate,
    "jpeg": kinds.jpeg,
}
SEVERITIES = (1, 2, 3, 4, 5)
# Values worked on at once, so that the copies in float32 stay small.
MOST_VALUES = 8_000_000

__all__ = ["KINDS", "SEVERITIES", "check", "corrupt"]


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
