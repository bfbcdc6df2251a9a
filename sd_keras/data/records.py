"""The encoded images of a data set that TensorFlow Datasets prepared, each by its place."""

import os
from pathlib import Path

import numpy as np

from sd_keras.data.encoded import Source
from sd_keras.data.record_index import record_offsets
from sd_keras.data.tfds_files import missing_files, prepared_folder
from sd_keras.data.tfds_sets import supervised_keys


def open_records(name, split, data_dir):
    """Returns the Source of a split, in the order of its files.

    Args:
        name, split, data_dir: as for `stream`.

    Raises:
        FileNotFoundError: the data set, or one of its files, is not there.
        ValueError: no such name or split, not image classification, no labels, or prepared
            in another file format than TFRecord.
        OSError: damaged files.
    """
    # Imported here: image folders must not need TensorFlow Datasets.
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(prepared_folder(name, data_dir)).info
    image_key, label_key = supervised_keys(name, info)
    if info.file_format != tfds.core.file_adapters.FileFormat.TFRECORD:
        raise ValueError(
            "`name` must be a data set prepared as TFRecord files (`tfds build "
            f"--file_format=tfrecord`), not {info.file_format.value}. Received: name={name!r}"
        )
    parts = _parts(info, split)
    paths = [str(part.filename) for part in parts]
    offsets = _offsets(paths, name, data_dir)
    places = _places(parts, offsets, name)
    read = _reader(paths, info.features, image_key, label_key)
    _check_labels(read, places, name, split)

    def describe(index):
        file, offset, _ = (int(column[index]) for column in places)
        record = int(np.searchsorted(offsets[file], offset))
        return f"{os.path.basename(paths[file])}, record {record}"

    return Source(tuple(info.features[label_key].names), places, read, describe)


def _offsets(paths, name, data_dir):
    """Returns `record_offsets`, or raises that the data set is not prepared."""
    try:
        return record_offsets(paths)
    except FileNotFoundError as error:
        raise missing_files(name, data_dir, Path(error.filename)) from error


def _parts(info, split):
    """Returns which records of which files make up a split; at least one record."""
    try:
        parts = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(sorted(info.splits))} or a part of one, such as "
            f"'train[:99%]'. Received: split={split!r}"
        ) from error
    if not parts:
        raise ValueError(f"`split` must hold at least one image. Received: split={split!r}")
    return parts


def _places(parts, offsets, name):
    """Returns file numbers int32, offsets int64 and lengths int64 of the records, each (n,)."""
    files, starts, lengths = [], [], []
    for number, (part, ends) in enumerate(zip(parts, offsets)):
        if len(ends) - 1 != part.examples_in_shard:
            raise OSError(
                f"The file {part.filename!s} of the data set must hold {part.examples_in_shard} "
                f"records but has {len(ends) - 1}; prepare it again. Received: name={name!r}"
            )
        last = part.examples_in_shard if part.take == -1 else part.skip + part.take
        chosen = slice(part.skip, last)
        starts.append(ends[:-1][chosen])
        lengths.append(np.diff(ends)[chosen])
        files.append(np.full(len(starts[-1]), number, "int32"))
    return tuple(np.concatenate(column) for column in (files, starts, lengths))


def _reader(paths, features, image_key, label_key):
    """Returns the function that reads the image and the label of one record."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    wanted = tfds.features.FeaturesDict({key: features[key] for key in (image_key, label_key)})
    decoders = {image_key: tfds.decode.SkipDecoding()}

    def read(file, offset, length):
        # The one operation of TensorFlow that begins to read a TFRecord file at an offset. It
        # makes a data set, of which the first record is taken.
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(paths, file)],
            compression_type="",
            buffer_size=length,
            byte_offsets=[offset],
        )
        records = tf.raw_ops.TakeDataset(
            input_dataset=records, count=1, output_types=["string"], output_shapes=[[]]
        )
        (record,) = tf.raw_ops.DatasetToSingleElement(
            dataset=records, output_types=["string"], output_shapes=[[]]
        )
        example = wanted.deserialize_example(record, decoders=decoders)
        return example[image_key], tf.cast(example[label_key], "int32")

    return read


def _check_labels(read, places, name, split):
    """Raises ValueError where TensorFlow Datasets gave the images of a split no labels."""
    import tensorflow as tf

    try:
        with tf.device("CPU:0"):
            _, label = read(*(tf.constant(column[0]) for column in places))
    except tf.errors.OpError:
        return  # a damaged record is a bad image like others, met and counted later
    if int(label) < 0:
        raise ValueError(
            "`split` must be one with labels; TensorFlow Datasets gives each image of this one "
            f"the label -1. Received: split={split!r}, name={name!r}"
        )
