"""Losses that compare softened probabilities."""

from keras import ops

from sd_keras.losses.precision import wide

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
