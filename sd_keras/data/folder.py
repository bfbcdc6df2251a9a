"""Data sets that are a folder of image files, one folder per class."""

from pathlib import Path

import numpy as np

from sd_keras.data.raw import RawSets

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_folder(path, image_size):
    """Reads an image folder.

    Args:
        path: folder of either layout: PATH/CLASS/FILE, or PATH/train/CLASS/FILE with
            PATH/test and PATH/val of the same form, both optional. Files of other endings
            and names that begin with a dot are left out.
        image_size: (height, width) to resize to, or None where all images are of one size.

    Returns:
        RawSets of RGB images; classes and files in sorted order, class names the names of
        the folders.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, a class without images, classes in test or val that
            train lacks, an unreadable file, or different sizes without `image_size`.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"`name` must give an existing folder after 'folder:'. Received: name='folder:{path}'"
        )
    # A class may itself be called "train" (of a set of vehicles): that one holds images, not
    # folders.
    parted = bool(_class_folders(root / "train"))
    train = root / "train" if parted else root
    names = tuple(folder.name for folder in _class_folders(train))
    if not names:
        raise ValueError(
            "`name` must give a folder of the layout PATH/CLASS/*.jpg or PATH/train/CLASS/*.jpg "
            f"after 'folder:', but it has no class folders. Received: name='folder:{path}'"
        )
    files = {"train": _labelled_files(train, names)}
    for part in ("val", "test"):
        if parted and (root / part).is_dir():
            files[part] = _labelled_files(root / part, names)
    return _read_sets(files, names, image_size)


def _read_sets(files, names, image_size):
    """Decodes the files of all sets together, so that their sizes are compared, too."""
    # Imported here: loading other kinds of data sets must not need TensorFlow.
    from sd_keras.data.images import read_images

    paths = [path for part in files.values() for path, _ in part]
    images = read_images(paths, image_size)
    sets, start = {}, 0
    for part, labelled in files.items():
        labels = np.array([label for _, label in labelled], "int32")
        sets[part] = (images[start : start + len(labels)], labels)
        start += len(labels)
    return RawSets(sets["train"], names, validation=sets.get("val"), test=sets.get("test"))


def _class_folders(folder):
    """Returns the folders inside `folder`, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    inside = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in inside if not path.name.startswith("."))


def _labelled_files(folder, names):
    """Returns pairs (file, label) of one set, sorted by class and file name."""
    labelled = []
    for class_folder in _class_folders(folder):
        if class_folder.name not in names:
            raise ValueError(
                f"`name` must give a folder whose classes all have train images. "
                f"Received: name=(folder with {str(class_folder)!r} beside train classes "
                f"{_shortened(names)})"
            )
        files = sorted(path for path in class_folder.iterdir() if _is_image_file(path))
        if not files:
            raise ValueError(
                f"`name` must give a folder with images ({', '.join(SUFFIXES)}) of each class. "
                f"Received: name=(folder with no image in {str(class_folder)!r})"
            )
        labelled += [(path, names.index(class_folder.name)) for path in files]
    return labelled


def _is_image_file(path):
    """Says whether a path is to be read: by its ending, in any case, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _shortened(names):
    """Returns the first names as text, as there may be a thousand."""
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
