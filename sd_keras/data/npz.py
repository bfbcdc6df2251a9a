"""Data sets in a NumPy archive with Keras's key names; needs nothing but NumPy."""

import math
import zipfile
from pathlib import Path

import numpy as np

from sd_keras.data.splits import RawSets

REQUIRED_KEYS = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL_KEYS = ("x_val", "y_val", "class_names")
# Arrays of more bytes must not be smaller than by this factor in the file.
FREE_BYTES, MOST_INFLATION = 2**30, 100
MOST_CLASSES = 1_000_000


def read_npz(path):
    """Reads images and labels from a `.npz` file.

    Args:
        path: file with `x_train`, `y_train`, `x_test`, `y_test` and optionally `x_val` with
            `y_val`, and `class_names`. Images are uint8 (n, h, w) or (n, h, w, c), labels are
            integers (n,) or (n, 1).

    Returns:
        RawSets. Without `class_names` the classes are named by their labels, "0" to the
        highest label of all sets.
    """
    arrays = _read_arrays(Path(path))
    sets = {}
    for part in ("train", "test", "val"):
        if f"x_{part}" in arrays:
            images = _as_images(f"x_{part}", arrays[f"x_{part}"])
            labels = _as_labels(f"y_{part}", arrays[f"y_{part}"])
            if len(images) != len(labels) or len(images) == 0:
                raise ValueError(
                    f"`x_{part}` and `y_{part}` must have the same length of at least 1. Received: "
                    f"x_{part}=({len(images)} images), y_{part}=({len(labels)} labels)"
                )
            sets[part] = (images, labels)
    names = _class_names(arrays, [labels for _, labels in sets.values()])
    return RawSets(sets["train"], names, validation=sets.get("val"), test=sets["test"])


def _read_arrays(path):
    """Returns the arrays of the file by key; all required keys are there."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`name` must give an existing file after 'npz:'. Received: name='npz:{path}'"
        )
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                keys = [key for key in (*REQUIRED_KEYS, *OPTIONAL_KEYS) if key in names]
                arrays = {key: _read_array(archive, f"{key}.npy") for key in keys}
        except Exception as error:  # whatever damaged files make zipfile, zlib and NumPy raise
            raise ValueError(
                "`name` must give a NumPy archive (np.savez) of plain, not pickled, arrays after "
                f"'npz:' ({error or type(error).__name__}). Received: name='npz:{path}'"
            ) from error
    expected = set(REQUIRED_KEYS)
    if {"x_val", "y_val"} & set(arrays):
        expected |= {"x_val", "y_val"}
    if missing := sorted(expected - set(arrays)):
        raise ValueError(
            f"`name` must give an archive with the keys {', '.join(REQUIRED_KEYS)} and "
            f"optionally {', '.join(OPTIONAL_KEYS)} (x_val and y_val together). Missing: "
            f"{', '.join(missing)}. Found: {', '.join(sorted(names)) or 'none'}. "
            f"Received: name='npz:{path}'"
        )
    return arrays


def _read_array(archive, name):
    """Returns an array of an archive, whose size is checked before memory is taken for it."""
    member = archive.getinfo(name)
    if member.file_size > max(FREE_BYTES, MOST_INFLATION * member.compress_size):
        raise ValueError(f"{name} holds {member.file_size} bytes when unpacked")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = headers[version](file)
        if dtype.hasobject:
            raise ValueError(f"{name} is pickled")
        if file.tell() + dtype.itemsize * math.prod(shape) != member.file_size:
            raise ValueError(f"{name} is not as long as its header says")
    with archive.open(member) as file:
        # Pickled objects could run code on loading, and no array here needs them.
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # the end, where the checksum is compared
    return array


def _as_images(key, images):
    """Returns the images as (n, height, width, channels), adding the axis of one channel."""
    if images.dtype != np.uint8:
        raise ValueError(
            f"`{key}` must be uint8, pixels 0…255: normalisation is inside the network, so "
            "images are stored as they are. Images scaled to [0, 1] go back by "
            f"np.rint(255 * images).astype('uint8'). Received: {key}=({images.dtype} array)"
        )
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(
            f"`{key}` must have the shape (n, height, width) or (n, height, width, channels). "
            f"Received: {key}=(array of shape {images.shape})"
        )
    return images if images.ndim == 4 else images[..., None]


def _as_labels(key, labels):
    """Returns integer labels (n,) or (n, 1) as int32 (n,)."""
    plain = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    if labels.dtype.kind not in "iu" or not plain:
        raise ValueError(
            f"`{key}` must hold integer class labels of shape (n,) or (n, 1), not one-hot rows. "
            f"Received: {key}=({labels.dtype} array of shape {labels.shape})"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= MOST_CLASSES):
        raise ValueError(
            f"`{key}` must hold labels from 0 on, below {MOST_CLASSES}. "
            f"Received: {key}=(labels of {labels.min()}…{labels.max()})"
        )
    return labels.reshape(-1).astype("int32")


def _class_names(arrays, labels):
    """Returns the names given in the file, or the numbers up to the highest label."""
    if "class_names" not in arrays:
        return tuple(str(index) for index in range(1 + max(int(part.max()) for part in labels)))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(
            "`class_names` must be a one-dimensional array of strings. "
            f"Received: class_names=({names.dtype} array of shape {names.shape})"
        )
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    except UnicodeDecodeError as error:
        raise ValueError(f"`class_names` must be UTF-8: {error}. Received: bytes") from None
