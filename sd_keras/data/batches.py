"""The batches of an epoch, in an order that depends on the seed and the epoch alone."""

import math
import numbers

import keras
import numpy as np

# Keras's TensorFlow trainer looks at this many batches for their shapes before training.
PROBED_BATCHES = 2


class Batches(keras.utils.PyDataset):
    """Images and labels batch by batch, in an order given by the seed and the epoch alone.

    Pass it to `fit` with `shuffle=False`: by default `fit` shuffles the batches of a
    PyDataset once more, with Python's global generator, and the order would then depend on
    all that used that generator before.

        batches = Batches(images, labels, 128, seed=0, initial_epoch=5)
        model.fit(batches, shuffle=False, initial_epoch=5, epochs=200)

    The epoch advances in `on_epoch_end`, which `fit` also calls once before its first epoch:
    that call is recognised and does not count. Outside `fit`, `on_epoch_end` counts after a
    whole pass over the batches (with two batches or fewer, after a `for` loop over them).
    `set_epoch` sets the epoch outright. A second `fit` continues with the epoch the first one
    arrived at, where one broken off by `stop_training` counts as passed; under a
    `tf.distribute` strategy, where every `fit` begins an epoch only to look at the data, make
    new Batches for each. Leave `steps_per_epoch` at None: it would let an epoch end, and the
    order change, in the middle of a pass.

    Each batch is a pair of (images (batch, …), labels (batch, …)) with the dtypes given.

    Args:
        images: array (n, …), uint8 (n, height, width, channels) as `Splits` has them.
        labels: array (n, …), int32 (n,) as `Splits` has them.
        batch_size: images per batch, at least 1.
        seed: integer of at least 0, or None for the order of the arrays in every epoch.
        initial_epoch: the epoch, counted from 0, whose order comes first; the `initial_epoch`
            of the `fit` that it is passed to.
        drop_remainder: leaves out the images of an incomplete last batch: other ones in each
            epoch, if there is a seed.

    Raises:
        ValueError: an argument out of range, or images and labels of different numbers.
    """

    def __init__(
        self, images, labels, batch_size, seed=None, initial_epoch=0, drop_remainder=False
    ):
        super().__init__()
        check_whole("batch_size", batch_size, 1)
        if seed is not None:
            check_whole("seed", seed, 0)
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(
                "`images` and `labels` must have the same length of at least 1. "
                f"Received: images=({len(images)}), labels=({len(labels)})"
            )
        if drop_remainder and batch_size > len(images):
            raise ValueError(
                f"`batch_size` must be at most the number of images, {len(images)}, with "
                f"`drop_remainder`. Received: batch_size={batch_size}"
            )
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.drop_remainder = bool(drop_remainder)
        self._told_of_an_end = False
        check_whole("initial_epoch", initial_epoch, 0)
        self.set_epoch(initial_epoch)

    def set_epoch(self, epoch):
        """Makes `epoch`, counted from 0, the one whose batches come next.

        Call it between epochs only, for instance where a callback restores a training.
        """
        check_whole("epoch", epoch, 0)
        self.epoch = int(epoch)
        self._order = None
        if self.seed is not None:
            generator = np.random.default_rng((self.seed, self.epoch))
            self._order = generator.permutation(len(self.images))
        self._start_over()

    @property
    def order(self):
        """Numbers of the images in the order of the current epoch, `(n,)`."""
        return np.arange(len(self.images)) if self._order is None else self._order

    def __len__(self):
        """Number of batches in an epoch."""
        if self.drop_remainder:
            return len(self.images) // self.batch_size
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index):
        """Returns batch `index`, 0 to len − 1, of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be of 0…{len(self) - 1}. Received: index={index}")
        if len(self._delivered) == len(self):
            self._delivered = set()
            self._looped = False
        self._delivered.add(index)
        chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if self._order is not None:
            chosen = self._order[chosen]
        return self.images[chosen], self.labels[chosen]

    def __iter__(self):
        """Goes through the current epoch once."""
        for index in range(len(self)):
            yield self[index]
        self._looped = True

    def on_epoch_begin(self):
        """Called by `fit`: an epoch, or a look at the first batch to build the model, begins."""
        self._begun = True

    def on_epoch_end(self):
        """Goes on to the next epoch if one has really been passed."""
        passed = self._is_passed()
        self._told_of_an_end = True
        if passed:
            self.set_epoch(self.epoch + 1)
        else:
            self._start_over()

    def _is_passed(self):
        """Returns whether the batches of the current epoch have been used, not only looked at."""
        if self._begun:
            # The first call a `fit` makes comes before its first epoch. With some backends an
            # epoch was begun by then, but only to build the model.
            return self._told_of_an_end
        # Without a beginning it is a loop by hand or that first call. What tells them apart is
        # that Keras only probes a few batches, by index.
        return self._looped or len(self._delivered) == len(self) > PROBED_BATCHES

    def _start_over(self):
        """Forgets what was delivered."""
        self._begun = False
        self._looped = False
        self._delivered = set()


def is_integer(value):
    """Returns whether `value` is a whole number; a bool, though an int to Python, is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_whole(name, value, smallest):
    """Raises ValueError where `value` is no whole number of at least `smallest`."""
    if not is_integer(value) or value < smallest:
        raise ValueError(
            f"`{name}` must be an integer of at least {smallest}. Received: {name}={value!r}"
        )


class SameClassPairs(Batches):
    """As `Batches`, with a partner of the same class for each image: the data of CS-KD.

    Each batch is `((images, partners), labels)`; a partner is drawn evenly among the other
    images of the class, by the seed, the epoch and the batch alone. The only image of a class
    is its own partner. For `sd_keras.methods.class_wise` (Yun et al. 2020, section 3.1), which
    takes the two as views.

    Args and errors: as `Batches`, with class numbers `(n,)` as labels.
    """

    def __init__(
        self, images, labels, batch_size, seed=None, initial_epoch=0, drop_remainder=False
    ):
        if getattr(labels, "ndim", 0) != 1:
            raise ValueError(
                "`labels` must be class numbers (n,), of which partners share one. "
                f"Received: labels of shape {np.shape(labels)}"
            )
        super().__init__(images, labels, batch_size, seed, initial_epoch, drop_remainder)
        self._by_class = np.argsort(labels, kind="stable")
        _, self._class, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._counts = counts
        self._firsts = np.cumsum(counts) - counts
        self._place = np.empty(len(labels), "int64")
        self._place[self._by_class] = np.arange(len(labels))

    def __getitem__(self, index):
        """Returns batch `index`, 0 to len − 1, of the current epoch."""
        images, labels = super().__getitem__(index)
        first = index * self.batch_size
        chosen = self.order[first : first + len(labels)]
        generator = np.random.default_rng((self.seed or 0, self.epoch, index, 1))
        kinds = self._class[chosen]
        counts, firsts = self._counts[kinds], self._firsts[kinds]
        # A step of 1 … count − 1 around the class never comes back to the image itself.
        steps = 1 + (generator.random(len(chosen)) * (counts - 1)).astype("int64")
        partners = self._by_class[firsts + (self._place[chosen] - firsts + steps) % counts]
        return (images, self.images[partners]), labels


class OnDevice(Batches):
    """As `Batches`, with all images in the device's memory and many steps in one program.

        train = OnDevice(images, labels, 128, seed=0)
        model.fit(train, epochs=200)

    `fit` sends the images to the device once and the order of an epoch as numbers: per step
    nothing. `steps` training steps run in one compiled program, in which each picks its images,
    draws the views and updates the weights; what callbacks call a batch is such a block. The
    images, their order and all that is computed are those of `Batches` in the same epoch; an
    incomplete last batch is a block of its own, and blocks of up to three sizes are compiled.
    A loss that is not finite ends `fit` after the block that it is in. Without `seed` the order
    is that of the images in every epoch. There are no sample weights. On TensorFlow every `fit`
    compiles again.

    For CIFAR and the like: 50,000 images of 32x32 take 154 MB. On one device; TensorFlow, JAX
    or PyTorch. PyTorch runs the steps one by one, and so does JAX on a CPU, where a convolution
    within a loop is compiled to far slower code.

    Args:
        steps: training steps in one program. A divisor of the number of an epoch's whole
            batches above half of it is taken in its place, and one size less is compiled.
        images, labels, batch_size, seed, initial_epoch, drop_remainder: as `Batches`.

    Raises:
        ValueError: as `Batches`; or for `steps` below 1.
    """

    def __init__(
        self,
        images,
        labels,
        batch_size,
        seed=None,
        initial_epoch=0,
        drop_remainder=False,
        steps=100,
    ):
        super().__init__(images, labels, batch_size, seed, initial_epoch, drop_remainder)
        check_whole("steps", steps, 1)
        whole = len(images) // batch_size
        best = max((k for k in range(1, min(steps, whole) + 1) if whole % k == 0), default=0)
        self.steps = best if 2 * best > min(steps, whole) else steps

    def blocks(self, steps=None):
        """Gives the numbers of the images of the current epoch, int32 `(steps, batch)` a block.

        Args:
            steps: training steps in a block, in place of its own.
        """
        steps = steps or self.steps
        count, size = len(self.images), self.batch_size
        order = self.order.astype("int32")
        whole = count // size
        batches = order[: whole * size].reshape(whole, size)
        for first in range(0, whole, steps):
            yield batches[first : first + steps]
        if count % size and not self.drop_remainder:
            yield order[None, whole * size :]
