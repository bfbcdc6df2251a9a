"""Batches of a data set too large for memory: the input pipeline of ImageNet training."""

import contextlib
import math
import numbers
import threading
from dataclasses import dataclass, field

import numpy as np

from sd_keras.data.batches import check_whole
from sd_keras.data.crops import PAPER_SIZE, PROTOCOLS
from sd_keras.data.decoding import MAX_PIXELS
from sd_keras.data.encoded import Source, open_source
from sd_keras.keras_internals import tensorflow as tf


class BadImages:
    """The images found so far that cannot be read, decoded or held, each counted once.

    It is filled while batches are made, ahead of those that training has seen, and by several
    threads; reading it is safe at any time.

    Attributes:
        limit: number of such images above which iterating stops.
    """

    def __init__(self, limit, total, describe):
        self.limit = limit
        self._total = total
        self._describe = describe
        self._found = set()
        self._names = []
        self._lock = threading.Lock()

    @property
    def count(self):
        """Number of bad images found so far."""
        with self._lock:
            return len(self._found)

    @property
    def names(self):
        """Files, or places in files, of the first bad images that were found; at most ten."""
        with self._lock:
            return tuple(self._names)

    def add(self, indices):
        """Records images by their number; returns what is wrong, or empty bytes.

        It returns the error rather than raising it, as TensorFlow would put a stack of calls
        in front of the message.
        """
        with self._lock:
            for index in indices.tolist():
                if index not in self._found:
                    self._found.add(index)
                    if len(self._names) < SHOWN:
                        self._names.append(self._describe(index))
        return self.problem().encode()

    def problem(self):
        """Returns what is to be said where there are more than the limit, else an empty text."""
        with self._lock:
            if len(self._found) <= self.limit:
                return ""
            count, names = len(self._found), list(self._names)
        images = "image" if count == 1 else "images"
        others = " and others" if count > len(names) else ""
        return (
            f"`max_bad_images` allows {self.limit} of the {self._total} images to be unreadable, "
            f"cut off, of an unknown format or too large. Received: {count} such {images} so far: "
            f"{', '.join(names)}{others}"
        )

    def __repr__(self):
        return f"BadImages(count={self.count}, limit={self.limit}, names={self.names})"


def stream(
    name,
    batch_size,
    split="train",
    data_dir=None,
    size=224,
    protocol="paper",
    views=1,
    seed=0,
    max_bad_images=0.01,
    max_pixels=MAX_PIXELS,
    shard=(0, 1),
):
    """Opens a data set of image files as a `Stream`, which describes the arguments.

        train = stream("imagenet2012", 256, data_dir=DIR, views=2, seed=0)
        for epoch in range(90):
            for (view_a, view_b), labels, weights in train.dataset(epoch):
                …

    Nothing is downloaded. Raises FileNotFoundError where the files of the data set are not
    there; ValueError for an argument out of range, an unknown name or split, a split without
    labels, or files of another form; OSError for damaged files of TensorFlow Datasets.
    """
    check_batches(batch_size, shard, seed)
    check_crops(protocol, size, views, max_pixels)
    real = isinstance(max_bad_images, numbers.Real) and not isinstance(max_bad_images, bool)
    whole = real and (max_bad_images < 1 or max_bad_images == int(max_bad_images))
    if not whole or max_bad_images < 0:
        raise ValueError(
            "`max_bad_images` must be a whole number of images, or a share of them of at least 0 "
            f"and below 1. Received: max_bad_images={max_bad_images!r}"
        )
    source = open_source(name, split, data_dir)
    total = source.num_examples
    check_enough(batch_size, total, protocol, shard[1])
    limit = math.ceil(max_bad_images * total) if max_bad_images < 1 else int(max_bad_images)
    bad_images = BadImages(limit, total, source.describe)
    row = (batch_size, size, protocol, views, seed, max_pixels, tuple(shard))
    return Stream(source, *row, bad_images)


@dataclass(frozen=True, eq=False)
class Stream:
    """The batches of one split, made by `stream`.

    `SelfDistillModel.fit` takes a Stream as its data: every epoch has its own order, and each
    replica of a strategy reads its own part of each batch.

    In training an image that cannot be used is replaced by a grey one of label 0 and sample
    weight 0. Were it left out, all later images would move up: steps would no longer stand for
    the same images, and a resumed run could not skip by counting. Evaluation leaves it out.

    Arguments of `stream`:
        name: "folder:PATH", image files PATH/CLASS/*.jpg (jpeg, png, bmp, gif) or
            PATH/train/CLASS/… with PATH/val, PATH/test or both; or an image classification
            data set that was prepared by `tfds build`, such as "imagenet2012".
        batch_size: images per step, of all shards together.
        split: "train", "validation" or "test"; of TensorFlow Datasets also a part of one,
            such as "train[:99%]".
        data_dir: where TensorFlow Datasets has its files (its own default if None).
        size: height and width of the crops in pixels.
        protocol: "paper" resizes to 256 × 256, crops at random and mirrors half of the images
            (DDGSD, section 4; BYOT's ImageNet figures); "random_resized_crop" takes a random
            window of 8 to 100 % of the area and of 3:4 to 4:3, resizes and mirrors it;
            "center", for evaluation, resizes to 256 × 256 and takes the centre, in the order
            of the files.
        views: 1 or 2, independent random crops of each image, from one decode.
        seed: integer of at least 0. Order and crops depend on it and on the epoch alone.
        max_bad_images: images that may be bad before iterating stops with an error: a number
            of them, or, below 1, a share of the split.
        max_pixels: an image of more, by its header, is bad and is not decoded.
        shard: (index, count): of each batch, the index-th of count equal parts; for loops of
            one's own, since `fit` divides batches itself.

    Attributes:
        source: where the images lie.
        batch_size, size, protocol, views, seed, max_pixels, shard: as given.
        bad_images: what could not be used so far: `count`, `names`, `limit`.
    """

    source: Source = field(repr=False)
    batch_size: int
    size: int
    protocol: str
    views: int
    seed: int
    max_pixels: int
    shard: tuple
    bad_images: BadImages

    @property
    def num_examples(self):
        """Number of images of the split."""
        return self.source.num_examples

    @property
    def class_names(self):
        """One name per class, in the order of the labels."""
        return self.source.class_names

    @property
    def num_classes(self):
        """Labels lie in 0…num_classes − 1."""
        return len(self.class_names)

    @property
    def is_training(self):
        """Whether images are shuffled, cropped at random, and an incomplete batch left out."""
        return self.protocol != "center"

    @property
    def steps_per_epoch(self):
        """Number of batches of an epoch, the same for every shard."""
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole if self.is_training or not rest else whole + 1

    def dataset(self, epoch=0, skip_steps=0):
        """Returns the batches of one epoch as a `tf.data.Dataset`.

        Its elements are (images, labels, sample weights): images uint8 (n, size, size, 3),
        or a pair of such tensors for two views; labels int32 (n,); weights float32 (n,), 0
        for an image that could not be used and 1 otherwise. n is the batch size over the
        number of shards. In evaluation it can be less: in the last batch, or with shards in
        any, as the images are spread evenly over all.

        Args:
            epoch: counted from 0; another order and other crops in each.
            skip_steps: batches to leave out at the beginning. They are not read at all, and
                those that follow are the same as without skipping.

        Raises:
            ValueError: `epoch` below 0, or `skip_steps` not of 0…steps_per_epoch.
        """

        from sd_keras.data.batching import batches

        check_whole("epoch", epoch, 0)
        check_whole("skip_steps", skip_steps, 0)
        if skip_steps > self.steps_per_epoch:
            raise ValueError(
                f"`skip_steps` must be at most the steps of an epoch, {self.steps_per_epoch}. "
                f"Received: skip_steps={skip_steps}"
            )
        index, count = self.shard
        data = batches(self, lambda: (epoch, skip_steps), count, range(index, index + 1))
        return data.apply(
            tf.data.experimental.assert_cardinality(self.steps_per_epoch - skip_steps)
        )

    def rows(self, epoch=0):
        """Returns which image stands where in an epoch: int64 (steps, n) of this shard.

        Where a batch of an evaluation is not full, the number is −1.
        """
        index, count = self.shard
        return self.cells(epoch, count)[:, index]

    def cells(self, epoch, count):
        """Returns the images of an epoch, divided: int64 (steps, count, n), −1 for none."""
        steps, total = self.steps_per_epoch, self.num_examples
        if self.is_training:
            order = np.random.default_rng((self.seed, epoch)).permutation(total)
            return order[: steps * self.batch_size].reshape(steps, count, -1)
        if count == 1:
            starts = np.minimum(np.arange(steps + 1) * self.batch_size, total)
        else:
            starts = np.arange(steps * count + 1) * total // (steps * count)
        places = starts[:-1, None] + np.arange(np.diff(starts).max())
        return np.where(places < starts[1:, None], places, -1).reshape(steps, count, -1)


def check_crops(protocol, size, views, max_pixels):
    """Raises ValueError where the crops asked for cannot be made."""
    check_whole("size", size, 1)
    check_whole("max_pixels", max_pixels, 1)
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}. Received: protocol={protocol!r}"
        )
    if protocol != "random_resized_crop" and size > PAPER_SIZE:
        raise ValueError(
            f"`size` must be at most {PAPER_SIZE} for the protocol {protocol!r}, which crops "
            f"images of {PAPER_SIZE} × {PAPER_SIZE}. Received: size={size}"
        )
    check_whole("views", views, 1)
    if views > (2 if protocol != "center" else 1):
        allowed = "1, as its crop is not random," if protocol == "center" else "1 or 2"
        raise ValueError(
            f"`views` must be {allowed} for the protocol {protocol!r}. Received: views={views}"
        )


def check_batches(batch_size, shard, seed):
    """Raises ValueError where batches of that size and order cannot be divided so."""
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    is_pair = isinstance(shard, (tuple, list)) and [type(n) for n in shard] == [int, int]
    if not is_pair or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            "`shard` must be a pair (index, count) of integers with 0 <= index < count. "
            f"Received: shard={shard!r}"
        )
    check_divisible(batch_size, shard[1])


def check_enough(batch_size, total, protocol, count):
    """Raises ValueError where training would have no whole batch, or a part no image."""
    if protocol != "center" and batch_size > total:
        raise ValueError(
            f"`batch_size` must be at most the number of images, {total}, as training leaves "
            f"out an incomplete batch. Received: batch_size={batch_size}"
        )
    steps = -(-total // batch_size)
    if count > 1 and steps * count > total:
        raise ValueError(
            f"`batch_size` must give each of {count} parts an image of each batch: {steps} "
            f"batches of {total} images do not. Received: batch_size={batch_size}"
        )


def check_divisible(batch_size, count):
    """Raises ValueError where a batch cannot be divided into `count` equal parts."""
    if batch_size % count:
        raise ValueError(
            f"`batch_size` must be divisible by the number of shards, {count}. "
            f"Received: batch_size={batch_size}"
        )


SHOWN = 10


@contextlib.contextmanager
def saying_why(*data):
    """Raises ValueError in place of TensorFlow's error where a Stream had too many bad images."""
    try:
        yield
    except Exception as error:
        for x in data:
            problem = x.bad_images.problem() if hasattr(x, "bad_images") else ""
            if problem and "max_bad_images" in str(error):
                raise ValueError(problem) from error
        raise
