"""Mixing: each image of a training batch with its neighbour, and their labels alike."""

import math
import numbers

import keras
from keras import ops

from sd_keras import seeds
from sd_keras.losses import as_probabilities

# Below any uniform number a generator gives but 0, above the smallest that float32 holds.
TINY = 1e-30


@keras.saving.register_keras_serializable(package="sd_keras")
class Mix(keras.layers.Layer):
    """Blends each image with its neighbour or pastes a box of it, and mixes labels alike.

    mixup (Zhang et al. 2018, arXiv:1710.09412, section 2), with λ from Beta(α, α):

        x = λ · x_own + (1 − λ) · x_partner          y = λ · y_own + (1 − λ) · y_partner

    CutMix (Yun et al. 2019, arXiv:1905.04899) keeps whole pixels instead, eq. 1: a box with
    sides W·√(1 − λ) and H·√(1 − λ) and its centre anywhere in the image, eq. 2, shows the
    partner. The box is cut at the border, its edges lie on the nearest pixel edges, and λ of
    the label is what is then left of the own image, counted in pixels.

    The partner of an image is the one before it in the batch, of the first the last: the
    order of a training batch is random already. λ, the box and which of the two is used are
    drawn for each image by itself, in whole-batch operations; compiles under XLA.

    Args:
        mixup: α of mixup, a number; 0 for no mixup. The paper's ImageNet runs use 0.2.
        cutmix: α of CutMix, a number; 0 for no CutMix. The paper uses 1.
        cutmix_share: probability that CutMix and not mixup is used on an image, where both
            are on; without effect otherwise.
        seed: integer; None takes a random one.
        **kwargs: as `keras.layers.Layer`.

    Raises:
        ValueError: for an α below 0 or infinite, both 0, or a share outside of 0…1.
    """

    def __init__(self, mixup=0.2, cutmix=1.0, cutmix_share=0.5, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.mixup = _number("mixup", mixup)
        self.cutmix = _number("cutmix", cutmix)
        self.cutmix_share = _number("cutmix_share", cutmix_share, 1)
        if self.mixup == self.cutmix == 0:
            raise ValueError(
                "`mixup` or `cutmix` must be greater than 0, or nothing is mixed. "
                f"Received: mixup={mixup!r}, cutmix={cutmix!r}"
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seeds.of_kind(seed, "Mix"))
        self.built = True

    # Not `call`: Layer.__call__ would cast images to the compute dtype.
    def mix(self, images, labels, num_classes, sample_weight=None):
        """Returns the mixed images and their labels, from a new draw.

        Args:
            images: `(n, height, width, channels)`, or a tuple of such batches, the views of
                the same n images: all get the same partner, λ and box.
            labels: class numbers `(n,)` or probabilities `(n, num_classes)`. Their values
                are not checked; a number that is no class has probability 0 everywhere.
            num_classes: how many classes there are.
            sample_weight: None, or `(n,)`. A partner of weight 0 stands for an image that
                could not be read: it is mixed into none.

        Returns:
            The images in the form and dtype they came in, those of an integer dtype rounded,
            and the labels as probabilities `(n, num_classes)` float32.

        Raises:
            ValueError: if images or labels have another shape.
        """
        several = isinstance(images, (tuple, list))
        views = [ops.convert_to_tensor(view) for view in (images if several else (images,))]
        shapes = [tuple(view.shape) for view in views]
        if not shapes or len(shapes[0]) != 4 or any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                "`images` must be one batch (n, height, width, channels) or views of the same "
                f"shape. Received: images of shape {', '.join(map(str, shapes))}"
            )
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) != 1 and tuple(labels.shape[1:]) != (num_classes,):
            raise ValueError(
                f"`labels` must be class numbers (n,) or probabilities (n, {num_classes}). "
                f"Received: labels of shape {tuple(labels.shape)}"
            )
        labels = as_probabilities(labels, num_classes, "float32")
        n, height, width, _ = ops.shape(views[0])
        uniform = keras.random.uniform((5, n), dtype="float32", seed=self.seed_generator)
        share = self.cutmix_share if self.mixup and self.cutmix else float(self.cutmix > 0)
        weight, box = _plan(uniform, self.mixup, self.cutmix, share, height, width)
        if sample_weight is not None:
            partner = ops.roll(ops.reshape(ops.convert_to_tensor(sample_weight), (-1,)), 1, axis=0)
            weight = ops.where(partner != 0, weight, 1.0)
            box = box * ops.cast(partner != 0, "int32")
        area = ops.cast((box[1] - box[0]) * (box[3] - box[2]), "float32")
        # The share of the own image in each mixed one, `(n,)`: λ of the label.
        kept = weight * (1 - area / ops.cast(height * width, "float32"))
        # What no image of a batch can get is left out of the graph.
        weight = weight if share < 1 else None
        box = box if share > 0 else None
        mixed = tuple(_mix_images(view, weight, box) for view in views)
        labels = _blend(labels, ops.roll(labels, 1, axis=0), kept[:, None])
        return (mixed if several else mixed[0]), labels

    def get_config(self):
        names = ("mixup", "cutmix", "cutmix_share", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _number(name, value, most=math.inf):
    """Returns an argument as float, once it is known to be a finite number 0…`most`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= most and math.isfinite(value)):
        limits = "of at least 0" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"`{name}` must be a finite number {limits}. Received: {name}={value!r}")
    return float(value)


def _plan(uniform, mixup, cutmix, share, height, width):
    """Makes of uniform numbers what happens to each image.

    Args:
        uniform: `(5, n)` in [0, 1): choice of CutMix, two for λ, row and column of the centre.
        mixup, cutmix: as `Mix`.
        share: probability of CutMix.
        height, width: of the images, in pixels.

    Returns:
        The own image's weight λ `(n,)` under mixup, 1 under CutMix; and the box `(4, n)`
        under CutMix, as `_boxes`, empty under mixup.
    """
    alphas = ops.convert_to_tensor([mixup, cutmix], "float32")
    pasted = uniform[0] < share
    weight = _symmetric_beta(uniform[1], uniform[2], ops.where(pasted, alphas[1], alphas[0]))
    box = _boxes(weight, uniform[3:], height, width) * ops.cast(pasted, "int32")
    return ops.where(pasted, 1.0, weight), box


def _symmetric_beta(radius, angle, alpha):
    """Makes of two uniform numbers one of Beta(α, α), in [0, 1] for every α > 0.

    T = √(2α (U^(−1/α) − 1)) cos 2πV has Student's t distribution with 2α degrees of freedom
    (Bailey 1994, Mathematics of Computation 62), so ½ + ½ T / √(2α + T²) has this one
    (Devroye 1996, Random variate generation in one line of code).

    `keras.random.beta` is no choice: its gammas do not compile under TensorFlow's XLA.
    """
    # Multiplied through by U^(1/α), which may vanish for small α where U^(−1/α) would be
    # infinite. 1 − U^(1/α) by expm1, because U^(1/α) is close to 1 for large α.
    log_power = ops.log(ops.maximum(radius, TINY)) / alpha
    cosine = ops.cos(2 * math.pi * angle)
    numerator = -ops.expm1(log_power) * ops.maximum(ops.square(cosine), TINY)
    ratio = numerator / (ops.exp(log_power) + numerator)
    return 0.5 + 0.5 * ops.sign(cosine) * ops.sqrt(ops.minimum(ratio, 1.0))


def _boxes(weight, centre, height, width):
    """Returns first row, row behind, first column and column behind of eq. 2's boxes, `(4, n)`.

    Args:
        weight: λ `(n,)`.
        centre: `(2, n)` in [0, 1): row and column as shares of height and width.
        height, width: of the images, in pixels.
    """
    half = ops.sqrt(1 - weight) / 2
    edges = []
    for place, size in ((centre[0], height), (centre[1], width)):
        for edge in (place - half, place + half):
            edges.append(ops.round(ops.clip(edge, 0.0, 1.0) * ops.cast(size, "float32")))
    return ops.cast(ops.stack(edges), "int32")


def _mix_images(images, weight, box):
    """Blends by weight, then pastes the box.

    Args:
        images: `(n, h, w, c)`.
        weight: of the own images, `(n,)`; None for 1.
        box: as `_boxes`; None for none.
    """
    shape = ops.shape(images)
    n, height, width, channels = shape
    # With rows and columns as the only axes beside n, TensorFlow pastes four times as fast.
    mixed = ops.reshape(images, (n, height, width * channels))
    partner = ops.roll(mixed, 1, axis=0)
    if weight is not None:
        mixed = _blend(mixed, partner, weight[:, None, None])
    if box is not None:
        rows = _within(ops.arange(height, dtype="int32"), box[:2])
        columns = _within(ops.arange(width * channels, dtype="int32") // channels, box[2:])
        mixed = ops.where(rows[:, :, None] & columns[:, None, :], partner, mixed)
    return ops.reshape(mixed, shape)


def _within(positions, edges):
    """Returns which positions `(size,)` lie between each image's two edges, `(n, size)`."""
    return (positions >= edges[0][:, None]) & (positions < edges[1][:, None])


def _blend(own, partner, weight):
    """Returns weight · own + (1 − weight) · partner in the dtype of `own`."""
    dtype = keras.backend.standardize_dtype(own.dtype)
    wide = keras.backend.result_type(dtype, "float32")
    weight = ops.cast(weight, wide)
    mixed = weight * ops.cast(own, wide) + (1 - weight) * ops.cast(partner, wide)
    return ops.cast(mixed if "float" in dtype else ops.round(mixed), dtype)
