"""Losses on labels and on softened probabilities."""

from keras import ops

from sd_keras.losses.features import wide


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


TEMPERATURE_SCALINGS = ("none", "T", "T2")


def temperature_factor(temperature, scaling):
    """Returns what a softened loss is multiplied by: 1, T or T² (Hinton et al. 2015).

    The gradient of a loss on softmax(z / T) shrinks as 1/T²; `"T2"` restores its size.
    """
    if scaling not in TEMPERATURE_SCALINGS:
        raise ValueError(
            f"`scaling` must be one of {TEMPERATURE_SCALINGS}. Received: scaling={scaling!r}"
        )
    return {"none": 1.0, "T": temperature, "T2": temperature * temperature}[scaling]


def kl_divergence(target_logits, logits, temperature=1.0, scaling="none"):
    """KL(p ‖ q) with p = softmax(target / T), q = softmax(z / T); the target is detached.

    BYOT eq. 3 with the deepest exit as the target; DDGSD eq. 2 and 3 with the other view.
    Summed over classes, not averaged.

    Args:
        target_logits, logits: `(n, classes)`.
        temperature: T, a number or a scalar tensor.
        scaling: factor of the result, `"none"`, `"T"` or `"T2"`.

    Returns:
        `(n,)`.
    """
    logits = wide(logits)
    temperature = ops.cast(temperature, logits.dtype)
    target = ops.stop_gradient(ops.cast(target_logits, logits.dtype))
    target = ops.log_softmax(target / temperature, axis=-1)
    predicted = ops.log_softmax(logits / temperature, axis=-1)
    divergence = ops.sum(ops.exp(target) * (target - predicted), axis=-1)
    return temperature_factor(temperature, scaling) * divergence


def symmetric_kl_divergence(logits_a, logits_b, temperature=1.0, scaling="none"):
    """KL(p_b ‖ p_a) + KL(p_a ‖ p_b), each with its target detached (DDGSD eq. 5).

    Args and result as `kl_divergence`.
    """
    return kl_divergence(logits_b, logits_a, temperature, scaling) + kl_divergence(
        logits_a, logits_b, temperature, scaling
    )


def soft_cross_entropy(target_logits, logits):
    """−Σ_k p_k log softmax(z)_k with p = softmax(target), which is detached (Kim et al. 2021).

    Args:
        target_logits, logits: `(n, classes)`.

    Returns:
        `(n,)`.
    """
    logits = wide(logits)
    target = ops.softmax(ops.stop_gradient(ops.cast(target_logits, logits.dtype)), axis=-1)
    return -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
