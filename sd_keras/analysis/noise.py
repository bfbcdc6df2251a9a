"""How flat the minimum is that training found: answers under noise on the weights."""

import functools

import numpy as np
from keras import ops

from sd_keras import scopes
from sd_keras.analysis.evaluation import Evaluation, by_measure, checked
from sd_keras.analysis.inputs import integer, numbers

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
    """Accuracy and cross entropy with Gaussian noise on the weights (BYOT figure 4).

    A draw is one direction e of noise, the same at every level σ of the weights w + σ e, which
    are arguments of one compiled function: the network's own weights are never written to.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)`; the paper takes training images.
        labels: class numbers `(n,)`.
        deviations: standard deviations σ, at least 0, `(levels,)`.
        draws, seed: how many directions of noise, and their seed.
        relative: whether σ is in units of each variable's root mean square; the paper's is not.
        variables: what noise is added to: `"kernels"`, weights of rank 2 or more, frozen ones
            too; or `"trainable"`, all trainable weights, also biases, scales and offsets.
        batch_size: images per forward pass.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of arrays `(levels, draws)`:
        `accuracy`, shares of 1, and `cross_entropy` in nats, NaN or infinite where answers are.

    Raises:
        ValueError: for an argument that does not fit.
    """
    (images, labels), seed = checked(network, images, labels), integer("seed", seed, 0)
    deviations, draws = numbers("deviations", deviations, 0), range(integer("draws", draws))
    evaluation = Evaluation(network, noisy_variables(network, variables), batch_size)
    noisy = functools.partial(_noisy, evaluation.variables, deviations, relative)
    found = [[evaluation(images, labels, values) for values in noisy([seed, d])] for d in draws]
    return by_measure(evaluation.names, np.swapaxes(found, 0, 1))


def noisy_variables(network, variables="kernels"):
    """Returns the list of variables that `weight_noise` adds noise to; see there."""
    if variables not in VARIABLES:
        raise ValueError(
            f"`variables` must be one of {VARIABLES}. Received: variables={variables!r}"
        )
    if variables == "trainable":
        return network.trainable_weights
    floats = [weight for weight in network.weights if "float" in weight.dtype]
    return [weight for weight in floats if len(weight.shape) >= 2]


def _noisy(variables, deviations, relative, seeds):
    """Yields the values of the variables with one draw of noise, at each level of it."""
    own = [scopes.value_of(variable) for variable in variables]
    generator, noise = np.random.default_rng(seeds), []
    for value in own:
        drawn = generator.standard_normal(tuple(value.shape), "float32")
        if relative:
            size = np.sqrt(np.mean(np.square(ops.convert_to_numpy(value).astype("float64"))))
            drawn = drawn * np.float32(size)
        noise.append(ops.convert_to_tensor(drawn))
    for deviation in deviations:
        yield [value + ops.cast(float(deviation) * e, value.dtype) for value, e in zip(own, noise)]
