"""Where the encoded images of a large data set lie, and how one of them is read.

Nothing is decoded here and no image stays in memory: a source is a table of places, one row
per image, and an operation that reads the bytes at one place. Reading by place rather than
in the order of the files makes any order free, so that an epoch is a whole permutation, a
worker reads its own images only, and a resumed run skips without reading what it skips.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sd_keras.keras_internals import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class Source:
    """The encoded images of one split.

    Attributes:
        class_names: tuple of str, in the order of the labels.
        places: tuple of arrays (n, …), together one row per image.
        read: function of one row as scalar tensors, one per array of `places`; returns the
            encoded image, a string, and the label, int32, as scalar tensors. It runs inside
            `tf.data`, and fails where the bytes cannot be read.
        describe: function of an image's number; returns text by which a person finds it.
    """

    class_names: tuple = field(repr=False)
    places: tuple = field(repr=False)
    read: Callable = field(repr=False)
    describe: Callable = field(repr=False)

    @property
    def num_examples(self):
        """Number of images."""
        return len(self.places[0])


def open_source(name, split, data_dir):
    """Returns the Source of a split of a data set.

    Args:
        name: "folder:PATH" or a data set prepared by TensorFlow Datasets, see `stream`.
        split: "train", "validation" or "test"; of TensorFlow Datasets also a part, such as
            "train[:99%]".
        data_dir: where TensorFlow Datasets has its files, or None for its default.
    """
    if not isinstance(name, str) or name in ("", "folder", "folder:"):
        raise ValueError(
            "`name` must be 'folder:PATH' or a TensorFlow Datasets name such as "
            f"'imagenet2012'. Received: name={name!r}"
        )
    if not isinstance(split, str):
        raise ValueError(f"`split` must be text such as 'train'. Received: split={split!r}")
    form, _, path = name.partition(":")
    if form == "folder":
        return open_folder(path, split)
    if name == "digits" or form == "npz":
        raise ValueError(
            "`name` must give files of encoded images; this data set fits into memory: use "
            f"`sd_keras.data.load`. Received: name={name!r}"
        )
    # Imported here: `records.py` needs this module's Source.
    from sd_keras.data.records import open_records

    return open_records(name, split, data_dir)


def open_folder(path, split):
    """Returns the Source of one split of an image folder; see `folder_splits`."""
    class_names, folders = folder_splits(path)
    if split not in folders:
        raise ValueError(
            f"`split` must be one that the folder {str(path)!r} has: {', '.join(folders)}. "
            f"Received: split={split!r}"
        )
    folder = folders[split]
    files, labels = list_images(folder, class_names, SUFFIXES)
    files = np.array([os.fsencode(file) for file in files])

    def read(file, label):
        return tf.io.read_file(tf.strings.join([str(folder), file], os.sep)), label

    def describe(index):
        return str(folder / os.fsdecode(bytes(files[index])))

    return Source(class_names, (files, np.array(labels, "int32")), read, describe)


def folder_splits(path):
    """Returns the class names of an image folder, sorted, and the folder of each of its splits.

    Args:
        path: PATH/CLASS/FILE, which has a train split only, or PATH/train/CLASS/FILE with
            PATH/val and PATH/test of the same form, both optional.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"`name` must give an existing folder after 'folder:'. Received: name='folder:{path}'"
        )
    # A class may itself be called "train" (of a set of vehicles); it holds images, not folders.
    has_splits = bool(_subfolders(root / "train"))
    folders = {"train": root / "train" if has_splits else root}
    class_names = tuple(_subfolders(folders["train"]))
    if not class_names:
        raise ValueError(
            "`name` must give a folder of the layout PATH/CLASS/*.jpg or PATH/train/CLASS/*.jpg "
            f"after 'folder:', but it has no class folders. Received: name='folder:{path}'"
        )
    if has_splits:
        others = {part: root / SPLIT_FOLDERS[part] for part in ("validation", "test")}
        folders |= {part: folder for part, folder in others.items() if folder.is_dir()}
    return class_names, folders


def list_images(folder, class_names, suffixes):
    """Lists the images in the class folders inside `folder`, sorted by class and name.

    Files of other suffixes and names that begin with a dot are left out.

    Returns:
        A list of CLASS/FILE, and a list of labels.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    files, numbers = [], []
    for class_name in _subfolders(folder):
        if class_name not in labels:
            known = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
            raise ValueError(
                "`name` must give a folder whose classes all have train images. Received: "
                f"name=(folder with {str(folder / class_name)!r}; classes with train images: "
                f"{known})"
            )
        with os.scandir(folder / class_name) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(suffixes)
                if not entry.name.startswith(".") and entry.is_file()
            )
        if not names:
            raise ValueError(
                f"`name` must give a folder with images ({', '.join(suffixes)}) of each class. "
                f"Received: name=(folder with no image in {str(folder / class_name)!r})"
            )
        files += [os.path.join(class_name, name) for name in names]
        numbers += [labels[class_name]] * len(names)
    return files, numbers


def _subfolders(folder):
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
