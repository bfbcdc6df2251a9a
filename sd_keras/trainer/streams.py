"""A `sd_keras.data.Stream` as the data of `fit`, `evaluate` and `predict`."""

import keras

from sd_keras import keras_internals
from sd_keras.data.stream import Stream, check_divisible, check_enough


def as_data(x, model, position=lambda: (0, 0)):
    """Returns what Keras takes as data: a Stream by an adapter, anything else as it is.

    Args:
        x: any data of `fit`.
        model: the `SelfDistillModel`; under a strategy each replica gets its own part.
        position: function without arguments; the epoch and the number of steps to leave out,
            asked for whenever iterating starts.

    Returns:
        The data, and the steps of an epoch where these have no end, else None.
    """
    if not isinstance(x, Stream):
        return x, None
    if x.shard != (0, 1):
        raise ValueError(
            "`x` must be a stream without `shard`: fit divides the batches among the replicas "
            f"itself. Received: x with shard={x.shard}"
        )
    strategy = None
    if keras.config.backend() == "tensorflow":
        strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync if strategy else 1
    # Iterators over several replicas take seconds to make and to end, and ask each other at
    # each step whether there is data: one that never ends, for all epochs, does not.
    endless = count > 1 and x.steps_per_epoch % model.steps_per_execution == 0

    class StreamAdapter(keras_internals.TFDatasetAdapter):
        """Knows the number of steps, which a data set made when iterating starts does not."""

        num_batches = None if endless else x.steps_per_epoch

    data = StreamAdapter(_dataset(x, strategy, count, position, endless))
    return data, x.steps_per_epoch if endless else None


def _dataset(stream, strategy, count, position, endless):
    from sd_keras.data.batching import batches

    if count == 1:
        return batches(stream, position, 1, range(1))
    check_divisible(stream.batch_size, count)
    check_enough(stream.batch_size, stream.num_examples, stream.protocol, count)

    def of_worker(context):
        local = count // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return batches(stream, position, count, range(first, first + local), endless)

    # Unlike `experimental_distribute_dataset`, which would have each worker decode the images
    # of all and keep its own.
    return strategy.distribute_datasets_from_function(of_worker)


def description(x):
    """Returns what the places in a Stream depend on, of kinds that JSON holds; else None."""
    if not isinstance(x, Stream):
        return None
    names = ("num_examples", "batch_size", "size", "protocol", "views", "seed")
    return {name: getattr(x, name) for name in names}


def is_stream(x):
    """Returns whether data are a Stream."""
    return isinstance(x, Stream)
