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

    Raises:
        FileNotFoundError: the files of the data set are not there.
        ValueError: an unknown name or split, no labels, or files of another form.
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
    # Imported here: it needs TensorFlow Datasets, which image folders do without.
    from sd_keras.data.records import open_records

    return open_records(name, split, data_dir)


def open_folder(path, split):
    """Returns the Source of an image folder, in sorted order of classes and files.

    Args:
        path: PATH/CLASS/FILE, which has a train split only, or PATH/train/CLASS/FILE with
            PATH/val and PATH/test of the same form, both optional.
        split: "train", "validation" or "test".
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"`name` must give an existing folder after 'folder:'. Received: name='folder:{path}'"
        )
    # As in `load`: a class may itself be called "train", that one holds images, not folders.
    parted = bool(_folders(root / "train"))
    names = tuple(_folders(root / "train" if parted else root))
    if not names:
        raise ValueError(
            "`name` must give a folder of the layout PATH/CLASS/*.jpg or PATH/train/CLASS/*.jpg "
            f"after 'folder:', but it has no class folders. Received: name='folder:{path}'"
        )
    there = {"train": root / "train" if parted else root}
    if parted:
        others = {part: root / SPLIT_FOLDERS[part] for part in ("validation", "test")}
        there |= {part: folder for part, folder in others.items() if folder.is_dir()}
    if split not in there:
        raise ValueError(
            f"`split` must be one that the folder {str(root)!r} has: {', '.join(there)}. "
            f"Received: split={split!r}"
        )
    return _listed(there[split], names)


def _listed(folder, names):
    """Returns the Source of the files in the class folders inside `folder`."""
    labels = {name: label for label, name in enumerate(names)}
    files, numbers = [], []
    for class_name in _folders(folder):
        if class_name not in labels:
            raise ValueError(
                "`name` must give a folder whose classes all have train images. "
                f"Received: name=(folder with the class {str(folder / class_name)!r})"
            )
        with os.scandir(folder / class_name) as entries:
            inside = sorted(entry.name for entry in entries if _is_image(entry))
        if not inside:
            raise ValueError(
                f"`name` must give a folder with images ({', '.join(SUFFIXES)}) of each class. "
                f"Received: name=(folder with no image in {str(folder / class_name)!r})"
            )
        files += [os.fsencode(os.path.join(class_name, file)) for file in inside]
        numbers += [labels[class_name]] * len(inside)
    files = np.array(files)

    def read(file, label):
        import tensorflow as tf

        return tf.io.read_file(tf.strings.join([str(folder), file], os.sep)), label

    def describe(index):
        return str(folder / os.fsdecode(bytes(files[index])))

    return Source(names, (files, np.array(numbers, "int32")), read, describe)


def _folders(folder):
    """Returns the sorted names of the folders inside `folder`; none if there is none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _is_image(entry):
    """Says whether a directory entry is to be read: by its ending, in any case, not hidden."""
    return entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "." and entry.is_file()
