"""Distortions that move pixels: affine and perspective maps, thin-plate splines."""

import functools
import math

import keras
import numpy as np

from sd_keras.distortions import base
from sd_keras.distortions.base import as_pixels, wide_dtype


def sample(images, rows, columns, xp):
    """Returns the images' values at the given places, black outside.

    Between four pixels the value is interpolated in rows and columns; around the image lies
    black. One gather from the whole batch for each of the four: no loop over images.

    Args:
        images: `(n, h, w, c)`.
        rows, columns: `(n, h, w)` float32, for each pixel of the view the place it shows, in
            pixels; (0, 0) is the middle of the first pixel.
        xp: as `Distortion.distort`.

    Returns:
        `(n, h, w, c)` of the images' dtype, integers rounded.
    """
    height, width, channels = images.shape[1:]
    n = xp.shape(images)[0]
    row_length = width + 1
    first_row, down = _split(rows, height, xp)
    first_column, right = _split(columns, width, xp)
    first = xp.arange(n)[:, None, None] * ((height + 1) * row_length)
    index = first + (first_row + 1) * row_length + (first_column + 1)
    pixels = _framed(images, n, xp)
    dtype = wide_dtype(images)
    upper_left, upper_right, lower_left, lower_right = (
        xp.cast(xp.take(pixels, index + step, axis=0), dtype)
        for step in (0, 1, row_length, row_length + 1)
    )
    down, right = (xp.cast(part, dtype)[..., None] for part in (down, right))
    upper = upper_left + right * (upper_right - upper_left)
    lower = lower_left + right * (lower_right - lower_left)
    return as_pixels(upper + down * (lower - upper), images, xp)


def _split(places, size, xp):
    """Returns the last whole pixel in front of each place, −1…size−1, and the rest, 0…1."""
    places = xp.clip(places, -1.0, float(size))
    whole = xp.minimum(xp.floor(places), float(size - 1))
    return xp.cast(whole, "int32"), places - whole


def _framed(images, n, xp):
    """Returns the pixels with black around each image, `(pixels, c)`.

    Rows are stored one after the other, so one zero left of a row serves the row before as
    well, and one row of zeros above an image serves the image before.
    """
    height, width, channels = images.shape[1:]
    rows = xp.reshape(images, (n, height, width * channels))
    rows = xp.pad(rows, [[0, 0], [1, 0], [channels, 0]])
    return xp.pad(xp.reshape(rows, (-1, channels)), [[0, width + 2], [0, 0]])


def pixel_places(images, xp):
    """Returns row `(1, h, 1)` and column `(1, 1, w)` of each pixel, float32."""
    height, width = images.shape[1:3]
    rows = xp.cast(xp.arange(height), "float32")[None, :, None]
    return rows, xp.cast(xp.arange(width), "float32")[None, None, :]


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
        seed, **kwargs: as `Distortion`.

    Shapes: as `Distortion`. Raises ValueError for an argument outside of its limits.
    """

    arguments = magnitudes = ("rotation", "scale", "shear", "translation")
    num_draws = 5

    def __init__(self, rotation=15.0, scale=0.15, shear=10.0, translation=0.1, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.rotation = base.magnitude("rotation", rotation, 180, inclusive=True)
        self.scale = base.magnitude("scale", scale, 1)
        self.shear = base.magnitude("shear", shear, 90)
        self.translation = base.magnitude("translation", translation, 1, inclusive=True)

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
        seed, **kwargs: as `Distortion`.

    Shapes: as `Distortion`, of at least 2x2 pixels. Raises ValueError otherwise, and for a
    magnitude outside of the limits.
    """

    arguments = magnitudes = ("magnitude",)
    num_draws = 8
    smallest = 2  # with four different corners

    def __init__(self, magnitude=0.12, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.magnitude = base.magnitude("magnitude", magnitude, 0.25)

    def distort(self, images, uniform, xp):
        rows, columns = perspective_places(images, (2 * uniform - 1) * self.magnitude, xp)
        return sample(images, rows, columns, xp)


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


@keras.saving.register_keras_serializable(package="sd_keras")
class ThinPlateSpline(base.Distortion):
    """Bends each image: a grid of control points is moved at random, the rest follows smoothly.

    The control points of the view show places that lie up to `magnitude` from their own,
    uniformly in rows and columns; between them the moves are interpolated by the thin-plate
    spline, which bends least (Bookstein 1989, Principal warps). Bilinear sampling, black
    outside the image.

    Args:
        points: control points in a row and in a column of the grid, which spans the image;
            at least 2.
        magnitude: as a share of height and width, 0 to below 0.5.
        seed, **kwargs: as `Distortion`.

    Shapes: as `Distortion`, of at least 2x2 pixels. Raises ValueError otherwise, and for an
    argument outside of its limits.
    """

    arguments = ("points", "magnitude")
    magnitudes = ("magnitude",)
    smallest = 2

    def __init__(self, points=4, magnitude=0.06, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        if not isinstance(points, int) or isinstance(points, bool) or points < 2:
            raise ValueError(
                f"`points` must be an integer of at least 2. Received: points={points!r}"
            )
        self.points = points
        self.magnitude = base.magnitude("magnitude", magnitude, 0.5)
        self.num_draws = 2 * points**2

    def distort(self, images, uniform, xp):
        height, width = images.shape[1:3]
        moves = xp.transpose(2 * uniform - 1) * self.magnitude
        rows, columns = pixel_places(images, xp)
        # The moves of the pixels are linear in those of the control points, and how does not
        # depend on the draw: no system has to be solved in a step.
        share = xp.cast(influence(height, width, self.points), moves.dtype)
        count = self.points**2
        down = xp.matmul(moves[:, :count] * height, share)
        right = xp.matmul(moves[:, count:] * width, share)
        down, right = (xp.reshape(move, (-1, height, width)) for move in (down, right))
        return sample(images, rows + down, columns + right, xp)


@functools.lru_cache(maxsize=8)
def influence(height, width, points):
    """Returns how far each pixel follows each control point, `(points², height · width)`.

    The columns of the inverse of Bookstein's matrix L that belong to the control points,
    applied to each pixel's U(r) = r² log r² and affine part.
    """
    grid = [np.linspace(0, size - 1, points) for size in (height, width)]
    control = np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, 2)
    pixels = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    unit = max(height, width) - 1  # keeps the system well conditioned
    control, pixels = control / unit, pixels.reshape(-1, 2) / unit
    count = len(control)
    system = np.zeros((count + 3, count + 3))
    system[:count] = _terms(control, control)
    system[count:, :count] = system[:count, count:].T
    shares = np.linalg.solve(system, _terms(pixels, control).T)[:count]
    return shares.astype("float32")


def _terms(places, control):
    """Returns U of the distance to each control point, 1, row and column of each place."""
    squares = ((places[:, None] - control[None]) ** 2).sum(-1)
    bending = squares * np.log(np.where(squares > 0, squares, 1.0))
    return np.concatenate([bending, np.ones((len(places), 1)), places], axis=1)
