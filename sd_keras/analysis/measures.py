"""How well each exit of a network answers, and what it costs."""

import numpy as np

from sd_keras import graph
from sd_keras.analysis.inputs import checked, logits_with_ensemble
from sd_keras.analysis.predictions import weighted_gap
from sd_keras.costs import Measured, one_image, parameters
from sd_keras.data.stream import saying_why
from sd_keras.inference.arrays import class_numbers, log_softmax
from sd_keras.inference.compiled import predict
from sd_keras.models.exits import exit_names


def evaluate_exits(network, images, labels=None, batch_size=256, bins=15):
    """Measures each exit and the ensemble on labelled images.

    Args:
        network: made by `attach_exits`.
        images: `(n, h, w, c)`, raw pixels; or a `sd_keras.data.Stream`, read from its beginning
            without the images that are bad.
        labels: class numbers `(n,)`; None for a Stream.
        batch_size: images per forward pass; a Stream has its own.
        bins: of the calibration error.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict with `accuracy`, `top_5`
        (shares of 1; top_5 is 1 with at most 5 classes), `cross_entropy` (nats) and
        `calibration_error` (see `calibration_error`).

    Raises:
        ValueError: for labels that do not fit, logits that are not finite, or a Stream with
            too many bad images.
    """
    if labels is None:
        if not hasattr(images, "dataset"):
            raise ValueError(
                "`labels` must be class numbers (n,), unless `images` is a sd_keras.data.Stream. "
                f"Received: labels=None, images of type {type(images).__name__}"
            )
        parts = []
        with saying_why(images):
            for batch, numbers, weights in images.dataset().as_numpy_iterator():
                usable = weights > 0
                if usable.any():  # else the batch holds a grey image in place of its bad ones
                    outputs = predict(network, batch[usable])
                    parts.append(_answers(network, outputs, numbers[usable]))
    else:
        images, labels = checked(network, images, labels)
        outputs = predict(network, images, batch_size)
        parts = [_answers(network, outputs, labels)]
    names = [*exit_names(network), "ensemble"]
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}
    return {name: _measures(values, bins) for name, values in joined.items()}


def evaluate_logits(logits, labels, bins=15):
    """Measures each exit and the ensemble from logits that are there already.

    Args:
        logits: `{"exit_1": (n, classes), …}`; other names are left out.
        labels: class numbers `(n,)`.
        bins: of the calibration error.

    Returns:
        The dict of `evaluate_exits`.

    Raises:
        ValueError: for logits or labels that do not fit, or logits that are not finite.
    """
    named = logits_with_ensemble(logits)
    labels = class_numbers(labels, *named["ensemble"].shape)
    return {name: _measures(_answer(values, labels), bins) for name, values in named.items()}


def _answers(network, outputs, labels):
    """Returns by exit what `_measures` needs of each image: `(4, n)`."""
    logits = {name: np.asarray(outputs[name]) for name in exit_names(network)}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ValueError(
            "`network` gives logits that are not finite: its training went wrong. "
            f"Received: network {network.name!r}"
        )
    named = logits_with_ensemble(logits)
    return {name: _answer(values, labels) for name, values in named.items()}


def _answer(logits, labels):
    """Returns log probability and rank of the true class, confidence and correctness."""
    log_probabilities = log_softmax(logits)
    true = log_probabilities[np.arange(len(labels)), labels]
    # Rank of the true class; among equals the lower class number comes first, as in argmax.
    equal = log_probabilities == true[:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((log_probabilities > true[:, None]) | (equal & before)).sum(1)
    correct = log_probabilities.argmax(1) == labels
    return np.stack([true, rank, np.exp(log_probabilities).max(1), correct])


def _measures(answers, bins):
    true, rank, confidence, correct = answers
    return {
        "accuracy": float(correct.mean()),
        "top_5": float((rank < 5).mean()),
        "cross_entropy": float(-true.mean()),
        "calibration_error": weighted_gap(confidence, correct, bins),
    }


def costs(network, input_shape=None):
    """Counts what each exit costs for one image.

    A multiply-accumulate is one product of a convolution or Dense kernel or of a matrix
    product; biases, normalisation, activations and pooling are left out, as the papers
    count. The cost of an exit holds its own bottleneck and classifier and no shallower
    exit's.

    Args:
        network: functional model, made by `attach_exits` or any other.
        input_shape: size of the image, where the network takes any.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` (the whole network), of a model without
        exits from `network` alone, to a dict with `macs`; `flops`, two per
        multiply-accumulate; `parameters` (trainable or frozen) and `non_trainable` (moving
        statistics); `activations`, the elements that convolutions, Dense layers and matrix
        products put out (Radosavovic et al. 2020); and `peak_activation_bytes`, all tensors
        that are needed at the worst moment, computed layer by layer and nothing in place.

    Raises:
        ValueError: if the model has no graph or unknown input size, or for a layer that
            cannot be counted.
    """
    functional = graph.as_functional(network)
    if functional is None:
        raise ValueError(
            "`network` must be a functional or a built Sequential keras.Model. "
            f"Received: network of type {type(network).__name__}"
        )
    wanted = {"network": functional.outputs}
    if isinstance(functional.output, dict) and "exit_1" in functional.output:
        wanted = {name: [functional.output[name]] for name in exit_names(functional)}
        wanted["ensemble"] = list(functional.outputs)
    measured = Measured(functional, one_image(functional, input_shape))
    rows = {}
    for name, outputs in wanted.items():
        total = measured.total(outputs)
        trained, moving = parameters(graph.ancestors(measured.nodes, outputs))
        rows[name] = {
            "macs": total.macs,
            "flops": 2 * total.macs,
            "parameters": trained,
            "non_trainable": moving,
            "activations": total.activations,
            "peak_activation_bytes": total.peak,
        }
    return rows
