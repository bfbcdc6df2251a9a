"""The losses of both papers as pure functions of logits and features.

Each returns one value per example, shape `(n,)`, in float32 at least, whatever the precision
of its inputs; the discrepancies are the exception and return a scalar, because they compare
batches. Teachers and targets are detached: the gradient with respect to them is zero.
"""

from sd_keras.losses.discrepancy import (
    BANDWIDTH_FACTORS,
    check_factors,
    coral,
    multi_kernel_discrepancy,
    top_k_discrepancy,
)
from sd_keras.losses.features import (
    attention_distance,
    attention_map,
    hint,
    map_distance,
    mean_discrepancy,
)
from sd_keras.losses.probabilities import (
    TEMPERATURE_SCALINGS,
    kl_divergence,
    label_cross_entropy,
    soft_cross_entropy,
    symmetric_kl_divergence,
    temperature_factor,
    uniform_cross_entropy,
    virtual_teacher_logits,
)

__all__ = [
    "BANDWIDTH_FACTORS",
    "TEMPERATURE_SCALINGS",
    "attention_distance",
    "attention_map",
    "check_factors",
    "coral",
    "hint",
    "kl_divergence",
    "label_cross_entropy",
    "map_distance",
    "mean_discrepancy",
    "multi_kernel_discrepancy",
    "soft_cross_entropy",
    "symmetric_kl_divergence",
    "temperature_factor",
    "top_k_discrepancy",
    "uniform_cross_entropy",
    "virtual_teacher_logits",
]
