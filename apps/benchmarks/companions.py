"""The part of benchmark.py that measures what a teacher or a peer adds to a step.

Run by `python apps/benchmark.py companions`, see there. A step with a teacher is compared with a
forward pass of the teacher and a step of the network alone; a step of two peers with a step of
each: what the library adds to what it cannot do without.
"""

import statistics

import tensorflow as tf
from benchmarks.figures import compare, figure, interleave
from benchmarks.images import IMAGE_SHAPE, batch
from benchmarks.trainers import in_precision, step_of, trainer

from sd_keras import attach_exits, methods, models

TEACHER = "resnet50"
BARS = {"knowledge_distillation": "<= 1.03", "deep_mutual_learning": "<= 1.05"}


def companions_figures(settings):
    """A step beside a teacher and beside a peer, against its parts."""
    figures = []
    for precision in settings.precision:
        figures.append(_teacher_figure(settings, precision))
        figures.append(_peer_figure(settings, precision))
    return figures


def _teacher_figure(settings, precision):
    teacher = _network(settings, precision, TEACHER)
    forward = tf.function(lambda images: teacher(images, training=False)["exit_1"], autograph=False)
    images = tf.constant(batch(settings, settings.batch_size)[0])
    together = trainer(settings, precision, methods.knowledge_distillation(), teacher=teacher)
    parts = {
        "together": step_of(together, settings, settings.batch_size),
        "teacher": lambda: forward(images).numpy(),
        "step": step_of(trainer(settings, precision), settings, settings.batch_size),
    }
    name = f"step with {TEACHER} as teacher / its forward pass + plain step"
    return _row(name, "knowledge_distillation", parts, settings, precision)


def _peer_figure(settings, precision):
    peer = _network(settings, precision, settings.model)
    together = trainer(settings, precision, methods.deep_mutual_learning(), peer=peer)
    parts = {
        "together": step_of(together, settings, settings.batch_size),
        "step": step_of(trainer(settings, precision), settings, settings.batch_size),
        "peer's step": step_of(trainer(settings, precision), settings, settings.batch_size),
    }
    name = "step of two peers / a plain step of each"
    return _row(name, "deep_mutual_learning", parts, settings, precision)


def _row(name, method, parts, settings, precision):
    """Compares the first of the parts with the sum of the others."""
    seconds = interleave(parts, settings.repeats)
    together, *others = seconds.values()
    sums = [sum(values) for values in zip(*others)]
    medians = " + ".join(f"{statistics.median(values):.3f}" for values in others)
    beside = f"{statistics.median(together):.3f} s / ({medians} s)"
    row = compare(together, sums) | {"precision": precision, "beside": beside}
    return figure("companions", name, BARS[method], **row)


def _network(settings, precision, name):
    with in_precision(precision):
        backbone = models.build(name, input_shape=IMAGE_SHAPE)
        return attach_exits(backbone, settings.num_classes, at=[])
