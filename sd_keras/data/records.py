"""TFRecord files of TensorFlow Datasets as a source of encoded images read by position.

A TFRecord file is a chain: 8 bytes of length, 4 of checksum, the record, 4 of checksum
(tensorflow/core/lib/io/record_writer.h). It has no table of its records, so the lengths are
walked when the files are first opened. The offsets are kept in the user's cache folder and not
next to the files, because data sets are often shared and read-only.
"""

import contextlib
import hashlib
import io
import json
import os
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sd_keras.data.encoded import Source
from sd_keras.data.tfds_sets import missing_files, prepared_folder, supervised_keys
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.keras_internals import tensorflow_datasets as tfds


def open_records(name, split, data_dir):
    """Returns the Source of a split, in the order of its files.

    Args:
        name, split, data_dir: as for `stream`.
    """
    info = tfds.builder_from_directory(prepared_folder(name, data_dir)).info
    image_key, label_key = supervised_keys(name, info)
    if info.file_format != tfds.core.file_adapters.FileFormat.TFRECORD:
        raise ValueError(
            "`name` must be a data set prepared as TFRecord files (`tfds build "
            f"--file_format=tfrecord`), not {info.file_format.value}. Received: name={name!r}"
        )
    try:
        parts = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(sorted(info.splits))} or a part of one, such as "
            f"'train[:99%]'. Received: split={split!r}"
        ) from error
    if not parts:
        raise ValueError(f"`split` must hold at least one image. Received: split={split!r}")
    paths = [str(part.filename) for part in parts]
    try:
        offsets = record_offsets(paths)
    except FileNotFoundError as error:
        raise missing_files(name, data_dir, Path(error.filename)) from error
    places = _places(parts, offsets, name)
    read = _reader(paths, info.features, image_key, label_key)
    _check_labels(read, places, name, split)

    def describe(index):
        file, offset, _ = (int(column[index]) for column in places)
        record = int(np.searchsorted(offsets[file], offset))
        return f"{os.path.basename(paths[file])}, record {record}"

    return Source(tuple(info.features[label_key].names), places, read, describe)


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


# What surrounds the bytes of one record: length and its checksum, checksum of the bytes.
HEADER, FOOTER = 12, 4
# Files are walked by threads that mostly wait for the disk.
WALKERS = 32
# Of the remembered files; a change of what they hold must raise it.
FORMAT = 1


def record_offsets(paths):
    """Returns where the records of each file begin and, last, where the file ends.

    They are remembered as long as no file changes its size or its time of modification.
    Where the cache folder cannot be written, the files are walked every time.

    Args:
        paths: list of str, the files.

    Returns:
        List of int64 arrays (records + 1,), one per file.
    """
    paths = [os.path.abspath(path) for path in paths]
    with ThreadPoolExecutor(WALKERS) as threads:
        # Taken before walking: a file that changes meanwhile is walked again next time.
        states = [(found.st_size, found.st_mtime_ns) for found in threads.map(os.stat, paths)]
        # The name tells the files, so that what is found in changed ones replaces the old.
        remembered, state = _cache_file(_digest(paths)), _digest([paths, states])
        offsets = _recalled(remembered, state, [size for size, _ in states])
        if offsets is None:
            offsets = list(threads.map(_walk, paths))
            _remember(remembered, state, offsets)
    return offsets


def _digest(content):
    """Returns a text that differs where lists of text and numbers, or the format, differ."""
    return hashlib.sha256(json.dumps([FORMAT, content]).encode()).hexdigest()


def _cache_file(name):
    """Returns the path of a file in the user's cache folder; None where there is no folder."""
    # The XDG standard says that a relative path is to be ignored.
    folders = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    folder = next((folder for folder in folders if os.path.isabs(folder)), None)
    return folder and Path(folder, "sd_keras", "records", f"{name}.npz")


def _recalled(path, state, sizes):
    """Returns the remembered offsets; None if there are none or of files in another state."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if archive["state"] != state:
                return None
            offsets = np.split(archive["offsets"], archive["ends"][:-1])
    except Exception:  # no folder, no file, or whatever a damaged one makes NumPy raise
        return None
    return offsets if [int(ends[-1]) for ends in offsets] == sizes else None


def _remember(path, state, offsets):
    """Writes the offsets for `_recalled`, wholly or not at all."""
    if path is None:
        return
    content = io.BytesIO()
    ends = np.cumsum([len(part) for part in offsets])
    np.savez(content, state=state, offsets=np.concatenate(offsets), ends=ends)
    # On a full disk or in a home that is read only, the next opening walks again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: several workers may open the data set at once.
        number, aside = tempfile.mkstemp(dir=path.parent, prefix="writing_")
        try:
            with open(number, "wb") as file:
                file.write(content.getbuffer())
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)


def _walk(path):
    """Returns where the records of a file begin, and, last, where the file ends: int64."""
    found, offset = [], 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            # Read-ahead would read the whole file for its few headers.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            found.append(offset)
            file.seek(offset)
            header = file.read(8)
            if len(header) == 8:
                offset += HEADER + struct.unpack("<Q", header)[0] + FOOTER
            if len(header) < 8 or offset > size:
                raise OSError(
                    f"The file {path!r} of the data set ends within a record; prepare the data "
                    f"set again. Received: file of {size} bytes"
                )
    return np.array([*found, size], "int64")
