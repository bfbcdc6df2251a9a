"""A distortion of brightness and colour."""

import math

import keras
import numpy as np

from sd_keras.distortions.base import Distortion, as_pixels, magnitude, wide_dtype

# Rows Y, I, Q of the NTSC colour space (ITU-R BT.601 for the luminance Y).
TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
)
LUMINANCE = TO_YIQ[0]
# What of a pixel is colour, and that turned by a quarter, as matrices for pixels as rows.
COLOUR = (np.eye(3) - np.outer(np.ones(3), LUMINANCE)).T
QUARTER_TURN = (np.linalg.inv(TO_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ TO_YIQ).T


@keras.saving.register_keras_serializable(package="sd_keras")
class Color(Distortion):
    """Changes brightness, contrast, saturation and hue of each image at random.

    With Y the luminance of a pixel, 0.299 R + 0.587 G + 0.114 B, and Ȳ its mean over the image,
    a pixel x becomes, cut to 0…`max_value`,

        b · (c · (Y + s · H(θ)(x − Y)) + (1 − c) · Ȳ)

    brightness b multiplies, contrast c blends with Ȳ, saturation s blends with the pixel's own
    Y, and hue H(θ) turns the colour part by θ in the plane of I and Q of the YIQ space, which
    leaves Y as it is. Each parameter is uniform, drawn for each image by itself.

    Args:
        brightness, contrast, saturation: b, c, s lie in 1 − argument … 1 + argument; 0…1.
        hue: largest angle θ to either side as a share of a full turn, 0…0.5.
        max_value: of a pixel; 255 for raw images, 1 for images scaled to 0…1.
        seed, **kwargs: as `Distortion`.

    Shapes: as `Distortion`, with 3 channels (R, G, B), or with 1, which has neither saturation
    nor hue. Raises ValueError otherwise, and for an argument outside of its limits.
    """

    magnitudes = ("brightness", "contrast", "saturation", "hue")
    arguments = (*magnitudes, "max_value")
    num_draws = 4

    def __init__(
        self,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.05,
        max_value=255.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(seed, **kwargs)
        self.brightness = magnitude("brightness", brightness, 1, inclusive=True)
        self.contrast = magnitude("contrast", contrast, 1, inclusive=True)
        self.saturation = magnitude("saturation", saturation, 1, inclusive=True)
        self.hue = magnitude("hue", hue, 0.5, inclusive=True)
        self.max_value = magnitude("max_value", max_value, math.inf)
        if self.max_value == 0:
            raise ValueError("`max_value` must be greater than 0. Received: max_value=0")

    def check(self, images):
        super().check(images)
        if images.shape[-1] not in (1, 3):
            raise ValueError(
                "`images` must have 3 channels (R, G, B) or 1. "
                f"Received: images of shape {tuple(images.shape)}"
            )

    def distort(self, images, uniform, xp):
        dtype = wide_dtype(images)
        height, width, channels = images.shape[1:]
        # (n, pixels, c): the colours of an image by one product of matrices.
        pixels = xp.reshape(xp.cast(images, dtype), (-1, height * width, channels))
        signed = xp.cast(2 * uniform - 1, dtype)[:, :, None, None]
        limits = (self.brightness, self.contrast, self.saturation)
        bright, contrast, saturation = (1 + signed[i] * limits[i] for i in range(3))
        luminance = np.ones((1, 1)) if channels == 1 else LUMINANCE[:, None]
        average = xp.mean(pixels, axis=1, keepdims=True)
        average = xp.matmul(average, xp.cast(luminance, dtype))
        if channels == 3:
            angle = signed[3] * (2 * math.pi * self.hue)
            change = (saturation * xp.cos(angle) - 1) * xp.cast(COLOUR, dtype)
            change += saturation * xp.sin(angle) * xp.cast(QUARTER_TURN, dtype)
            pixels = pixels + xp.matmul(pixels, change)
        pixels = bright * (contrast * pixels + (1 - contrast) * average)
        pixels = xp.reshape(pixels, xp.shape(images))
        return as_pixels(pixels, images, xp, self.max_value)
