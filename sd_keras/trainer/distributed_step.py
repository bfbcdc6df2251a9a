"""The function that makes one execution of training or evaluation on all replicas."""

import tensorflow as tf


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
        # Each worker may have been asked to end: all learn of it behind the same step.
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
        # and each trace numbers its collectives anew: hence one trace for all batch sizes.
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
