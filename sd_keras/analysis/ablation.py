"""How far an exit relies on single features: answers with some of them switched off."""

import keras
import numpy as np

from sd_keras import keras_internals, scopes
from sd_keras.analysis.evaluation import checked
from sd_keras.analysis.inputs import features_by_exit, integer, numbers
from sd_keras.inference.arrays import blocks
from sd_keras.models.exits import exit_names

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
    outputs = network.predict(images, batch_size=batch_size, verbose=0)
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
