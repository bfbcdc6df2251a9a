"""From the name of a data set to its splits: what is read, and which images are held out."""

import importlib.util
import numbers
from pathlib import Path

import numpy as np

from sd_keras.data.batches import check_whole, is_integer
from sd_keras.data.encoded import folder_splits, list_images
from sd_keras.data.images import read_images, resize_sets
from sd_keras.data.npz import read_npz
from sd_keras.data.splits import RawSets, Splits, channel_statistics
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
    if not isinstance(name, str) or name in ("", "folder", "folder:", "npz", "npz:"):
        raise ValueError(
            "`name` must be 'digits', 'npz:PATH', 'folder:PATH' or a TensorFlow Datasets name "
            f"such as 'cifar100'. Received: name={name!r}"
        )
    is_number = isinstance(validation, numbers.Real) and not isinstance(validation, bool)
    if not is_number or not 0 <= validation < 1:
        raise ValueError(
            "`validation` must be a fraction of the train images of at least 0 and below 1. "
            f"Received: validation={validation!r}"
        )
    check_whole("seed", seed, 0)
    raw = _read(name, data_dir, _as_pair(image_size))
    train, held, test = _divide(raw, validation, seed)
    mean, std = channel_statistics(train[0])
    return Splits(
        train=train,
        validation=held,
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
    elif form == "npz":
        raw = read_npz(path)
    elif data_dir is not None and Path(data_dir, f"{name}.npz").is_file():
        raw = read_npz(Path(data_dir, f"{name}.npz"))
    elif importlib.util.find_spec("tensorflow_datasets") is None:
        raise ImportError(
            f"`name` must be the data set of a file {name}.npz in `data_dir` where the package "
            f"tensorflow_datasets is not installed. Received: name={name!r}, data_dir={data_dir!r}"
        )
    else:
        return read_tfds(name, data_dir, image_size)
    return raw if image_size is None else resize_sets(raw, image_size)


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


def _as_pair(image_size):
    """Returns `image_size` as (height, width), or None as it is."""
    if image_size is None:
        return None
    pair = (image_size, image_size) if is_integer(image_size) else image_size
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(is_integer(side) and side >= 1 for side in pair):
        raise ValueError(
            "`image_size` must be None, an integer of at least 1 or a pair of them, "
            f"(height, width). Received: image_size={image_size!r}"
        )
    return int(pair[0]), int(pair[1])


FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_folder(path, image_size):
    """Reads an image folder that fits into memory.

    Args:
        path: as `folder_splits`.
        image_size: (height, width) to resize to, or None where all images are of one size.

    Returns:
        RawSets of RGB images; classes and files in sorted order, class names the names of
        the folders.
    """
    class_names, folders = folder_splits(path)
    listed = {part: list_images(folders[part], class_names, FOLDER_SUFFIXES) for part in folders}
    # All splits together, so that their sizes are compared, too.
    paths = [folders[part] / file for part, (files, _) in listed.items() for file in files]
    images = read_images(paths, image_size)
    sets, start = {}, 0
    for part, (files, labels) in listed.items():
        sets[part] = images[start : start + len(files)], np.array(labels, "int32")
        start += len(files)
    return RawSets(sets["train"], class_names, sets.get("validation"), sets.get("test"))


# scikit-learn's pixels count the dark points among 16.
LARGEST_PIXEL = 16


def read_digits():
    """Returns the 1,797 digits as one train set: uint8 (n, 8, 8, 1), pixels 0…255."""
    # Imported here: the other data sets do not need scikit-learn.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / LARGEST_PIXEL)).astype("uint8")[..., None]
    labels = digits.target.astype("int32")
    return RawSets((images, labels), class_names=tuple(str(name) for name in digits.target_names))


TEST_FRACTION = 0.2
# Never the user's seed: figures of different seeds must share their test images.
TEST_SEED = 0


def hold_out_test(labels):
    """Returns the fixed test part of a set that comes without one: 20 % of each class.

    A class with two images or more gives at least one and keeps at least one; a class with a
    single image gives none.

    Args:
        labels: integers (n,).

    Returns:
        Two ascending arrays of indices: (kept for training, held out).
    """
    held = []
    for members in _shuffled_classes(labels, np.random.default_rng(TEST_SEED)):
        if len(members) > 1:
            amount = max(1, int(TEST_FRACTION * len(members) + 0.5))
            held.append(members[:amount])
    return _in_two(len(labels), held)


def hold_out_validation(labels, fraction, seed):
    """Returns a validation part of the train images, drawn with `seed`.

    It holds `fraction` of all images, rounded, but at least one, each class giving its share
    as nearly as whole images allow. A class keeps at least one image for training as long as
    any class has more than one; only beyond that is the rest drawn regardless of class.

    Args:
        labels: integers (n,), n at least 2.
        fraction: of the n images, above 0 and below 1.
        seed: integer of at least 0.

    Returns:
        Two ascending arrays of indices: (kept for training, held out).
    """
    generator = np.random.default_rng(seed)
    classes = _shuffled_classes(labels, generator)
    sizes = np.array([len(members) for members in classes])
    total = min(max(1, int(fraction * len(labels) + 0.5)), len(labels) - 1)
    amounts = _shares(sizes, total, generator)
    held = [members[:amount] for members, amount in zip(classes, amounts, strict=True)]
    missing = total - int(amounts.sum())
    if missing:
        kept, _ = _in_two(len(labels), held)
        held.append(generator.choice(kept, missing, replace=False))
    return _in_two(len(labels), held)


def _shuffled_classes(labels, generator):
    """Returns one shuffled array of indices per class that occurs, by ascending label."""
    _, sizes = np.unique(labels, return_counts=True)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return [generator.permutation(indices) for indices in members]


def _shares(sizes, total, generator):
    """Divides `total` among classes of `sizes` by largest remainder, leaving one in each.

    The sum falls short of `total` only where every class is down to its last image.
    """
    quotas = sizes * (total / sizes.sum())
    amounts = np.minimum(np.floor(quotas).astype(int), sizes - 1)
    # Equal remainders are the rule in balanced sets; a fixed order would always favour the
    # classes of low labels.
    order = generator.permutation(len(sizes))
    order = order[np.argsort((amounts - quotas)[order], kind="stable")]
    while amounts.sum() < total and (amounts < sizes - 1).any():
        with_room = order[amounts[order] < sizes[order] - 1]
        amounts[with_room[: total - amounts.sum()]] += 1
    return amounts


def _in_two(size, held):
    """Returns the indices below `size` that are in none of the arrays `held`, and those that are.

    Both ascend: the images keep the order of the data set, and training shuffles them anyway.
    """
    is_held = np.zeros(size, bool)
    for indices in held:
        is_held[indices] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
