"""The tf.data pipeline of a `Stream`: places of images in, batches of crops out."""

import numpy as np

from sd_keras.data.crops import crops, draw
from sd_keras.keras_internals import tensorflow as tf

# Images that one call decodes, one after the other, while other cores work on other calls.
# An image that fails is dropped from the call and noticed at its end: catching each image's
# error by itself took a tenth of decoding.
LARGEST_CHUNK = 64
GREY = 128


def batches(stream, position, count, parts, endless=False):
    """Returns the Dataset of a `Stream` from a place in an epoch to the epoch's end.

    Args:
        stream: the `Stream`.
        position: function without arguments, called whenever iterating starts; returns the
            epoch and the number of steps to leave out.
        count: number of equal parts that a step's images are divided into.
        parts: a range of them. Each step gives one element per part, in this order.
        endless: whether all later epochs follow.
    """
    local = stream.cells(0, count).shape[-1]
    chunk = max(k for k in range(1, LARGEST_CHUNK + 1) if local % k == 0)
    data = _rows(stream, position, count, parts, chunk, endless)
    data = data.map(_chunk_maker(stream), tf.data.AUTOTUNE, deterministic=True)
    if chunk < local:
        data = data.batch(local // chunk, drop_remainder=True)
    data = data.map(_joiner(stream, local, chunk), tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    if count > 1:
        # This worker's part has been taken already.
        policy = tf.data.experimental.AutoShardPolicy.OFF
        options.experimental_distribute.auto_shard_policy = policy
    data = data.prefetch(tf.data.AUTOTUNE)
    if endless:
        data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return data.with_options(options)


def _rows(stream, position, count, parts, chunk, endless):
    """Returns the Dataset of the tables of epochs, row by row; see `batches`."""
    sample = _columns(stream, 0, np.zeros([1, chunk], int), np.zeros([1, chunk], int), 1)
    first = [0]

    # An epoch's table is made when it begins, so that one Dataset, which `fit` asks for once,
    # serves all epochs.
    def table(number):
        epoch, skip_steps = position() if number == 0 else (first[0] + number, 0)
        first[0] = epoch - number
        return _table(stream, epoch, skip_steps, count, parts, chunk)

    def rows(number):
        columns = tf.numpy_function(table, [number], [tf.as_dtype(c.dtype.type) for c in sample])
        for column, like in zip(columns, sample):
            column.set_shape([None, *like.shape[1:]])
        return tf.data.Dataset.from_tensor_slices(tuple(columns))

    return tf.data.Dataset.range(2**31 if endless else 1).flat_map(rows)


def _table(stream, epoch, skip_steps, count, parts, chunk):
    """Returns the columns of what is left of an epoch, one row (chunk, …) per call."""
    cells = stream.cells(epoch, count)
    # Draws belong to places in the whole epoch, so that all divisions see the same crops.
    places = np.arange(cells.size).reshape(cells.shape)
    numbers, places = (
        table[skip_steps:, parts.start : parts.stop].reshape(-1, chunk) for table in (cells, places)
    )
    return _columns(stream, epoch, numbers, places, cells.size)


def _columns(stream, epoch, numbers, places, total):
    """Returns numbers, draws and places in files of images; `total` draws are made."""
    draws = draw(stream.protocol, stream.size, stream.views, stream.seed, epoch, total)
    found = (column[numbers] for column in stream.source.places)
    return [numbers, *(column[places] for column in draws), *found]


def _chunk_maker(stream):
    """Returns the function from a chunk's numbers, draws and places to its crops."""

    def chunk(numbers, *columns):
        size = numbers.shape[0]
        found, labels, views = _usable(stream, "jpeg", (tf.range(size), numbers, *columns))
        filled = tf.cond(
            tf.size(found) == size,
            lambda: (views, labels, tf.ones([size])),
            lambda: _filled(stream, (numbers, *columns), found, labels, views),
        )
        return filled

    return chunk


def _usable(stream, form, columns):
    """Returns slots, labels and views of the images that could be read and are of a form.

    Each is a tensor of the images that are left, in their order.

    Args:
        stream: the `Stream`.
        form: see `crops`.
        columns: slots, numbers, draws and places, one row per image.
    """

    def image(slot, number, places, flips, *where):
        there = tf.raw_ops.Assert(condition=number >= 0, data=[number])
        with tf.control_dependencies([there]):
            content, label = stream.source.read(*(tf.identity(value) for value in where))
        crop = (stream.protocol, stream.size, places, flips, stream.max_pixels)
        return slot, label, crops(content, form, *crop)

    good = tf.data.Dataset.from_tensor_slices(columns).map(image)
    good = good.ignore_errors(log_warning=False).batch(LARGEST_CHUNK)
    empty = tf.nest.map_structure(
        lambda spec: tf.zeros([0, *spec.shape[1:]], spec.dtype), good.element_spec
    )
    # The second data set is reached only where the first has no image at all.
    good = good.concatenate(tf.data.Dataset.from_tensors(empty)).take(1)
    return good.get_single_element()


def _filled(stream, columns, found, labels, views):
    """Returns views, labels and weights of a chunk in which not all images were JPEGs.

    The others are tried in other forms; where that fails, too, they are noted and grey.
    """
    size = columns[0].shape[0]
    rest = tf.sets.difference(tf.range(size)[None], found[None]).values
    others = _usable(stream, "other", (rest, *(tf.gather(column, rest) for column in columns)))
    found, labels, *views = (
        tf.concat(parts, 0) for parts in zip((found, labels, *views), tf.nest.flatten(others))
    )
    slots = found[:, None]
    weights = tf.scatter_nd(slots, tf.ones_like(found, "float32"), [size])
    missing = tf.boolean_mask(columns[0], (weights == 0) & (columns[0] >= 0))
    problem = tf.numpy_function(stream.bad_images.add, [missing], "string")
    with tf.control_dependencies([tf.debugging.Assert(problem == b"", [problem])]):
        grey = tf.fill([size, stream.size, stream.size, 3], np.uint8(GREY))
    views = tuple(tf.tensor_scatter_nd_update(grey, slots, view) for view in views)
    return views, tf.scatter_nd(slots, labels, [size]), weights


def _joiner(stream, local, chunk):
    """Returns the function that joins the chunks of a batch.

    In evaluation it leaves out what is no image: where images end, and those that are bad.
    """
    lead = 1 if chunk == local else 2

    def joined(*chunks):
        views, labels, weights = tf.nest.map_structure(
            lambda value: tf.reshape(value, [local, *value.shape[lead:]]), chunks
        )
        if not stream.is_training:
            # Kernels crash on a batch of no image: where all are bad, a grey one stays.
            kept = tf.concat([[0], tf.where(weights > 0)[:, 0]], 0)
            kept = kept[tf.cast(tf.reduce_any(weights > 0), "int32") :]
            views, labels, weights = tf.nest.map_structure(
                lambda value: tf.gather(value, kept), (views, labels, weights)
            )
        return views if stream.views == 2 else views[0], labels, weights

    return joined
