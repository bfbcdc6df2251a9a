"""From the name of a data set to its splits."""

import importlib.util
import numbers
from pathlib import Path

from sd_keras.data.digits import read_digits
from sd_keras.data.folder import read_folder
from sd_keras.data.holdout import hold_out_test, hold_out_validation
from sd_keras.data.npz import read_npz
from sd_keras.data.splits import Splits, channel_statistics
from sd_keras.data.tfds_sets import read_tfds


def load(name, data_dir=None, image_size=None, validation=0.1, seed=0):
    """Loads an image classification data set into memory. Nothing is ever downloaded.

    Args:
        name: "digits", the 8×8 grey digits of scikit-learn; or "folder:PATH", image files
            PATH/CLASS/*.jpg (jpeg, png, bmp) or PATH/train/CLASS/… with PATH/test, PATH/val
            or both; or "npz:PATH", a NumPy archive of `x_train`, `y_train`, `x_test`,
            `y_test` and optionally `x_val`, `y_val`, `class_names`; or what was prepared by
            `tfds build`, "cifar100", "cifar100:3.0.2", "NAME/CONFIG" (the newest version if
            none is given).
        data_dir: where TensorFlow Datasets has its files (its own default if None). A file
            NAME.npz there is read in their place, as "npz:PATH" is, and needs neither it nor
            TensorFlow. The other forms do not use `data_dir`.
        image_size: an int or (height, width): every image is resized to it, by TensorFlow and
            without keeping its aspect ratio. None: the images must be of one size already.
        validation: fraction of the train images to hold out, from 0 up to but excluding 1,
            drawn by class. Where the data set has validation images beside its test images
            those are taken, whatever the fraction; 0 gives `validation=None` in any case.
        seed: integer of at least 0; draws the validation images and nothing else.

    Returns:
        Splits. Where there are no test images the validation images of the data set serve,
        and where it has neither, a fifth of each class is held out, whatever the seed.

    Raises:
        FileNotFoundError: the files of the data set are not there.
        ImportError: they need a package that is not installed.
        ValueError: an argument out of range, an unknown name, or files of another form.
        OSError: damaged files of TensorFlow Datasets.
    """
    _check_name(name)
    _check_validation(validation)
    if not _is_integer(seed) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    raw = _read(name, data_dir, _as_pair(image_size))
    return _as_splits(name, raw, *_divide(raw, validation, seed))


def _as_splits(name, raw, train, validation, test):
    """Returns the Splits of three sets, with the statistics of the first."""
    mean, std = channel_statistics(train[0])
    return Splits(
        train=train,
        validation=validation,
        test=test,
        num_classes=len(raw.class_names),
        class_names=raw.class_names,
        input_shape=train[0].shape[1:],
        mean=mean,
        std=std,
        name=name,
    )


def _read(name, data_dir, image_size):
    """Returns the RawSets of the source that `name` stands for."""
    form, _, path = name.partition(":")
    if form == "folder":
        return read_folder(path, image_size)
    if name == "digits":
        raw = read_digits()
    else:
        archive = path if form == "npz" else _archive_of(name, data_dir)
        if archive is None:
            _check_tfds(name, data_dir)
            return read_tfds(name, data_dir, image_size)
        raw = read_npz(archive)
    if image_size is None:
        return raw
    # Imported here: it needs TensorFlow, which these two sources do without otherwise.
    from sd_keras.data.images import resize_sets

    return resize_sets(raw, image_size)


def _check_tfds(name, data_dir):
    """Raises ImportError where TensorFlow Datasets is not installed."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise ImportError(
            f"`name` must be the data set of a file {name}.npz in `data_dir` where the package "
            f"tensorflow_datasets is not installed. Received: name={name!r}, data_dir={data_dir!r}"
        )


def _archive_of(name, data_dir):
    """Returns the path of an archive of this name in `data_dir`, or None."""
    path = None if data_dir is None else Path(data_dir, f"{name}.npz")
    return path if path is not None and path.is_file() else None


def _divide(raw, validation, seed):
    """Returns the train, validation (or None) and test pairs made from the RawSets."""
    train, held, test = raw.train, raw.validation, raw.test
    if test is None and held is not None:
        test, held = held, None
    if test is None:
        train, test = _take(train, *hold_out_test(train[1]))
    if validation == 0:
        return train, None, test
    if held is None:
        if len(train[1]) < 2:
            raise ValueError(
                "`validation` must be 0 for a data set with a single train image. "
                f"Received: validation={validation}"
            )
        train, held = _take(train, *hold_out_validation(train[1], validation, seed))
    return train, held, test


def _take(pair, *selections):
    """Returns the images and labels of each selection of indices."""
    return [(pair[0][indices], pair[1][indices]) for indices in selections]


def _check_name(name):
    """Raises ValueError where `name` is not text, or is a form without its path."""
    if not isinstance(name, str) or name in ("", "folder", "folder:", "npz", "npz:"):
        raise ValueError(
            "`name` must be 'digits', 'npz:PATH', 'folder:PATH' or a TensorFlow Datasets name "
            f"such as 'cifar100'. Received: name={name!r}"
        )


def _check_validation(validation):
    """Raises ValueError where `validation` is not a fraction that leaves train images."""
    is_number = isinstance(validation, numbers.Real) and not isinstance(validation, bool)
    if not is_number or not 0 <= validation < 1:
        raise ValueError(
            "`validation` must be a fraction of the train images of at least 0 and below 1. "
            f"Received: validation={validation!r}"
        )


def _as_pair(image_size):
    """Returns `image_size` as (height, width), or None as it is."""
    if image_size is None:
        return None
    pair = (image_size, image_size) if _is_integer(image_size) else image_size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(_is_integer(side) and side >= 1 for side in pair):
        raise ValueError(
            "`image_size` must be None, an integer of at least 1 or a pair of them, "
            f"(height, width). Received: image_size={image_size!r}"
        )
    return int(pair[0]), int(pair[1])


def _is_integer(value):
    """Says whether `value` is a whole number; a bool, though an int to Python, is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
