"""Distortions: random views of a batch of images, drawn as whole-batch operations."""

import sys

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sd_keras")
class CropFlip(keras.layers.Layer):
    """Zero-pads, crops back at a random place and mirrors at random, each image by itself.

    The augmentation of both papers. One gather over the whole batch; compiles under XLA.
    Works in a training step on every backend, and inside `tf.data` maps. Its random state
    is a variable that `SelfDistillModel` saves, so a resumed run draws on where it stopped.

    Args:
        padding: pixels added on each side before cropping to the old size.
        flip: mirror half of the images left to right.
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Shapes: `(n, height, width, channels)` in and out, dtype kept (raw uint8 too). The
    padding is black, hence the distortion belongs before any normalisation.
    """

    def __init__(self, padding=4, flip=True, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(padding, int) or padding < 0:
            raise ValueError(
                f"`padding` must be an integer of at least 0. Received: padding={padding!r}"
            )
        self.padding = padding
        self.flip = flip
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._stream = None
        self.built = True

    def __call__(self, images, training=True):
        """Returns a new draw for each image; with `training=False` the images themselves."""
        # Layer.__call__ would cast images to the compute dtype and fail on tf.data's
        # tensors under another backend; nothing of it is needed here.
        if len(images.shape) != 4:
            raise ValueError(
                "`images` must have rank 4 (n, height, width, channels). "
                f"Received: images of shape {tuple(images.shape)}"
            )
        if not training:
            return images
        tensorflow = _tensorflow_of(images)
        n = ops.shape(images)[0] if tensorflow is None else tensorflow.shape(images)[0]
        if tensorflow is None or keras.config.backend() == "tensorflow":
            uniform = keras.random.uniform((3, n), seed=self.seed_generator)
        else:
            uniform = self._tensorflow_stream(tensorflow).uniform((3, n))
        return _crop_flip(images, n, uniform, self.padding, self.flip, tensorflow or ops)

    def call(self, images, training=True):
        return self(images, training=training)

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
        config = {"padding": self.padding, "flip": self.flip, "seed": self.seed}
        return super().get_config() | config


def _tensorflow_of(images):
    """Returns the tensorflow module if `images` is one of its tensors, without importing it."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow if tensorflow is not None and tensorflow.is_tensor(images) else None


def _crop_flip(images, n, uniform, padding, flip, xp):
    """Crops and flips by one gather of pixels.

    Args:
        images: `(n, h, w, c)`.
        n: batch size, a number or a scalar tensor.
        uniform: `(3, n)` in [0, 1): row, column and flip of each image.
        padding, flip: as `CropFlip`.
        xp: where `pad`, `reshape`, `cast` and `gather` come from: `keras.ops` or tensorflow.
    """
    height, width, channels = images.shape[1:]
    # Rows are stored one behind the other, so the zeros left of a row also serve as those
    # right of the row before, and likewise above and below: half the copying of a full pad.
    padded = xp.reshape(images, (n, height, width * channels))
    padded = xp.pad(padded, [[0, 1], [padding, 0], [padding * channels, 0]])
    pixels = xp.reshape(padded, (-1, channels))
    arange = getattr(xp, "range", None) or xp.arange
    offsets = xp.cast(uniform[:2] * (2 * padding + 1), "int32")
    row_length = width + padding
    first = (offsets[0] + arange(n) * (height + padding)) * row_length
    rows = first[:, None] + arange(height) * row_length
    columns = offsets[1][:, None] + arange(width)[None]
    if flip:
        mirrored = xp.cast(uniform[2] < 0.5, "int32")[:, None]
        columns = columns + mirrored * (width - 1 - 2 * arange(width)[None])
    index = rows[:, :, None] + columns[:, None, :]
    gather = getattr(xp, "gather", None) or (lambda table, at: xp.take(table, at, axis=0))
    return gather(pixels, index)
