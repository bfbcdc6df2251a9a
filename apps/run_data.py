"""What a run makes of its data: the part it trains on, and the views it draws."""

import numpy as np
from app_start import lazy_import

distortions = lazy_import("sd_keras.distortions")

STRONG = {
    "affine": "Affine",
    "perspective": "Perspective",
    "thin_plate_spline": "ThinPlateSpline",
    "color": "Color",
}


def part_of(train, fraction, seed):
    """Returns the share of training images and class numbers that a run has, drawn by its seed."""
    return drawn(train, max(1, round(fraction * len(train[0]))), seed)


def drawn(pair, count, seed):
    """Returns so many of a pair's images and class numbers, in their order."""
    images, labels = pair
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    return images[chosen], labels[chosen]


def distortion_of(settings, input_shape, dataset, seed):
    """Returns the layer that draws a view: crop and flip, followed by the run's distortions.

    `settings` is a dict of the flags `padding`, `flip` and `distortion`; None or missing for the
    papers', in proportion to the image. Digits are not mirrored.
    """
    padding, flip = settings.get("padding"), settings.get("flip")
    padding = input_shape[0] // 8 if padding is None else padding
    flip = not (dataset == "digits" or "mnist" in dataset) if flip is None else flip
    first = distortions.CropFlip(padding, flip, seed=seed)
    names = [name for name in settings.get("distortion") or () if name != "crop_flip"]
    if not all(name in tuple(STRONG) for name in names):
        raise ValueError(
            f"`distortion` must be of crop_flip, {', '.join(STRONG)}. Received: distortion={names}"
        )
    # Two of a kind would draw the same from one seed.
    kinds = [getattr(distortions, STRONG[name]) for name in names]
    others = [kind(seed=seed + index) for index, kind in enumerate(kinds)]
    return distortions.Chain([first, *others]) if others else first
