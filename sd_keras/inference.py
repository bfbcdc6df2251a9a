"""What a trained network answers: the exits together."""

import math

from keras import ops


def ensemble_logits(logits):
    """Returns the log of the exits' mean probability (BYOT section 4.2, "ensemble").

    Args:
        logits: list of `(n, classes)`, one per exit.

    Returns:
        `(n, classes)`; normalised, so that its softmax is the mean of the exits' softmax.
    """
    stacked = ops.stack([ops.log_softmax(ops.cast(z, "float32"), axis=-1) for z in logits])
    return ops.logsumexp(stacked, axis=0) - math.log(len(logits))
