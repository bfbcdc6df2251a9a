"""The one form in which every data set reaches the rest of the library."""

from dataclasses import dataclass, field

import numpy as np

# A channel that is constant over the train split has no spread. Dividing by this floor
# leaves such a channel at zero instead of making it infinite.
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True, eq=False)
class RawSets:
    """The sets a source really has; each a pair (images uint8 (n, h, w, c), labels int32 (n,)).

    Attributes:
        train: always there.
        class_names: tuple of str, in the order of the labels.
        validation, test: None where the source has none of its own.
    """

    train: tuple
    class_names: tuple
    validation: tuple | None = None
    test: tuple | None = None


@dataclass(frozen=True, eq=False)
class Splits:
    """Train, validation and test images of one data set, held in memory.

    Attributes:
        train: pair (images, labels): uint8 (n, height, width, channels) and int32 (n,).
        validation: a pair like `train`, or None.
        test: a pair like `train`. It has no images (n = 0) where there was nothing to hold
            out: an image folder with a single image per class.
        num_classes: labels lie in 0…num_classes − 1.
        class_names: one name per class, in the order of the labels.
        input_shape: (height, width, channels) of every image.
        mean: per channel, of the train images only, in units of [0, 1] (pixel / 255).
        std: per channel, like `mean`; never zero.
        name: the name the data set was loaded by.

    Raises:
        ValueError: where images, labels, class names and statistics do not fit together.
    """

    train: tuple = field(repr=False)
    validation: tuple | None = field(repr=False)
    test: tuple = field(repr=False)
    num_classes: int
    class_names: tuple = field(repr=False)
    input_shape: tuple
    mean: tuple
    std: tuple
    name: str

    def __post_init__(self):
        names = self.class_names
        text = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if self.num_classes < 1 or not text or len(names) != self.num_classes:
            shown = f"{type(names).__name__} of {len(names)}"
            raise ValueError(
                "`class_names` must be a tuple of one string per class, for `num_classes` of at "
                f"least 1. Received: class_names=({shown}), num_classes={self.num_classes}"
            )
        _check_pair("train", self.train, self)
        if len(self.train[0]) == 0:
            raise ValueError("`train` must hold at least one image. Received: train=(no images)")
        if self.validation is not None:
            _check_pair("validation", self.validation, self)
        _check_pair("test", self.test, self)
        channels = self.input_shape[-1]
        for part, values, bound in (("mean", self.mean, "finite"), ("std", self.std, "positive")):
            usable = len(values) == channels and all(np.isfinite(value) for value in values)
            if not usable or (part == "std" and min(values) <= 0):
                raise ValueError(
                    f"`{part}` must hold one {bound} value for each of the {channels} channels. "
                    f"Received: {part}={values}"
                )


def channel_statistics(images):
    """Returns the mean and the standard deviation of each channel, in units of [0, 1].

    Args:
        images: uint8 (n, height, width, channels), n at least 1.

    Returns:
        Two tuples of floats, one value per channel. They are exact: counted over the 256
        pixel values, so no copy of the images in floating point is made.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, "int64")
        # np.bincount widens what it counts to 64 bits, hence a block of images at a time.
        for start in range(0, len(images), 1024):
            block = images[start : start + 1024, :, :, channel]
            counts += np.bincount(block.ravel(), minlength=256)
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        means.append(float(mean))
        deviations.append(max(float(np.sqrt(variance)), SMALLEST_DEVIATION))
    return tuple(means), tuple(deviations)


def _check_pair(part, pair, splits):
    """Raises ValueError where one split is not images and labels of the stated kind."""
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise ValueError(
            f"`{part}` must be a tuple (images, labels). Received: {part}={type(pair).__name__}"
        )
    images, labels = (np.asanyarray(array) for array in pair)
    if images.dtype != np.uint8 or images.shape[1:] != splits.input_shape or images.ndim != 4:
        raise ValueError(
            f"`{part}` must hold images of dtype uint8 and rank 4, (n, height, width, channels), "
            f"with input_shape={splits.input_shape}. "
            f"Received: {part}=({images.dtype} images of shape {images.shape}, …)"
        )
    if labels.dtype != np.int32 or labels.shape != (len(images),):
        raise ValueError(
            f"`{part}` must hold one int32 label per image, shape ({len(images)},). "
            f"Received: {part}=(…, {labels.dtype} labels of shape {labels.shape})"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= splits.num_classes):
        raise ValueError(
            f"`{part}` must hold labels of 0…{splits.num_classes - 1}, as there are "
            f"num_classes={splits.num_classes}. "
            f"Received: {part}=(…, labels of {labels.min()}…{labels.max()})"
        )
