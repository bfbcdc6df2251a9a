"""Partners of the same class."""

import numpy as np
import pytest

from sd_keras.data import Batches, SameClassPairs

LABELS = np.array([2, 0, 1, 0, 2, 0, 0, 2, 0, 3])
IMAGES = np.arange(10)[:, None].astype("uint8")


def test_partners_share_the_class_and_are_others():
    pairs = SameClassPairs(IMAGES, LABELS, 4, seed=1)
    drawn = {}
    for epoch in range(40):
        pairs.set_epoch(epoch)
        for (images, partners), labels in pairs:
            assert partners.shape == images.shape and partners.dtype == images.dtype
            np.testing.assert_array_equal(LABELS[partners[:, 0]], labels)
            for image, partner in zip(images[:, 0], partners[:, 0]):
                drawn.setdefault(int(image), []).append(int(partner))
    assert drawn.pop(9) == [9] * 40 and drawn.pop(2) == [2] * 40  # alone in their classes
    for image, partners in drawn.items():
        others = {i for i, label in enumerate(LABELS) if label == LABELS[image] and i != image}
        assert set(partners) == others
        counts = np.bincount(partners, minlength=10)[sorted(others)]
        assert counts.min() > 40 / len(others) * 0.4


def test_images_and_labels_come_as_from_batches():
    pairs, batches = SameClassPairs(IMAGES, LABELS, 4, seed=5), Batches(IMAGES, LABELS, 4, seed=5)
    for ((images, _), labels), (expected, expected_labels) in zip(pairs, batches, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_partners_depend_on_seed_epoch_and_batch_alone():
    def partners(seed, epoch, index):
        pairs = SameClassPairs(IMAGES, LABELS, 5, seed=seed, initial_epoch=epoch)
        return pairs[index][0][1][:, 0].tolist()

    assert partners(1, 2, 1) == partners(1, 2, 1)
    assert len({tuple(partners(seed, epoch, 0)) for seed in (1, 2) for epoch in (0, 1)}) > 1
    ordered = SameClassPairs(IMAGES, LABELS, 5)
    np.testing.assert_array_equal(ordered[0][0][0], IMAGES[:5])


def test_labels_must_be_class_numbers():
    with pytest.raises(ValueError, match=r"`labels` must be class numbers.*shape \(10, 4\)"):
        SameClassPairs(IMAGES, np.eye(4)[LABELS], 4)
