"""What each replica of a `tf.distribute` strategy holds by itself, read and given back."""

import contextlib

import keras
import numpy as np
from keras import ops

from sd_keras.keras_internals import tensorflow as tf
from sd_keras.replicas import context


def _strategy_of(model):
    """Returns the strategy of several replicas that a model was made in, else None."""
    if keras.config.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    return strategy if strategy.num_replicas_in_sync > 1 else None


def count_of(model):
    """Returns the number of replicas of a model."""
    strategy = _strategy_of(model)
    return strategy.num_replicas_in_sync if strategy else 1


def scope_of(model):
    """Returns the context in which a model's variables may be assigned on all replicas."""
    return _strategy_of(model).scope() if _strategy_of(model) else contextlib.nullcontext()


def gather(model, values):
    """Returns an array (k,) of each replica, (replicas, k); all workers must call it at once."""
    strategy = _strategy_of(model)
    if strategy is None:
        return np.asarray(values)[None]

    def gather_one(value):
        return context().all_gather(value[None], 0)

    function = lambda value: strategy.run(gather_one, args=(value,))  # noqa: E731
    gathered = traced(model, "gather", (), function)
    return strategy.experimental_local_results(gathered(tf.constant(values)))[0].numpy()


def traced(model, name, variables, function):
    """Returns a function of some of a model's variables as one of TensorFlow, traced once."""
    kept = model.__dict__.setdefault("_replica_functions", {})
    key = (name, *(id(variable) for variable in variables))
    if key not in kept:
        # With the variables, so that no other can get the place in memory that stands for one.
        kept[key] = tf.function(function), list(variables)
    return kept[key][0]


def own_values(model, variables):
    """Returns the values that each replica has of variables: arrays (replicas, …).

    What is read outside a step is the sum over the replicas, which rounds differently.
    """
    strategy = _strategy_of(model)
    if strategy is None:
        return [np.array(ops.convert_to_numpy(variable))[None] for variable in variables]

    def own():
        flat = [tf.reshape(tf.cast(v.value, "float64"), [-1]) for v in variables]
        return context().all_gather(tf.concat(flat, 0)[None], 0)

    gathered = traced(model, "own_values", variables, lambda: strategy.run(own))
    found = strategy.experimental_local_results(gathered())[0]
    ends = np.cumsum([int(np.prod(v.shape)) for v in variables])
    parts = np.split(found.numpy(), ends[:-1], axis=1)
    return [
        part.reshape(-1, *v.shape).astype(keras.backend.standardize_dtype(v.dtype))
        for part, v in zip(parts, variables)
    ]


def assign_own_values(model, variables, values):
    """Gives each replica its own values, of `own_values` and as many replicas."""
    strategy = _strategy_of(model)
    if strategy is None:
        for variable, value in zip(variables, values):
            variable.assign(value[0])
        return

    def assign():
        number = context().replica_id_in_sync_group
        for variable, value in zip(variables, values):
            variable.value.assign(tf.gather(tf.constant(value), number))

    tf.function(lambda: strategy.run(assign))()
