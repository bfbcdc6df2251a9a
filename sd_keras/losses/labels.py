"""Losses on labels."""

from keras import ops

from sd_keras.losses.precision import wide


def label_cross_entropy(labels, logits):
    """Cross entropy of labels, −Σ_k y_k log softmax(z)_k (both papers; BYOT eq. 2).

    Args:
        labels: class numbers `(n,)`, or probabilities `(n, classes)` (one-hot, soft).
            A class number outside 0…classes−1 adds nothing; the model reports it.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.
    """
    logits = wide(logits)
    labels = _probabilities(labels, logits.shape[-1], logits.dtype)
    return -ops.sum(labels * ops.log_softmax(logits, axis=-1), axis=-1)


def uniform_cross_entropy(logits):
    """−1/K Σ_k log softmax(z)_k (Szegedy et al. 2016, section 7).

    (1 − ε) label cross entropy + ε of this is cross entropy with smoothed labels.

    Args:
        logits: `(n, classes)`.

    Returns:
        `(n,)`.
    """
    return -ops.mean(ops.log_softmax(wide(logits), axis=-1), axis=-1)


def virtual_teacher_logits(labels, num_classes, correct_probability):
    """Log probabilities of a teacher that is right with a given probability (Yuan et al. 2020).

    Tf-KD_reg: a for the right class, (1 − a) / (K − 1) for each other one.

    Args:
        labels: class numbers `(n,)`, or probabilities `(n, classes)`, which mix the teachers of
            their classes.
        num_classes: K.
        correct_probability: a.

    Returns:
        `(n, classes)`.
    """
    labels = _probabilities(labels, num_classes, "float32")
    other = (1 - correct_probability) / (num_classes - 1)
    return ops.log(other + (correct_probability - other) * labels)


def _probabilities(labels, num_classes, dtype):
    """Returns labels of either form as `(n, classes)`."""
    if len(labels.shape) == 1:
        # A comparison instead of one_hot, which fails on PyTorch for a class out of range.
        labels = ops.cast(labels, "int32")[:, None] == ops.arange(num_classes, dtype="int32")
    return ops.cast(labels, dtype)
