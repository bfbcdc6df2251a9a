"""How often the exits give the same answer, and which of them is right where they differ."""

import numpy as np

from sd_keras.analysis.inputs import logits_with_ensemble
from sd_keras.inference.arrays import class_numbers


def agreement(logits, labels=None):
    """Compares the answers of all exits and the ensemble, two by two.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        labels: None, or class numbers `(n,)`.

    Returns:
        A dict: `names`, the C exits and `ensemble`; `same`, a matrix `(C + 1, C + 1)` of the
        shares of images on which the one of the row and the one of the column give the same
        answer. With labels four more matrices of shares, which add up to 1: `both_right`;
        `row_right` and `column_right`, one alone; and `both_wrong`; besides
        `both_wrong_alike`, both wrong with the same answer; and `any_right`, the share of
        images that at least one of the exits answers correctly.

    Raises:
        ValueError: for logits or labels that do not fit.
    """
    named = logits_with_ensemble(logits)
    answers = np.stack([z.argmax(axis=1) for z in named.values()])
    same = answers[:, None] == answers[None]
    found = {"names": list(named), "same": same.mean(axis=2)}
    if labels is None:
        return found
    labels = class_numbers(labels, *named["ensemble"].shape)
    right = answers == labels
    row, column = right[:, None], right[None]
    return found | {
        "both_right": (row & column).mean(axis=2),
        "row_right": (row & ~column).mean(axis=2),
        "column_right": (~row & column).mean(axis=2),
        "both_wrong": (~row & ~column).mean(axis=2),
        "both_wrong_alike": (same & ~row).mean(axis=2),
        "any_right": float(right[:-1].any(axis=0).mean()),
    }
