"""What the parts of benchmark.py train, on any backend."""

import contextlib

import keras
from benchmarks.images import IMAGE_SHAPE, batch

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


def trainer(settings, precision, method="baseline", exits=None, distort=True, **others):
    """Returns a compiled SelfDistillModel.

    Args:
        settings: the flags, or what else has `model` and `num_classes`.
        precision: dtype policy.
        method: a method or its name.
        exits: "one" or "all"; None takes as many as the method needs.
        distort: whether CropFlip draws the views.
        **others: networks beside it, as `SelfDistillModel` takes them.
    """
    method = methods.get(method) if isinstance(method, str) else method
    exits = exits or ("all" if method.min_exits > 1 else "one")
    with in_precision(precision):
        keras.utils.set_random_seed(0)
        backbone = models.build(settings.model, input_shape=IMAGE_SHAPE)
        at = [] if exits == "one" else None
        network = attach_exits(backbone, settings.num_classes, at=at)
        distortion = CropFlip(seed=0) if distort else None
        model = SelfDistillModel(network, method, distortion, **others)
    optimizer = SGD(0.1, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer=optimizer, metrics=["accuracy"])
    return model


def step_of(model, settings, batch_size):
    """Returns a function that trains the model on one batch, the same every time."""
    images, labels = batch(settings, batch_size)
    return lambda: model.train_on_batch(images, labels)


def multiply_accumulates(model):
    """Multiply-accumulates of a forward pass over all views of an image."""
    return analysis.costs(model.network)["ensemble"]["macs"] * model.method.num_views
