"""The losses of both papers as pure functions of logits and features.

Each returns one value per example, shape `(n,)`, in float32 at least, whatever the precision
of its inputs; `mean_discrepancy` is the exception and returns a scalar, because it compares
batches. Teachers and targets are detached: the gradient with respect to them is zero.
"""

import keras
from keras import ops

from sd_keras import replicas

TEMPERATURE_SCALINGS = ("none", "T", "T2")


def _float(x):
    """Casts integers and 16-bit floats to float32; log-softmax in 16 bits is inexact."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")


def temperature_factor(temperature, scaling):
    """Returns what a softened loss is multiplied by: 1, T or T² (Hinton et al. 2015).

    The gradient of a loss on softmax(z / T) shrinks as 1/T²; `"T2"` restores its size.
    """
    if scaling not in TEMPERATURE_SCALINGS:
        raise ValueError(
            f"`scaling` must be one of {TEMPERATURE_SCALINGS}. Received: scaling={scaling!r}"
        )
    return {"none": 1.0, "T": temperature, "T2": temperature * temperature}[scaling]


def label_cross_entropy(labels, logits):
    """Cross entropy of labels, −Σ_k y_k log softmax(z)_k (both papers; BYOT eq. 2).

    Args:
        labels: class numbers `(n,)`, or probabilities `(n, classes)` (one-hot, soft).
            A class number outside 0…classes−1 adds nothing; the model reports it.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.
    """
    logits = _float(logits)
    if len(labels.shape) == 1:
        # A comparison instead of one_hot, which fails on PyTorch for a class out of range.
        labels = ops.cast(labels, "int32")[:, None] == ops.arange(logits.shape[-1], dtype="int32")
    labels = ops.cast(labels, logits.dtype)
    return -ops.sum(labels * ops.log_softmax(logits, axis=-1), axis=-1)


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
    logits = _float(logits)
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


def hint(target_features, features):
    """‖F − F_target‖²₂, the sum over dimensions; the target is detached (BYOT eq. 4).

    Args:
        target_features, features: `(n, d)`.

    Returns:
        `(n,)`.
    """
    difference = _float(features) - ops.stop_gradient(_float(target_features))
    return ops.sum(ops.square(difference), axis=-1)


def mean_discrepancy(features_a, features_b):
    """MMD with a linear kernel, ‖mean_n h(x_a) − mean_n h(x_b)‖²₂ (DDGSD eq. 4).

    The batch means come first, so the order of the examples within a view does not matter;
    under a `tf.distribute` strategy the batch is the global one. Neither side is detached.

    Args:
        features_a, features_b: `(n, d)`.

    Returns:
        A scalar.
    """
    difference = replicas.batch_mean(_float(features_a) - _float(features_b))
    return ops.sum(ops.square(difference))
