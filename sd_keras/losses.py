"""The losses of both papers as pure functions of logits and features.

Each returns one value per example, shape `(n,)`, in float32 at least, whatever the precision
of its inputs; the discrepancies are the exception and return a scalar, because they compare
batches. Teachers and targets are detached: the gradient with respect to them is zero.

Besides the linear MMD of the paper there are other measures of how far apart the features of
two views are as sets, for which the discussion of data-distortion guided self-distillation
asks. These are statistics of the global batch under a `tf.distribute` strategy, where each
replica may have another number of examples. Neither side is detached.
"""

import keras
from keras import ops

from sd_keras import replicas


def wide(x):
    """Casts integers and 16-bit floats to float32; log-softmax in 16 bits is inexact."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")


def hint(target_features, features):
    """‖F − F_target‖²₂, the sum over dimensions; the target is detached (BYOT eq. 4).

    Args:
        target_features, features: `(n, d)`.

    Returns:
        `(n,)`.
    """
    difference = wide(features) - ops.stop_gradient(wide(target_features))
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
    difference = replicas.batch_mean(wide(features_a) - wide(features_b))
    return ops.sum(ops.square(difference))


# Added to what a map is divided by, so that a map of zeros stays one.
TINY = 1e-12


def attention_map(feature_map):
    """Σ_c |A_c|² as a vector over positions, divided by its length (Zagoruyko & Komodakis 2017).

    Section 3.1, F_sum with p = 2.

    Args:
        feature_map: `(n, h, w, c)`.

    Returns:
        `(n, h·w)`, each row of length 1; 0 where the map is 0.
    """
    feature_map = wide(feature_map)
    height, width = feature_map.shape[1:3]
    attention = ops.reshape(ops.sum(ops.square(feature_map), axis=-1), (-1, height * width))
    length = ops.sum(ops.square(attention), axis=-1, keepdims=True)
    return attention * ops.rsqrt(length + TINY)


def attention_distance(target_map, feature_map):
    """Mean squared difference of two attention maps; the target is detached (eq. 2).

    Args:
        target_map, feature_map: `(n, h, w, …)` of one height and width, any channels.

    Returns:
        `(n,)`, a mean over positions.
    """
    difference = attention_map(feature_map) - ops.stop_gradient(attention_map(target_map))
    return ops.mean(ops.square(difference), axis=-1)


def map_distance(target_map, feature_map):
    """½ ‖A − A_target‖² as a mean over positions and channels; the target is detached.

    Romero et al. 2015 (FitNets), eq. 3, divided by the number of elements.

    Args:
        target_map, feature_map: `(n, h, w, c)`.

    Returns:
        `(n,)`.
    """
    difference = wide(feature_map) - ops.stop_gradient(wide(target_map))
    return ops.mean(ops.square(difference), axis=(1, 2, 3)) / 2


# Bandwidths of the Gaussian kernels, in mean squared distances (Long et al. 2015 double them).
BANDWIDTH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def multi_kernel_discrepancy(features_a, features_b, factors=BANDWIDTH_FACTORS):
    """MMD² with the mean of several Gaussian kernels (Gretton et al. 2012a, eq. 5; 2012b).

        1/n² Σ_ij [ k(a_i, a_j) + k(b_i, b_j) − 2 k(a_i, b_j) ],
        k(x, y) = 1/u Σ_f exp(−‖x − y‖² / (f · m)),    u factors f

    with m the mean of ‖x − y‖² over all pairs of different examples of both sides, detached
    (Long et al. 2015, Learning transferable features with deep adaptation networks, choose
    multiples of it too). This is the biased estimate, 0…2 and 0 only where both sides are the
    same set; the kernels see all moments where the linear MMD sees means.

    Args:
        features_a, features_b: `(n, d)`.
        factors: bandwidths as multiples of m, positive numbers.

    Returns:
        A scalar.
    """
    check_factors(factors)
    a, b = _of_all_replicas(features_a, features_b)
    both = ops.concatenate([a, b], axis=0)
    # Distances do not change when all examples move; near 0 their squares are exact enough.
    both = both - ops.stop_gradient(ops.mean(both, axis=0))
    squares = ops.sum(ops.square(both), axis=-1)
    products = ops.matmul(both, ops.transpose(both))
    distances = ops.relu(squares[:, None] + squares[None] - 2 * products)
    count = ops.cast(ops.shape(both)[0], both.dtype)
    mean = ops.stop_gradient(ops.sum(distances) / (count * (count - 1)))
    mean = ops.maximum(mean, 1e-12)  # all examples the same: all kernels 1, no gradient
    kernel = sum(ops.exp(-distances / (factor * mean)) for factor in factors) / len(factors)
    signs = ops.concatenate([ops.ones_like(a[:, 0]), -ops.ones_like(b[:, 0])], axis=0)
    signs = signs / (count / 2)
    # Never below 0 but by rounding.
    return ops.relu(ops.sum(kernel * signs[:, None] * signs[None]))


def coral(features_a, features_b):
    """‖C_a − C_b‖²_F / (4 d²), C the covariances (Sun & Saenko 2016, Deep CORAL, eq. 1–3).

    Compares second moments where the linear MMD compares means: it does not see a shift of
    all features of one side.

    Args:
        features_a, features_b: `(n, d)`.

    Returns:
        A scalar; 0 for a single example, which has no covariance.
    """
    a, b = _of_all_replicas(features_a, features_b)
    difference = _covariance(a) - _covariance(b)
    return ops.sum(ops.square(difference)) / (4.0 * a.shape[-1] ** 2)


def top_k_discrepancy(features_a, features_b, k):
    """The linear MMD on the k features with the largest mean activation over both sides.

    Which features these are is chosen for each batch again and detached; with k = d it is
    `mean_discrepancy` (DDGSD eq. 4).

    Args:
        features_a, features_b: `(n, d)`.
        k: how many features are compared, an integer of 1…d.

    Returns:
        A scalar.
    """
    width = features_a.shape[-1]
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= width:
        raise ValueError(f"`k` must be an integer from 1 to {width}, the features. Received: k={k}")
    a, b = wide(features_a), wide(features_b)
    # The difference of each example first: that of two means would lose digits.
    means = replicas.batch_mean(ops.concatenate([a - b, a + b], axis=-1))
    difference, activation = means[:width], means[width:]
    _, chosen = ops.top_k(ops.stop_gradient(activation), k)
    chosen = ops.sum(ops.one_hot(chosen, width, dtype=means.dtype), axis=0)
    return ops.sum(ops.square(difference) * chosen)


def _of_all_replicas(features_a, features_b):
    """Returns both sides with the examples of all replicas, in float32 at least."""
    width = features_a.shape[-1]
    both = ops.concatenate([wide(features_a), wide(features_b)], axis=-1)
    both = replicas.examples(both)
    return both[:, :width], both[:, width:]


def _covariance(features):
    """Returns the unbiased covariance `(d, d)` of `(n, d)`."""
    centred = features - ops.mean(features, axis=0)
    count = ops.cast(ops.shape(features)[0], features.dtype)
    return ops.matmul(ops.transpose(centred), centred) / ops.maximum(count - 1, 1)


def check_factors(factors):
    """Raises ValueError unless `factors` are positive numbers."""
    is_list = isinstance(factors, (list, tuple)) and len(factors) > 0
    if not is_list or not all(factor > 0 for factor in factors):
        raise ValueError(
            "`factors` must be a list of at least one positive number, multiples of the mean "
            f"squared distance. Received: factors={factors!r}"
        )


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
    labels = as_probabilities(labels, logits.shape[-1], logits.dtype)
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
    labels = as_probabilities(labels, num_classes, "float32")
    other = (1 - correct_probability) / (num_classes - 1)
    return ops.log(other + (correct_probability - other) * labels)


def as_probabilities(labels, num_classes, dtype):
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
