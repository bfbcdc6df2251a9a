"""What all distortions have: a seed, a draw for each image, the dtype of the images."""

import math
import numbers

import keras
from keras import ops

from sd_keras import seeds
from sd_keras.distortions import operations


class Distortion(keras.layers.Layer):
    """Base of the distortions: draws uniform numbers and hands them to `distort`.

    A subclass says in `num_draws` how many numbers it needs for each image, and makes the
    views of them in `distort`. Works in a training step on every backend, and inside
    `tf.data` maps. The random state is a variable that `SelfDistillModel` saves, so a resumed
    run draws on where it stopped.

    Args:
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Attributes:
        arguments: names of the arguments besides `seed`, for `get_config`.
        magnitudes: names of those that are 0 where images are handed through.
        num_draws: uniform numbers for each image.
        smallest: height and width that images must have.

    Shapes: `(n, height, width, channels)` in and out, dtype kept.
    """

    arguments = ()
    magnitudes = ()
    num_draws = 0
    smallest = 0

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(self.seed_of_draws(seed))
        self._stream = None
        self.built = True

    def seed_of_draws(self, seed):
        """Returns the seed of the draws, other than those of other classes of the same seed."""
        return seeds.of_kind(seed, type(self).__name__)

    def __call__(self, images, training=True):
        """Returns a new draw for each image; with `training=False` the images themselves."""
        # Layer.__call__ would cast images to the compute dtype and fail on tf.data's
        # tensors under another backend; nothing of it is needed here.
        self.check(images)
        if not training or self.is_identity():
            return images
        tensorflow = operations.tensorflow_of(images)
        xp = operations.of(images)
        n = xp.shape(images)[0]
        if tensorflow is None or keras.config.backend() == "tensorflow":
            uniform = keras.random.uniform((self.num_draws, n), seed=self.seed_generator)
        else:
            uniform = self._tensorflow_stream(tensorflow).uniform((self.num_draws, n))
        return self.distort(images if tensorflow else ops.convert_to_tensor(images), uniform, xp)

    def call(self, images, training=True):
        return self(images, training=training)

    def distort(self, images, uniform, xp):
        """Makes views of uniform numbers.

        Args:
            images: `(n, h, w, c)`.
            uniform: `(num_draws, n)` in [0, 1).
            xp: where the operations come from, `keras.ops` or what is named alike.

        Returns:
            `(n, h, w, c)` of the images' dtype.
        """
        raise NotImplementedError

    def is_identity(self):
        """Whether every magnitude is 0, so that the images are handed through."""
        return bool(self.magnitudes) and not any(getattr(self, n) for n in self.magnitudes)

    def check(self, images):
        """Raises ValueError for images of another rank, or of a size unknown in a trace."""
        if len(images.shape) != 4 or None in tuple(images.shape)[1:]:
            raise ValueError(
                "`images` must have rank 4 (n, height, width, channels), all but n known. "
                f"Received: images of shape {tuple(images.shape)}"
            )
        if min(images.shape[1:3]) < self.smallest:
            raise ValueError(
                f"`images` must have at least {self.smallest}x{self.smallest} pixels. "
                f"Received: images of shape {tuple(images.shape)}"
            )

    def _tensorflow_stream(self, tensorflow):
        """Random numbers for tf.data pipelines under another backend than TensorFlow."""
        if self._stream is None:
            with tensorflow.init_scope():
                seed = self.seed_generator.get_config()["seed"]
                create = tensorflow.random.Generator
                self._stream = (
                    create.from_non_deterministic_state()
                    if seed is None
                    else create.from_seed(seed)
                )
        return self._stream

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = (*self.arguments, "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


def magnitude(name, value, below, inclusive=False):
    """Returns an argument as float, once it is known to lie in 0…`below`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = is_number and math.isfinite(value) and (0 <= value < below or value == below * inclusive)
    if not fits:
        limits = f"0 to {below}" if inclusive else f"0 to below {below}"
        raise ValueError(f"`{name}` must be a number from {limits}. Received: {name}={value!r}")
    return float(value)


def as_pixels(values, images, xp, largest=None):
    """Returns computed values in the dtype of the images, integers rounded.

    Args:
        values: `(n, h, w, c)` float.
        images: what they were computed from.
        xp: as `Distortion.distort`.
        largest: pixel value to cut at, beside 0; None where values cannot leave the range.
    """
    if largest is not None:
        values = xp.clip(values, 0.0, largest)
    dtype = keras.backend.standardize_dtype(images.dtype)
    return xp.cast(values if "float" in dtype else xp.round(values), dtype)


def wide_dtype(images):
    """Returns the float dtype to compute in: float32, or float64 for such images."""
    dtype = keras.backend.standardize_dtype(images.dtype)
    return "float64" if dtype == "float64" else "float32"
