"""What benchmarks train, on any backend of Keras."""

import contextlib
import time

import keras
from benchmarks.harness import IMAGE_SHAPE

from sd_keras import SelfDistillModel, analysis, attach_exits, methods, models
from sd_keras.distortions import CropFlip
from sd_keras.optimizers import SGD


@contextlib.contextmanager
def in_precision(precision):
    """Within, layers are made under a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def trainer(settings, precision, method="baseline", exits=None, size=None, **arguments):
    """Returns a compiled SelfDistillModel.

    Args:
        settings: what has `model` and `num_classes`.
        precision: dtype policy.
        method: a method or its name.
        exits: "one" or "all"; None takes as many as the method needs.
        size: of ImageNet's images, whose views are data; None for CIFAR's and views by CropFlip.
        **arguments: as `SelfDistillModel` takes them: distortion, teacher, peer.
    """
    method = methods.get(method) if isinstance(method, str) else method
    exits = exits or ("all" if method.min_exits > 1 else "one")
    with in_precision(precision):
        keras.utils.set_random_seed(0)
        shape = (size, size, 3) if size else IMAGE_SHAPE
        backbone = models.build(settings.model, shape, "imagenet" if size else "cifar")
        network = attach_exits(backbone, settings.num_classes, at=[] if exits == "one" else None)
        distortion = None if size else CropFlip(seed=0)
        model = SelfDistillModel(network, method, **{"distortion": distortion} | arguments)
    optimizer = SGD(0.1, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, metrics=["accuracy"])
    return model


def step_of(model, data):
    """Returns a function that trains the model on one batch, the same every time."""
    return lambda: model.train_on_batch(*data)


def multiply_accumulates(model):
    """Multiply-accumulates of a forward pass over all views of an image."""
    return analysis.costs(model.network)["ensemble"]["macs"] * model.method.num_views


class Turns(keras.callbacks.Callback):
    """Makes each epoch of a `fit` a turn of a worker, the first one included."""

    def __init__(self, protocol, memory=lambda: None):
        super().__init__()
        self.protocol, self.memory = protocol, memory
        if not protocol.wait():
            raise SystemExit("nobody asks for a turn")
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        # The logs are numbers already, so the device has done its work.
        seconds = time.perf_counter() - self.start
        self.protocol.answer(seconds=seconds, memory=self.memory())
        if not self.protocol.wait():
            self.model.stop_training = True
        self.start = time.perf_counter()
