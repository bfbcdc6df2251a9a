"""The handwritten digits that come with scikit-learn: no files, no network."""

import numpy as np

from sd_keras.data.raw import RawSets

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
