"""`fit`, `evaluate` and `predict` under a `tf.distribute` strategy.

Keras 3.15's own step functions fail under MultiWorkerMirroredStrategy: they average the logs,
which are scalars, over an axis, and learn the shapes of the data by reducing a first batch.
"""

import keras
import tensorflow as tf

from sd_keras import keras_internals, replica_state, replicas
from sd_keras.distribute import is_multi_worker

# Settings of Keras's optimizers that go wrong under a strategy, and why.
REFUSED_BY_OPTIMIZER = {
    "clipnorm": "it would clip each replica's gradient before they are added up",
    "global_clipnorm": "it would clip each replica's gradient before they are added up",
    "clipvalue": "it would clip each replica's gradient before they are added up",
    "gradient_accumulation_steps": "Keras cannot accumulate under a strategy",
    "ema_overwrite_frequency": "Keras cannot overwrite weights under a strategy; overwrite at the "
    "end by use_ema alone",
}


class DistributedFit:
    """Mixin in front of `keras.Model`; without a strategy everything is Keras's own."""

    def fit(self, x=None, *args, shuffle=True, **kwargs):
        """As `keras.Model.fit`; refuses arrays that each worker would shuffle on its own."""
        streams = (
            tf.data.Dataset,
            tf.distribute.DistributedDataset,
            keras_internals.DataAdapter,
        )
        is_array = not isinstance(x, streams)
        if is_array and shuffle and is_multi_worker(self.distribute_strategy):
            raise ValueError(
                "`shuffle` must be False for arrays under MultiWorkerMirroredStrategy: each worker "
                "would shuffle on its own and train on images that others have too. Shuffle in a "
                "tf.data.Dataset, with one seed. Received: shuffle=True"
            )
        return super().fit(x, *args, shuffle=shuffle, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Learns the shapes from the data's specification instead of from a drawn batch."""
        if not keras_internals.has_strategy(self):
            return
        if data_batch is None:
            specification = keras_internals.element_spec(iterator)
            data_batch = tf.nest.map_structure(_symbolic, specification)
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _make_function(self, step):
        if not keras_internals.has_strategy(self):
            return super()._make_function(step)
        return step_function(self, step)

    def _get_metrics_result_or_logs(self, logs):
        """Returns the metrics over all replicas in place of the mean of each one's own."""
        if not keras_internals.has_strategy(self):
            return super()._get_metrics_result_or_logs(logs)
        # In one function, as of several workers each value would be asked for by itself.
        results = replica_state.traced(
            self, "results", self.metrics_variables, self.get_metrics_result
        )()
        return {name: results.get(name, value) for name, value in logs.items()}

    def reset_metrics(self):
        """Resets the metrics on each replica, without asking the other workers for each."""
        if not keras_internals.has_strategy(self) or not tf.executing_eagerly():
            super().reset_metrics()
            return
        reset = super().reset_metrics
        on_each = lambda: self.distribute_strategy.run(reset)  # noqa: E731
        replica_state.traced(self, "reset", self.metrics_variables, on_each)()


def check_setup(model):
    """Refuses what would fail or go wrong under the strategy that a model was made in.

    Raises:
        ValueError: naming `jit_compile`, an argument of the optimizer, or `network`.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync < 2 and not is_multi_worker(strategy):
        return
    name = type(strategy).__name__
    if model.jit_compile:
        raise ValueError(
            f"`jit_compile` must be 'auto' or False under {name}: XLA cannot compile a step "
            "of several replicas. Received: jit_compile=True"
        )
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"`optimizer` must not scale the loss under {name}, because Keras asks the first "
            "replica only whether gradients overflowed: use mixed_bfloat16 in place of "
            "mixed_float16. Received: optimizer of type LossScaleOptimizer"
        )
    for argument, reason in REFUSED_BY_OPTIMIZER.items():
        value = getattr(model.optimizer, argument, None)
        if value:
            raise ValueError(
                f"`{argument}` must be None under {name}: {reason}. Received: {argument}={value}"
            )
    for layer in keras_internals.flatten_layers(model):
        if not isinstance(layer, keras.layers.BatchNormalization) or not layer.trainable:
            continue
        if not getattr(layer, "keeps_replicas_equal", layer.synchronized):
            raise ValueError(
                f"`network` must have synchronised BatchNormalization under {name}, because Keras "
                "would let the moving statistics of the replicas drift apart: "
                "sd_keras.distribute.synchronize(network). "
                f"Received: layer {layer.name!r} with synchronized=False"
            )


def draw_by_replica(model):
    """Gives each of several replicas draws of its own; Keras's generators give all the same."""
    if model.distribute_strategy.num_replicas_in_sync < 2:
        return
    for layer in keras_internals.flatten_layers(model):
        for generator in keras_internals.seed_generators(layer):
            # On the object: layers hand the generator itself to keras.random.
            generator.next = _OfReplica(generator)


class _OfReplica:
    """A generator's `next`, mixed with the number of the replica."""

    def __init__(self, generator):
        self.generator = generator

    def __call__(self, ordered=True):
        seed = type(self.generator).next(self.generator, ordered=ordered)
        replica = replicas.context()
        if replica is None:
            return seed
        number = tf.cast(replica.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([number * 1_000_003, tf.zeros_like(number)])


def _symbolic(specification):
    """Returns the symbolic tensor of what one replica gets."""
    one = getattr(specification, "_value_specs", [specification])[0]
    return keras.KerasTensor(one.shape, one.dtype.name)


def step_function(model, step):
    """Builds the function that Keras calls with an iterator for each execution."""
    run = _run_function(model, step)

    def function(iterator):
        batches = _next_batches(model, iterator)
        stop = tf.constant(float(model.position.stop_wanted))
        logs, stop = run(batches, stop)
        model.position.stop_agreed = bool(stop > 0)
        return logs

    return function


def _run_function(model, step):
    """Returns the function of batches and a wish to stop; it gives logs, and who wishes it."""
    strategy = model.distribute_strategy
    if model.jit_compile:  # of one replica: see `check_setup`
        step = tf.function(step, jit_compile=True, reduce_retracing=True)

    names = []

    def packed(data, stop):
        logs = step(data)
        names[:] = logs
        # Each worker may have been asked to end: all learn of it after the same step.
        return tf.stack([tf.cast(value, "float32") for value in (*logs.values(), stop)])

    @tf.autograph.experimental.do_not_convert
    def run(batches, stop):
        for data in batches:
            values = strategy.run(packed, args=(data, stop))
        # In one vector: of several workers each value would be sent around by itself.
        *logs, stop = tf.unstack(strategy.reduce("MEAN", values, axis=None))
        return dict(zip(names, logs)), stop

    traced = {}

    def run_traced(batches, stop):
        # Workers that get different numbers of examples would trace again at different steps,
        # and each trace numbers its collectives again: hence one trace for all batch sizes.
        signature = tf.nest.map_structure(_of_any_size, batches)
        key = repr(signature)
        if key not in traced:
            specification = [signature, tf.TensorSpec([], "float32")]
            traced[key] = tf.function(run, input_signature=specification)
        return traced[key](batches, stop)

    return run if model.run_eagerly else run_traced


def _next_batches(model, iterator):
    """Takes the batches of one execution; fewer than usual where the data end."""
    batches = []
    # Outside the traced function, so that nothing of a step runs when the data end; and
    # unrolled, because Keras's loop over several steps fails under strategies.
    for _ in range(model.steps_per_execution):
        try:
            batches.append(next(iterator))
        except (StopIteration, tf.errors.OutOfRangeError):
            if not batches:
                raise
            break
        _refuse_empty(model.distribute_strategy, batches[-1])
    return batches


def _of_any_size(value):
    """Returns the specification of a tensor, or one a replica, whose batch size is open."""
    if isinstance(value, tf.distribute.DistributedValues):
        parts = value._type_spec._value_specs
        return type(value._type_spec)(*(_open_batch(part) for part in parts))
    return _open_batch(tf.type_spec_from_value(value))


def _open_batch(specification):
    return tf.TensorSpec([None, *specification.shape[1:]], specification.dtype)


def _refuse_empty(strategy, data):
    """Refuses a batch that leaves a replica without examples, which kernels crash on."""
    first = tf.nest.flatten(data)[0]
    sizes = [int(tf.shape(part)[0]) for part in strategy.experimental_local_results(first)]
    if 0 in sizes:
        raise ValueError(
            "`x` must give every replica an example of each batch: choose another batch size or "
            "drop the remainder. Received: a batch whose examples are divided into "
            f"{sizes} over this worker's replicas"
        )
