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
    if len(labels.shape) == 1:
        # A comparison instead of one_hot, which fails on PyTorch for a class out of range.
        labels = ops.cast(labels, "int32")[:, None] == ops.arange(logits.shape[-1], dtype="int32")
    labels = ops.cast(labels, logits.dtype)
    return -ops.sum(labels * ops.log_softmax(logits, axis=-1), axis=-1)
