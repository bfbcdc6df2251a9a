"""How far a distortion changes what an exit says of an image, and what it sees in it."""

import numpy as np
from keras import ops

from sd_keras.analysis.inputs import (
    checked_images,
    features_by_exit,
    integer,
    logits_with_ensemble,
)
from sd_keras.distortions.chain import apply
from sd_keras.inference.arrays import log_softmax
from sd_keras.inference.compiled import predict


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
    _check(distortion)
    images, draws = checked_images(network, images), integer("draws", draws)
    batch_size = integer("batch_size", batch_size)
    views = (_outputs(network, images, distortion, batch_size) for _ in range(2 * draws))
    rows = [_compared(a, b) for a, b in zip(views, views)]
    return {
        name: {key: np.array([row[name][key] for row in rows]) for key in values}
        for name, values in rows[0].items()
    }


def _check(distortion):
    if not callable(distortion):
        raise ValueError(
            "`distortion` must be callable on a batch, for instance CropFlip(padding=4). "
            f"Received: distortion={distortion!r}"
        )


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
