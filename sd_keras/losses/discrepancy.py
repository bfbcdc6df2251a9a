"""How far apart the features of two views are, as sets: beside the paper's linear MMD.

The discussion of data-distortion guided self-distillation asks for other measures. All are
scalars, statistics of the global batch under a `tf.distribute` strategy, where each replica
may have another number of examples. Neither side is detached.
"""

from keras import ops

from sd_keras import replicas
from sd_keras.losses.features import wide

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

    Which features these are is chosen by each batch anew and detached; with k = d it is
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
