"""The losses of both papers as pure functions of logits and features.

Each returns one value per example, shape `(n,)`, in float32 at least, whatever the precision
of its inputs; `mean_discrepancy` is the exception and returns a scalar, because it compares
batches. Teachers and targets are detached: the gradient with respect to them is zero.
"""

from sd_keras.losses.features import hint, mean_discrepancy
from sd_keras.losses.labels import (
    label_cross_entropy,
    uniform_cross_entropy,
    virtual_teacher_logits,
)
from sd_keras.losses.maps import attention_distance, attention_map, map_distance
from sd_keras.losses.probabilities import (
    TEMPERATURE_SCALINGS,
    kl_divergence,
    soft_cross_entropy,
    symmetric_kl_divergence,
    temperature_factor,
)

__all__ = [
    "TEMPERATURE_SCALINGS",
    "attention_distance",
    "attention_map",
    "hint",
    "kl_divergence",
    "label_cross_entropy",
    "map_distance",
    "mean_discrepancy",
    "soft_cross_entropy",
    "symmetric_kl_divergence",
    "temperature_factor",
    "uniform_cross_entropy",
    "virtual_teacher_logits",
]
