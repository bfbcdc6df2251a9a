"""Distortions that move the image as a plane: affine and perspective maps."""

import math

import keras

from sd_keras.distortions import base
from sd_keras.distortions.sampling import pixel_places, sample


@keras.saving.register_keras_serializable(package="sd_keras")
class Affine(base.Distortion):
    """Shears, rotates, scales and moves each image at random, about its centre.

    A point q of the image, seen from the centre, goes to s · R(θ) · S(φ) · q + t, with the
    shear S(φ) = [[1, tan φ], [0, 1]] along the rows. Each parameter is uniform, drawn for
    each image by itself; bilinear sampling, black outside the image.

    Args:
        rotation: largest angle θ to either side, in degrees, 0…180.
        scale: s lies in 1 − scale … 1 + scale; 0 to below 1.
        shear: largest angle φ to either side, in degrees, 0 to below 90.
        translation: largest move t to either side, as a share of the height for rows and of
            the width for columns, 0…1.
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Shapes: as `Distortion`. Raises ValueError for an argument outside of its limits.
    """

    arguments = ("rotation", "scale", "shear", "translation")
    num_draws = 5

    def __init__(self, rotation=15.0, scale=0.15, shear=10.0, translation=0.1, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.rotation = base.magnitude("rotation", rotation, 180, inclusive=True)
        self.scale = base.magnitude("scale", scale, 1)
        self.shear = base.magnitude("shear", shear, 90)
        self.translation = base.magnitude("translation", translation, 1, inclusive=True)

    def is_identity(self):
        return self.rotation == self.scale == self.shear == self.translation == 0

    def distort(self, images, uniform, xp):
        rows, columns = affine_places(images, self.parameters(uniform, images, xp), xp)
        return sample(images, rows, columns, xp)

    def parameters(self, uniform, images, xp):
        """Returns cos θ, sin θ, s, tan φ and both parts of t in pixels, each `(n, 1, 1)`."""
        height, width = images.shape[1:3]
        signed = (2 * uniform - 1)[:, :, None, None]
        angle = signed[0] * math.radians(self.rotation)
        slope = xp.tan(signed[2] * math.radians(self.shear))
        down, right = signed[3] * self.translation * height, signed[4] * self.translation * width
        return xp.cos(angle), xp.sin(angle), 1 + signed[1] * self.scale, slope, down, right


def affine_places(images, parameters, xp):
    """Returns the places that the pixels of an affine view show, rows and columns `(n, h, w)`."""
    cosine, sine, scale, slope, down, right = parameters
    rows, columns = pixel_places(images, xp)
    middle_row, middle_column = ((size - 1) / 2 for size in images.shape[1:3])
    rows, columns = rows - middle_row - down, columns - middle_column - right
    # Backwards: scale, rotation and shear are undone one after another. Rows and columns meet
    # in a single sum each, the rest is computed on few numbers.
    cosine, sine = cosine / scale, sine / scale
    source_rows = cosine * rows - sine * columns
    source_columns = (cosine + slope * sine) * columns + (sine - slope * cosine) * rows
    return source_rows + middle_row, source_columns + middle_column


@keras.saving.register_keras_serializable(package="sd_keras")
class Perspective(base.Distortion):
    """Shows each image in perspective: its four corners are moved at random.

    The corners of the view show places that lie up to `magnitude` from those of the image,
    uniformly in rows and columns, and what lies between follows the projective map through
    them (Heckbert 1989, Fundamentals of texture mapping and image warping).
    Bilinear sampling, black outside the image.

    Args:
        magnitude: as a share of height and width, 0 to below 0.25, where the four corners
            would no longer be those of a convex shape.
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Shapes: as `Distortion`, of at least 2x2 pixels. Raises ValueError otherwise, and for a
    magnitude outside of the limits.
    """

    arguments = ("magnitude",)
    num_draws = 8

    def __init__(self, magnitude=0.12, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.magnitude = base.magnitude("magnitude", magnitude, 0.25)

    def is_identity(self):
        return self.magnitude == 0

    def check(self, images):
        super().check(images)
        check_size(images)

    def distort(self, images, uniform, xp):
        rows, columns = perspective_places(images, (2 * uniform - 1) * self.magnitude, xp)
        return sample(images, rows, columns, xp)


def check_size(images):
    """Raises ValueError for images that have no four different corners."""
    if min(images.shape[1:3]) < 2:
        raise ValueError(
            "`images` must have at least 2x2 pixels. "
            f"Received: images of shape {tuple(images.shape)}"
        )


def perspective_places(images, moves, xp):
    """Returns the places that the pixels of a perspective view show.

    Args:
        images: `(n, h, w, c)`.
        moves: `(8, n)`, of the four corners clockwise from top left, rows then columns, as
            shares of the image.
        xp: as `Distortion.distort`.

    Returns:
        Rows and columns, `(n, h, w)`.
    """
    height, width = images.shape[1:3]
    rows, columns = pixel_places(images, xp)
    down, right = rows / (height - 1), columns / (width - 1)
    moves = moves[:, :, None, None]
    y = [moves[i] + corner for i, corner in enumerate((0, 0, 1, 1))]
    x = [moves[4 + i] + corner for i, corner in enumerate((0, 1, 1, 0))]
    sum_x, sum_y = (p[0] - p[1] + p[2] - p[3] for p in (x, y))
    (first_x, second_x), (first_y, second_y) = ((p[1] - p[2], p[3] - p[2]) for p in (x, y))
    area = first_x * second_y - second_x * first_y
    g = (sum_x * second_y - second_x * sum_y) / area
    h = (first_x * sum_y - sum_x * first_y) / area
    depth = g * right + (h * down + 1)
    places = []
    for p, size in ((y, height), (x, width)):
        along_row, along_column = p[1] - p[0] + g * p[1], p[3] - p[0] + h * p[3]
        place = along_row * right * (size - 1) + (along_column * down + p[0]) * (size - 1)
        places.append(place / depth)
    return places
