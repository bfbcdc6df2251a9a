"""Image folders that fit into memory: one folder per class."""

import numpy as np

from sd_keras.data.encoded import folder_splits, list_images
from sd_keras.data.raw import RawSets

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_folder(path, image_size):
    """Reads an image folder.

    Args:
        path: as `folder_splits`.
        image_size: (height, width) to resize to, or None where all images are of one size.

    Returns:
        RawSets of RGB images; classes and files in sorted order, class names the names of
        the folders.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, a class without images, classes in test or val that
            train lacks, an unreadable file, or different sizes without `image_size`.
    """
    # Imported here: loading other kinds of data sets must not need TensorFlow.
    from sd_keras.data.images import read_images

    class_names, folders = folder_splits(path)
    listed = {part: list_images(folders[part], class_names, SUFFIXES) for part in folders}
    # All splits together, so that their sizes are compared, too.
    paths = [folders[part] / file for part, (files, _) in listed.items() for file in files]
    images = read_images(paths, image_size)
    sets, start = {}, 0
    for part, (files, labels) in listed.items():
        sets[part] = images[start : start + len(files)], np.array(labels, "int32")
        start += len(files)
    return RawSets(sets["train"], class_names, sets.get("validation"), sets.get("test"))
