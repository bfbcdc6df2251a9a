"""The augmentation of both papers."""

import keras

from sd_keras.distortions.base import Distortion


@keras.saving.register_keras_serializable(package="sd_keras")
class CropFlip(Distortion):
    """Zero-pads, crops back at a random place and mirrors at random, each image by itself.

    The augmentation of both papers. One gather over the whole batch; compiles under XLA.
    Works in a training step on every backend, and inside `tf.data` maps. Its random state
    is a variable that `SelfDistillModel` saves, so a resumed run draws on where it stopped.

    Args:
        padding: pixels added on each side before cropping to the old size.
        flip: mirror half of the images left to right.
        seed, **kwargs: as `Distortion`.

    Shapes: `(n, height, width, channels)` in and out, dtype kept (raw uint8 too). The
    padding is black, hence the distortion belongs before any normalisation.
    """

    arguments = magnitudes = ("padding", "flip")
    num_draws = 3

    def __init__(self, padding=4, flip=True, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        if not isinstance(padding, int) or padding < 0:
            raise ValueError(
                f"`padding` must be an integer of at least 0. Received: padding={padding!r}"
            )
        self.padding = padding
        self.flip = flip

    def seed_of_draws(self, seed):
        return seed  # all others draw from one made of it and their names

    def check(self, images):
        super().check(images)
        if self.padding > min(images.shape[1:3]):
            raise ValueError(
                "`padding` must be at most the height and width of the images. "
                f"Received: padding={self.padding}, images of shape {tuple(images.shape)}"
            )

    def distort(self, images, uniform, xp):
        return crop_flip(images, uniform, self.padding, self.flip, xp)


def crop_flip(images, uniform, padding, flip, xp):
    """Crops and flips by one gather of pixels.

    Args:
        images: `(n, h, w, c)`.
        uniform: `(3, n)` in [0, 1): row, column and flip of each image.
        padding, flip: as `CropFlip`.
        xp: as `Distortion.distort`.
    """
    n = xp.shape(images)[0]
    height, width, channels = images.shape[1:]
    # Rows are stored one after the other, so the zeros left of a row also serve as those
    # right of the row before, and likewise above and below: half the copying of a full pad.
    padded = xp.reshape(images, (n, height, width * channels))
    padded = xp.pad(padded, [[0, 1], [padding, 0], [padding * channels, 0]])
    pixels = xp.reshape(padded, (-1, channels))
    offsets = xp.cast(uniform[:2] * (2 * padding + 1), "int32")
    row_length = width + padding
    first = (offsets[0] + xp.arange(n) * (height + padding)) * row_length
    rows = first[:, None] + xp.arange(height) * row_length
    columns = offsets[1][:, None] + xp.arange(width)[None]
    if flip:
        mirrored = xp.cast(uniform[2] < 0.5, "int32")[:, None]
        columns = columns + mirrored * (width - 1 - 2 * xp.arange(width)[None])
    index = rows[:, :, None] + columns[:, None, :]
    return xp.take(pixels, index, axis=0)
