"""Accuracy under perturbation: noise on the weights, disabled features, corrupted images."""

import functools
import itertools

import keras
import numpy as np
from keras import ops

from sd_keras import corruptions, keras_internals, scopes
from sd_keras.analysis.inputs import (
    Evaluation,
    by_measure,
    checked,
    features_by_exit,
    integer,
    numbers,
)
from sd_keras.inference.arrays import blocks
from sd_keras.inference.compiled import predict
from sd_keras.models.exits import exit_names

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
    if variables not in VARIABLES:
        raise ValueError(
            f"`variables` must be one of {VARIABLES}. Received: variables={variables!r}"
        )
    changed = network.trainable_weights
    if variables == "kernels":
        changed = [w for w in network.weights if "float" in w.dtype and len(w.shape) >= 2]
    evaluation = Evaluation(network, changed, batch_size)
    noisy = functools.partial(_noisy, evaluation.variables, deviations, relative)
    found = [[evaluation(images, labels, values) for values in noisy([seed, d])] for d in draws]
    return by_measure(evaluation.names, np.swapaxes(found, 0, 1))


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


REPLACEMENTS = ("zero", "mean")
# Logits held at once, per block of images: draws beyond are worked off in turn.
MOST_LOGITS = 4_000_000


def unit_ablation(
    network, images, labels, shares, draws=10, seed=0, replace="zero", batch_size=256
):
    """Accuracy of each exit with growing random sets of its features switched off.

    A network that relies on single directions loses accuracy sooner (Morcos et al. 2018, who
    switch off feature maps of any layer); whether distillation between views lessens that is a
    question DDGSD closes with. A draw is one order of an exit's features, whose first ones are
    switched off, so its sets grow. The features are computed once, then only the classifier.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)`.
        labels: class numbers `(n,)`.
        shares: of the exit's features, 0…1, `(k,)`; rounded to whole features.
        draws: orders of the features.
        seed: of the orders, which exits of as many features have in common.
        replace: by what a feature is replaced, `"zero"` or its `"mean"` over the images.
        batch_size: images per forward pass.

    Returns:
        A dict from `exit_1 … exit_C` to arrays `(k, draws)` of accuracies, shares of 1.

    Raises:
        ValueError: for an argument that does not fit, or an exit without a Dense classifier.
    """
    images, labels = checked(network, images, labels)
    shares = numbers("shares", shares, 0, 1)
    draws = integer("draws", draws)
    if replace not in REPLACEMENTS:
        raise ValueError(f"`replace` must be one of {REPLACEMENTS}. Received: replace={replace!r}")
    classifiers = {name: _classifier(network, name) for name in exit_names(network)}
    outputs = predict(network, images, batch_size)
    found = {}
    for name, features in features_by_exit(outputs).items():
        off = _switched_off(features.shape[1], shares, draws, seed)
        values = features.mean(axis=0) if replace == "mean" else np.zeros(features.shape[1])
        parts = (features.astype("float32"), values, *classifiers[name], labels)
        found[name] = np.stack([_accuracies(each, *parts) for each in off])
    return found


def _switched_off(count, shares, draws, seed):
    """Returns by share which of so many features are off in each draw, `(draws, count)`."""
    generator = np.random.default_rng(integer("seed", seed, 0))
    ranks = np.stack([generator.permutation(count) for _ in range(draws)])
    return [ranks < round(share * count) for share in shares]


def _accuracies(off, features, values, kernel, bias, labels):
    """Returns accuracies `(draws,)` with the features of `off` `(draws, d)` replaced."""
    classes = kernel.shape[1]
    step = max(1, MOST_LOGITS // (min(len(labels), 4096) * classes))
    right = np.zeros(len(off))
    for start in range(0, len(off), step):
        some = off[start : start + step]
        # One product for all draws: a kernel for each, side by side.
        kernels = np.where(some[:, :, None], 0, kernel[None])
        joined = kernels.transpose(1, 0, 2).reshape(len(kernel), -1).astype("float32")
        biases = bias + (some * values) @ kernel
        for block in blocks(len(labels)):
            logits = (features[block] @ joined).reshape(-1, len(some), classes) + biases
            right[start : start + step] += (logits.argmax(axis=2) == labels[block, None]).sum(
                axis=0
            )
    return right / len(labels)


def _classifier(network, name):
    """Returns kernel `(d, classes)` and bias `(classes,)` of an exit."""
    dense = keras_internals.operation_of(network.output[name])
    if not isinstance(dense, keras.layers.Dense):
        raise ValueError(
            "`network` must have a Dense layer as the classifier of every exit. "
            f"Received: {name} from a layer of type {type(dense).__name__}"
        )
    kernel = keras.ops.convert_to_numpy(scopes.value_of(dense.kernel)).astype("float64")
    if dense.bias is None:
        return kernel, np.zeros(kernel.shape[1])
    return kernel, keras.ops.convert_to_numpy(scopes.value_of(dense.bias)).astype("float64")


def robustness(
    network, images, labels, kinds=None, severities=corruptions.SEVERITIES, seed=0, batch_size=256
):
    """Accuracy and cross entropy under corruptions the network was not trained on.

    The kinds are those of Hendrycks & Dietterich 2019, made here with parameters of our own
    (see `sd_keras.corruptions`): networks compare, published figures on CIFAR-100-C do not.

    Args:
        network: made by `attach_exits`.
        images: raw pixels `(n, h, w, c)` uint8, 1 or 3 channels.
        labels: class numbers `(n,)`.
        kinds: of `corruptions.KINDS`; None for all 15.
        severities: integers 1…5.
        seed: of the corruptions, drawn alike for each severity.
        batch_size: images per forward pass.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict of `accuracy` (shares of 1) and
        `cross_entropy` (nats), arrays `(kinds, severities)`, and `clean_accuracy` and
        `clean_cross_entropy`, numbers.

    Raises:
        ValueError: for an argument that does not fit.
    """
    images, labels = checked(network, images, labels)
    kinds, severities = list(corruptions.KINDS if kinds is None else kinds), list(severities)
    for kind, severity in itertools.product(kinds, severities):
        corruptions.check(images, kind, severity, seed)
    evaluation = Evaluation(network, batch_size=batch_size)
    clean = evaluation(images, labels)
    found = [
        [evaluation(corruptions.corrupt(images, kind, s, seed), labels) for s in severities]
        for kind in kinds
    ]
    whole = by_measure(evaluation.names, clean)
    return {
        name: own | {f"clean_{key}": float(value) for key, value in whole[name].items()}
        for name, own in by_measure(evaluation.names, np.array(found)).items()
    }
