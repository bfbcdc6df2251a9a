"""What a network costs and how well each of its exits answers."""

import keras
import numpy as np

from sd_keras import graph
from sd_keras.costs import Measured, one_image, parameters
from sd_keras.inference import ensemble_logits
from sd_keras.models.exits import exit_names


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
    return {name: _cost_row(measured, outputs) for name, outputs in wanted.items()}


def _cost_row(measured, outputs):
    total = measured.total(outputs)
    trained, moving = parameters(graph.ancestors(measured.nodes, outputs))
    return {
        "macs": total.macs,
        "flops": 2 * total.macs,
        "parameters": trained,
        "non_trainable": moving,
        "activations": total.activations,
        "peak_activation_bytes": total.peak,
    }


def evaluate_exits(network, images, labels, batch_size=256, bins=15):
    """Measures each exit and the ensemble on labelled images.

    Args:
        network: made by `attach_exits`.
        images: `(n, h, w, c)`, raw pixels.
        labels: class numbers `(n,)`.
        batch_size: images per forward pass.
        bins: of the calibration error.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` to a dict with `accuracy`, `top_5`
        (shares of 1; top_5 is 1 with at most 5 classes), `cross_entropy` (nats) and
        `calibration_error` (see `calibration_error`).
    """
    names = exit_names(network)
    outputs = network.predict(images, batch_size=batch_size, verbose=0)
    logits = {name: outputs[name] for name in names}
    logits["ensemble"] = keras.ops.convert_to_numpy(ensemble_logits(list(logits.values())))
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ValueError(
            "`network` gives logits that are not finite: its training went wrong. "
            f"Received: network {network.name!r}"
        )
    labels = np.asarray(labels)
    classes = logits["ensemble"].shape[1]
    if labels.shape not in ((len(images),), (len(images), 1)) or not (
        labels.min() >= 0 and labels.max() < classes
    ):
        raise ValueError(
            f"`labels` must be class numbers 0…{classes - 1}, one per image ({len(images)},). "
            f"Received: labels of shape {labels.shape} from {labels.min()} to {labels.max()}"
        )
    labels = labels.reshape(-1)
    return {name: _measure(values, labels, bins) for name, values in logits.items()}


def _measure(logits, labels, bins):
    logits = logits.astype("float64")
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    true = log_probabilities[np.arange(len(labels)), labels]
    # Rank of the true class; among equals the lower class number comes first, as in argmax.
    equal = log_probabilities == true[:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((log_probabilities > true[:, None]) | (equal & before)).sum(1)
    predicted = log_probabilities.argmax(1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "top_5": float((rank < 5).mean()),
        "cross_entropy": float(-true.mean()),
        "calibration_error": calibration_error(np.exp(log_probabilities), labels, bins),
    }


def calibration_error(probabilities, labels, bins=15):
    """Expected calibration error (Guo et al. 2017, eq. 3), equally wide bins.

    Args:
        probabilities: `(n, classes)`.
        labels: class numbers `(n,)`.
        bins: number of bins of the confidence.

    Returns:
        Mean gap between confidence and accuracy over the bins, weighted by their size; 0…1.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
