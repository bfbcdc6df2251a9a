"""Data that lie on the device: how `fit` gets at them, and many steps in one program."""

from typing import NamedTuple

import keras
from keras import ops

from sd_keras import keras_internals
from sd_keras.data.batches import OnDevice
from sd_keras.keras_internals import tensorflow as tf


class Block(NamedTuple):
    """All images and labels on the device, and the numbers of those of some steps.

    The first two are arguments of the compiled program: as constants they would be in it.
    """

    images: object
    labels: object
    order: object


def pick(images, labels, order):
    """Returns images and labels with these numbers, `(batch,)`."""
    return ops.take(images, order, axis=0), ops.take(labels, order, axis=0)


class Resident:
    """The images and labels of an `OnDevice` as tensors of the backend.

    Args:
        data: an `OnDevice`.
    """

    def __init__(self, data):
        self.data = data
        self.images = ops.convert_to_tensor(data.images)
        self.labels = ops.convert_to_tensor(data.labels)

    def pick(self, order):
        """Returns images and labels with these numbers."""
        return pick(self.images, self.labels, order)

    def sample(self):
        """Returns a few images and labels, for what has to know their form."""
        return self.data.images[:1], self.data.labels[:1]


def is_resident(x):
    """Returns whether data are an `OnDevice`."""
    return isinstance(x, OnDevice)


def check(x, model):
    """Raises ValueError for what does not go with data on the device."""
    if model.steps_per_execution != 1:
        raise ValueError(
            "`steps_per_execution` must be 1 with data on the device, whose argument `steps` says "
            f"how many run at once. Received: steps_per_execution={model.steps_per_execution}"
        )
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "`x` must not be sd_keras.data.OnDevice under keras.distribution. "
            f"Received: {type(keras.distribution.distribution()).__name__}"
        )
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`x` must not be sd_keras.data.OnDevice under a strategy of several replicas. "
            f"Received: {type(strategy).__name__}"
        )


def steps_of(data):
    """Returns how many training steps one program makes on this machine."""
    if keras.config.backend() != "jax":
        return data.steps
    import jax

    # Within a loop XLA leaves convolutions to its own slow code: 35 times on two cores.
    return 1 if jax.default_backend() == "cpu" else data.steps


def adapter(resident):
    """Returns what Keras takes as data: blocks of numbers."""
    data = resident.data
    steps = steps_of(data)

    class OnDeviceAdapter(keras_internals.DataAdapter):
        """Gives a block a step, as Keras counts them."""

        num_batches = sum(1 for _ in data.blocks(steps))
        batch_size = data.batch_size
        has_partial_batch = False
        partial_batch_size = None

        def get_jax_iterator(self, super_batch=None):
            # Keras 3.16 scans `super_batch` steps itself, but over batches that hold the images.
            return (Block(resident.images, resident.labels, order) for order in data.blocks(steps))

        def get_torch_dataloader(self):
            return (ops.convert_to_tensor(order) for order in data.blocks(steps))

        def get_tf_dataset(self):
            numbers = tf.TensorSpec((None, None), "int32")
            return tf.data.Dataset.from_generator(
                data.blocks, args=(steps,), output_signature=numbers
            )

        def on_epoch_begin(self):
            data.on_epoch_begin()

        def on_epoch_end(self):
            data.on_epoch_end()

    return OnDeviceAdapter()
