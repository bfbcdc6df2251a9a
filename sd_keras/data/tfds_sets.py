"""Data sets prepared by TensorFlow Datasets: where they are stored, and how they are read.

The folder is located here and not by `tfds.builder`, which runs the data set's own code, may
ask a server about a data set that is not prepared, and fails with assertions.
"""

import difflib
import re
from pathlib import Path

import numpy as np

from sd_keras.data.splits import RawSets
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.keras_internals import tensorflow_datasets as tfds

# Images decoded together; large enough that Python is not what takes the time.
BATCH = 500


def read_tfds(name, data_dir, image_size):
    """Reads the train, validation and test sets that were prepared under `name`.

    Args:
        name: "NAME", "NAME/CONFIG", either with ":VERSION".
        data_dir: folder that TensorFlow Datasets prepared into, or None for its default.
        image_size: (height, width) to resize to, or None.

    Returns:
        RawSets in the order of the files. A set without labels (TensorFlow Datasets gives
        each image the label −1, as to ImageNet's test images) counts as missing.
    """
    folder = prepared_folder(name, data_dir)
    builder = tfds.builder_from_directory(folder)
    image_key, label_key = supervised_keys(name, builder.info)
    if "train" not in builder.info.splits:
        raise ValueError(
            "`name` must be a data set with a 'train' split, but it has only "
            f"{', '.join(sorted(builder.info.splits))}. Received: name={name!r}"
        )
    sets = {}
    for part in ("train", "validation", "test"):
        if part in builder.info.splits:
            images, labels = _read_split(name, data_dir, builder, part, image_key, image_size)
            if (labels >= 0).all():
                sets[part] = (images, labels)
    names = tuple(builder.info.features[label_key].names)
    if "train" not in sets:
        raise ValueError(f"`name` must be a data set with labels. Received: name={name!r}")
    return RawSets(sets["train"], names, sets.get("validation"), sets.get("test"))


def supervised_keys(name, info):
    """Returns the keys of the uint8 image and of the class label."""
    keys = info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (info.features[key] for key in keys)
        is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if is_image and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise ValueError(
        "`name` must be an image classification data set, whose supervised keys are a uint8 "
        f"image and a class label; this one has supervised_keys={keys} of the features "
        f"{', '.join(sorted(info.features))}. Received: name={name!r}"
    )


def _read_split(name, data_dir, builder, part, image_key, image_size):
    """Returns images uint8 (n, h, w, c) and labels int32 (n,) of one split, in file order."""

    from sd_keras.data.images import resize

    # Everything is read exactly once, so TensorFlow Datasets' own cache would only take memory.
    options = tfds.ReadConfig(try_autocache=False)
    pairs = builder.as_dataset(
        split=part, as_supervised=True, shuffle_files=False, read_config=options
    )
    one_size = None not in builder.info.features[image_key].shape
    if image_size is not None:
        pairs = pairs.map(lambda x, y: (resize(x, image_size), y), tf.data.AUTOTUNE)
        one_size = True
    pairs = pairs.batch(BATCH if one_size else 1).prefetch(tf.data.AUTOTUNE)
    try:
        return _collect(pairs, builder.info.splits[part].num_examples)
    except tf.errors.NotFoundError as error:
        raise missing_files(name, data_dir, builder.data_path) from error
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise OSError(
            f"The files of the data set in {builder.data_path} are damaged "
            f"({type(error).__name__}); remove that folder and prepare it again. "
            f"Received: name={name!r}"
        ) from error


def _collect(pairs, size):
    """Fills arrays for `size` images from batches of (images, labels)."""
    from sd_keras.data.images import check_same_size

    images, labels, count = None, np.empty(size, "int32"), 0
    for some_images, some_labels in pairs.as_numpy_iterator():
        if images is None:
            images = np.empty((size, *some_images.shape[1:]), "uint8")
        # Batches hold images of one size, so the first of each speaks for all.
        what = f"images {count} and 0 of the data set"
        check_same_size(some_images[0], images.shape[1:], what)
        images[count : count + len(some_images)] = some_images
        labels[count : count + len(some_labels)] = some_labels
        count += len(some_labels)
    return images, labels


NAME = re.compile(r"(?P<base>[A-Za-z]\w*)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")


def prepared_folder(name, data_dir):
    """Returns the folder of the prepared files: of the version asked for, or of the newest.

    Args:
        name: "NAME", "NAME/CONFIG", either with ":VERSION".
        data_dir: folder that TensorFlow Datasets prepared into, or None for its default.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise _unknown_name(name)
    base, config, version = match["base"], match["config"], match["version"]
    root = _data_folder(data_dir) / base
    if not root.is_dir():
        raise missing_files(name, data_dir, root) if base in _names() else _unknown_name(name)
    folder = root / config if config else root
    if not config and not _versions(root):
        folder = _only_configuration(name, root) or root
    found = _versions(folder)
    if not found or (version and version not in found):
        raise missing_files(name, data_dir, folder, found)
    return folder / (version or found[-1])


def missing_files(name, data_dir, folder, found=()):
    """Returns the error that a data set is not prepared, with the command that prepares it."""
    there = f" (found there: {', '.join(found)})" if found else ""
    target = _data_folder(data_dir)
    return FileNotFoundError(
        f"The data set {name!r} is not prepared: looked for its files in {folder}{there}. Nothing "
        "is downloaded here; run once, on a machine with network access,\n"
        f"    tfds build {name} --data_dir {target}\n"
        "and if need be copy the files, or give as `data_dir` the folder that has them. "
        f"Received: name={name!r}, data_dir={data_dir and str(data_dir)!r}"
    )


def _unknown_name(name):
    """Returns the error that there is no such data set, with the forms and similar names."""
    known = ["digits", *_names()]
    close = difflib.get_close_matches(name, known, n=5) or difflib.get_close_matches(
        name.partition(":")[0].partition("/")[0].lower(), known, n=5
    )
    return ValueError(
        "`name` must be one of 'digits', 'npz:PATH', 'folder:PATH', or a TensorFlow Datasets "
        "name ('NAME', 'NAME/CONFIG', 'NAME:1.2.3'). Close matches: "
        f"{', '.join(close) or 'none'}. Received: name={name!r}"
    )


def _names():
    """Returns the names of all data sets that TensorFlow Datasets has code for."""
    # Community data sets are listed on a server.
    return tfds.list_builders(with_community_datasets=False)


def _data_folder(data_dir):
    """Returns the folder of all data sets."""
    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()


def _versions(folder):
    """Returns the versions prepared in a folder, oldest first."""
    found = []
    for path in folder.glob("*/dataset_info.json"):
        # Without the features (written since version 4) the records cannot be decoded.
        if VERSION.fullmatch(path.parent.name) and (path.parent / "features.json").is_file():
            found.append(path.parent.name)
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def _only_configuration(name, root):
    """Returns the one configuration's folder, None if none is prepared."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _versions(path))
    if len(folders) > 1:
        choices = ", ".join(f"{root.name}/{folder.name}" for folder in folders)
        raise ValueError(
            f"`name` must say which configuration is meant, one of {choices}. "
            f"Received: name={name!r}"
        )
    return folders[0] if folders else None
