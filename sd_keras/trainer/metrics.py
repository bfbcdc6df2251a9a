"""The metrics given to `compile`, for every exit and the ensemble."""

import keras
from keras import ops

from sd_keras import keras_internals

SEEN = "_images_seen"  # in the logs of a step: over how many images their means go


def give_to_each(compile_metrics, names):
    """Turns the lists of metrics given to `compile` into fresh ones for each output.

    Keras keeps a list of metrics for the first of several outputs only, without a word. A
    dict from output names to lists is left as it is.

    Args:
        compile_metrics: what `compile` made of its arguments; changed until it is built.
        names: of the outputs.
    """
    if compile_metrics.built:
        return

    def per_output(metrics):
        if not metrics or isinstance(metrics, dict):
            return metrics
        return {name: [_fresh(metric) for metric in metrics] for name in names}

    metrics = map(per_output, keras_internals.user_metrics(compile_metrics))
    keras_internals.replace_user_metrics(compile_metrics, *metrics)


def in_form(compile_metrics, targets, num_classes):
    """Returns the labels in the one form that all metrics given to `compile` can take.

    Keras settles on class numbers or probabilities at the first batch; a validation set of
    the other form would then be measured wrongly, without a word.

    Args:
        compile_metrics: what `compile` made of its arguments.
        targets: class numbers `(n,)` or probabilities `(n, classes)`.
        num_classes: number of classes.

    Returns:
        Class numbers where every metric is accuracy or one of Keras's sparse ones,
        probabilities where every metric is another one of Keras's, else what came.
    """
    kinds = {_kind(metric) for metric in _all_metrics(compile_metrics)}
    is_numbers = len(targets.shape) == 1
    if kinds <= {"accuracy", "sparse"} and not is_numbers:
        return ops.argmax(targets, axis=-1)
    if "dense" in kinds and kinds <= {"accuracy", "dense"} and is_numbers:
        return ops.one_hot(ops.clip(targets, 0, num_classes - 1), num_classes)
    return targets


def build_ahead(compile_metrics, names, num_classes):
    """Creates the metrics' variables before the first batch, where its form does not matter.

    TensorFlow traces a step that creates variables a second time.

    Args:
        compile_metrics: what `compile` made of its arguments, or None.
        names: of the outputs.
        num_classes: number of classes.
    """
    if compile_metrics is None or compile_metrics.built:
        return
    kinds = {_kind(metric) for metric in _all_metrics(compile_metrics)}
    if not kinds or not (kinds <= {"accuracy", "sparse"} or kinds <= {"accuracy", "dense"}):
        return
    give_to_each(compile_metrics, names)
    form = (None,) if kinds <= {"accuracy", "sparse"} else (None, num_classes)
    labels = {name: keras.KerasTensor(form, "int32") for name in names}
    logits = {name: keras.KerasTensor((None, num_classes)) for name in names}
    compile_metrics.build(labels, logits)


def _all_metrics(compile_metrics):
    metrics = keras.tree.flatten(keras_internals.user_metrics(compile_metrics))
    return [metric for metric in metrics if metric is not None]


def _kind(metric):
    if metric in ("accuracy", "acc"):
        return "accuracy"
    name = metric if isinstance(metric, str) else type(metric).__name__
    if "sparse" in name.lower():
        return "sparse"
    is_own = isinstance(metric, str) or type(metric).__module__.startswith("keras.")
    return "dense" if is_own else "other"


def _fresh(metric):
    """Returns a metric object with its own state; names and functions as they are."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
