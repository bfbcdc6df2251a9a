"""Batches of a data set too large for memory: the input pipeline of ImageNet training."""

import math
from dataclasses import dataclass, field

import numpy as np

from sd_keras.data.bad_images import BadImages
from sd_keras.data.batches import check_whole
from sd_keras.data.decoding import MAX_PIXELS
from sd_keras.data.encoded import Source, open_source
from sd_keras.data.stream_checks import (
    check_batches,
    check_crops,
    check_enough,
    check_limit,
)


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
    check_limit(max_bad_images)
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
        # Imported here: opening a folder must not need TensorFlow.
        import tensorflow as tf

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
