"""The metrics given to `compile`, for every exit and the ensemble."""

import keras


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
    for attribute in ("_user_metrics", "_user_weighted_metrics"):
        given = getattr(compile_metrics, attribute)
        if given and not isinstance(given, dict):
            each = {name: [_fresh(metric) for metric in given] for name in names}
            setattr(compile_metrics, attribute, each)


def _fresh(metric):
    """Returns a metric object with its own state; names and functions as they are."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
