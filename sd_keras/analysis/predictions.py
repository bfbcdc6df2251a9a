"""What the exits predict: agreement, calibration, and consistency under a distortion."""

import keras
import numpy as np
from keras import ops

from sd_keras.analysis.inputs import checked_images, features_by_exit, integer, logits_with_ensemble
from sd_keras.distortions.chain import apply
from sd_keras.inference.arrays import class_numbers, log_softmax
from sd_keras.inference.compiled import predict


def agreement(logits, labels=None):
    """Compares the answers of all exits and the ensemble, two by two.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        labels: None, or class numbers `(n,)`.

    Returns:
        A dict: `names`, the C exits and `ensemble`; `same`, a matrix `(C + 1, C + 1)` of the
        shares of images on which the one of the row and the one of the column give the same
        answer. With labels four more matrices of shares, which add up to 1: `both_right`;
        `row_right` and `column_right`, one alone; and `both_wrong`; besides
        `both_wrong_alike`, both wrong with the same answer; and `any_right`, the share of
        images that at least one of the exits answers correctly.

    Raises:
        ValueError: for logits or labels that do not fit.
    """
    named = logits_with_ensemble(logits)
    answers = np.stack([z.argmax(axis=1) for z in named.values()])
    same = answers[:, None] == answers[None]
    found = {"names": list(named), "same": same.mean(axis=2)}
    if labels is None:
        return found
    labels = class_numbers(labels, *named["ensemble"].shape)
    right = answers == labels
    row, column = right[:, None], right[None]
    return found | {
        "both_right": (row & column).mean(axis=2),
        "row_right": (row & ~column).mean(axis=2),
        "column_right": (~row & column).mean(axis=2),
        "both_wrong": (~row & ~column).mean(axis=2),
        "both_wrong_alike": (same & ~row).mean(axis=2),
        "any_right": float(right[:-1].any(axis=0).mean()),
    }


def calibration_error(probabilities, labels, bins=15):
    """Expected calibration error (Guo et al. 2017, eq. 3), equally wide bins.

    Args:
        probabilities: `(n, classes)`.
        labels: class numbers `(n,)`.
        bins: number of bins of the confidence.

    Returns:
        Mean gap between confidence and accuracy over the bins, weighted by their size; 0…1.

    Raises:
        ValueError: for probabilities, labels or bins that do not fit.
    """
    bins = integer("bins", bins)
    p = np.asarray(keras.ops.convert_to_numpy(probabilities))
    if p.ndim != 2 or not p.size or not (p >= 0).all() or np.abs(p.sum(1) - 1).max() > 1e-2:
        raise ValueError(
            "`probabilities` must be softmax probabilities (n, classes), each row with the sum 1. "
            f"Received: probabilities of shape {p.shape}"
        )
    return weighted_gap(p.max(1), p.argmax(1) == class_numbers(labels, *p.shape), bins)


def weighted_gap(confidence, correct, bins):
    """Returns the calibration error of answers `(n,)` with a confidence and their correctness."""
    gaps = np.bincount(_bin_of(confidence, bins), confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(logits, labels, bins=15):
    """Accuracy by confidence (Guo et al. 2017, fig. 1), equally wide bins.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        labels: class numbers `(n,)`.
        bins: how many, between confidence 0 and 1.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of arrays `(bins,)`: `count`, how
        many images are in the bin; their mean `confidence` and `accuracy`, shares of 1, NaN
        in empty bins.

    Raises:
        ValueError: for logits, labels or bins that do not fit.
    """
    bins = integer("bins", bins)
    named = logits_with_ensemble(logits)
    labels = class_numbers(labels, *named["ensemble"].shape)
    return {name: _diagram(z, labels, bins) for name, z in named.items()}


def _diagram(logits, labels, bins):
    log_probabilities = log_softmax(logits)
    confidence = np.exp(log_probabilities.max(1))
    index = _bin_of(confidence, bins)
    count = np.bincount(index, minlength=bins)
    values = {"confidence": confidence, "accuracy": log_probabilities.argmax(1) == labels}
    with np.errstate(invalid="ignore"):  # 0 / 0 of empty bins is the NaN that is promised
        means = {name: np.bincount(index, v, bins) / count for name, v in values.items()}
    return {"count": count, **means}


def _bin_of(confidence, bins):
    return np.minimum((confidence * bins).astype(int), bins - 1)


def consistency(network, images, distortion, draws=1, batch_size=256):
    """Compares the answers and features of two distorted views of the same images.

    A network trained by distillation between views (DDGSD) is to answer both alike. Over n
    images x with views x_a and x_b, p = softmax(z) and features h:

        symmetric_kl = 1/n Σ_i KL(p_b‖p_a) + KL(p_a‖p_b)         (eq. 2 and 3 at T = 1)
        mmd = ‖1/n Σ_i h(x_a) − 1/n Σ_i h(x_b)‖²                 (eq. 4, of all images)
        distance = 1/n Σ_i ‖h(x_a) − h(x_b)‖²

    Other networks' features are of other scales; `relative_distance` is the distance divided
    by that of two different images, twice the features' variance.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)`.
        distortion: a callable from a batch of images to distorted ones with a new draw at each
            call, such as `sd_keras.distortions.CropFlip`; its own seed decides what is drawn.
        draws: how many pairs of views of all images.
        batch_size: images per call.

    Returns:
        A dict from `exit_1 … exit_C` to a dict of arrays `(draws,)`: `symmetric_kl` in nats,
        `same_answer`, the share of images, `mmd`, `distance` and `relative_distance`; and from
        `ensemble` to the first two.

    Raises:
        ValueError: for images or draws that do not fit.
    """
    if not callable(distortion):
        raise ValueError(
            "`distortion` must be callable on a batch, for instance CropFlip(padding=4). "
            f"Received: distortion={distortion!r}"
        )
    images, draws = checked_images(network, images), integer("draws", draws)
    batch_size = integer("batch_size", batch_size)
    views = (_outputs(network, images, distortion, batch_size) for _ in range(2 * draws))
    rows = [_compared(a, b) for a, b in zip(views, views)]
    return {
        name: {key: np.array([row[name][key] for row in rows]) for key in values}
        for name, values in rows[0].items()
    }


def _outputs(network, images, distortion, batch_size):
    """Returns what the network predicts of one view of all images."""
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    views = [apply(distortion, ops.convert_to_tensor(batch)) for batch in batches]
    view = np.concatenate([ops.convert_to_numpy(each) for each in views])
    return predict(network, view, batch_size)


def _compared(a, b):
    """Returns the measures of two views' outputs by exit and name."""
    found = {}
    logits = zip(logits_with_ensemble(a).items(), logits_with_ensemble(b).values())
    for (name, logits_a), logits_b in logits:
        log_a, log_b = log_softmax(logits_a), log_softmax(logits_b)
        # KL(p_a‖p_b) + KL(p_b‖p_a), without the difference of two sums.
        both = ((np.exp(log_a) - np.exp(log_b)) * (log_a - log_b)).sum(axis=1)
        same = logits_a.argmax(axis=1) == logits_b.argmax(axis=1)
        found[name] = {"symmetric_kl": both.mean(), "same_answer": same.mean()}
    features = zip(features_by_exit(a).items(), features_by_exit(b).values())
    for (name, features_a), features_b in features:
        difference = features_a - features_b
        distance = np.square(difference).sum(axis=1).mean()
        spread = features_a.var(axis=0).sum() + features_b.var(axis=0).sum()
        found[name] |= {
            "mmd": np.square(difference.mean(axis=0)).sum(),
            "distance": distance,
            "relative_distance": distance / spread if spread else 0.0,
        }
    return found
