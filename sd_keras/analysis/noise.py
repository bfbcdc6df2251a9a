"""How flat the minimum is that training found: answers under noise on the weights."""

import numpy as np
from keras import ops

from sd_keras import scopes
from sd_keras.analysis.evaluation import Evaluation, checked
from sd_keras.analysis.inputs import numbers, positive_integer

VARIABLES = ("kernels", "trainable")


def weight_noise(
    network,
    images,
    labels,
    deviations,
    draws=5,
    seed=0,
    relative=False,
    variables="kernels",
    batch_size=256,
):
    """Accuracy and cross entropy with Gaussian noise on the weights (BYOT section 5.1, figure 4).

    A draw is one direction e of noise; the weights are w + σ e, with the same directions at
    every level σ. The network's own weights are not written to: the noisy ones are arguments of
    the one compiled function that evaluates all levels and draws.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)`; the paper takes training images.
        labels: class numbers `(n,)`.
        deviations: standard deviations σ, at least 0, `(levels,)`.
        draws: directions of noise.
        seed: of the noise.
        relative: whether σ is in units of each variable's own root mean square, so that
            networks of other scales of weights can be compared; the paper's is absolute.
        variables: what noise is added to: `"kernels"`, weights of convolutions, Dense layers
            and the like, of rank 2 or more, also frozen ones; or `"trainable"`, all trainable
            weights, with biases, scales and offsets.
        batch_size: images per forward pass.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of arrays `(levels, draws)`:
        `accuracy`, shares of 1, and `cross_entropy` in nats, NaN or infinite where the
        noise makes the answers so.

    Raises:
        ValueError: for an argument that does not fit.
    """
    images, labels = checked(network, images, labels)
    deviations = numbers("deviations", deviations, 0)
    draws = positive_integer("draws", draws)
    evaluation = Evaluation(network, noisy_variables(network, variables), batch_size)
    shift = scopes.compiled(_shifted, [])
    own = [ops.convert_to_tensor(variable.value) for variable in evaluation.variables]
    found = np.empty((len(deviations), draws, len(evaluation.names), 2))
    for draw in range(draws):
        noise = _noise(own, np.random.default_rng([seed, draw]), relative)
        for level, deviation in enumerate(deviations):
            values = shift([], own, noise, ops.convert_to_tensor(deviation, "float32"))
            found[level, draw] = evaluation(images, labels, values)
    keys = ("accuracy", "cross_entropy")
    by_name = zip(evaluation.names, np.moveaxis(found, 2, 0))
    return {name: dict(zip(keys, np.moveaxis(own, -1, 0))) for name, own in by_name}


def noisy_variables(network, variables="kernels"):
    """Returns the list of variables that `weight_noise` adds noise to; see there."""
    if variables not in VARIABLES:
        raise ValueError(f"`variables` must be one of {VARIABLES}. Received: {variables!r}")
    if variables == "trainable":
        return network.trainable_weights
    floats = [weight for weight in network.weights if "float" in weight.dtype]
    return [weight for weight in floats if len(weight.shape) >= 2]


def _noise(values, generator, relative):
    """Returns a standard normal tensor for each value, scaled where noise is relative."""
    noise = []
    for value in values:
        drawn = generator.standard_normal(tuple(value.shape), "float32")
        if relative:
            drawn *= np.sqrt(np.mean(np.square(ops.convert_to_numpy(value), dtype="float64")))
        noise.append(ops.convert_to_tensor(drawn.astype("float32")))
    return noise


def _shifted(values, noise, deviation):
    return [value + ops.cast(each * deviation, value.dtype) for value, each in zip(values, noise)]
