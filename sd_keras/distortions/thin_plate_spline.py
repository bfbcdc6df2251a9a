"""A distortion that bends the image: thin-plate splines."""

import functools

import keras
import numpy as np

from sd_keras.distortions import base
from sd_keras.distortions.planar import check_size
from sd_keras.distortions.sampling import pixel_places, sample


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
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Shapes: as `Distortion`, of at least 2x2 pixels. Raises ValueError otherwise, and for an
    argument outside of its limits.
    """

    arguments = ("points", "magnitude")

    def __init__(self, points=4, magnitude=0.06, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        if not isinstance(points, int) or isinstance(points, bool) or points < 2:
            raise ValueError(
                f"`points` must be an integer of at least 2. Received: points={points!r}"
            )
        self.points = points
        self.magnitude = base.magnitude("magnitude", magnitude, 0.5)
        self.num_draws = 2 * points**2

    def is_identity(self):
        return self.magnitude == 0

    def check(self, images):
        super().check(images)
        check_size(images)

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
