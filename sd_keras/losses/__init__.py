"""The losses of both papers as pure functions of logits and features.

Each returns one value per example, shape `(n,)`, in float32 at least, whatever the precision
of its inputs; the discrepancies are the exception and return a scalar, because they compare
batches. Teachers and targets are detached: the gradient with respect to them is zero.
"""

from sd_keras.losses.features import (
    BANDWIDTH_FACTORS,
    attention_distance,
    attention_map,
    check_factors,
    coral,
    hint,
    map_distance,
    mean_discrepancy,
    multi_kernel_discrepancy,
    top_k_discrepancy,
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
