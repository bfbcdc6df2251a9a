"""Which images of a set are held out: by class, and always the same for the same seed."""

import numpy as np

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
