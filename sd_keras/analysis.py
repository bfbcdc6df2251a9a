"""What a network costs and how well each of its exits answers."""

import math

import keras
import numpy as np

from sd_keras.inference import ensemble_logits
from sd_keras.models.exits import exit_names, submodel

# Layers without multiply-accumulates of the kind counted here.
FREE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.InputLayer,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.ZeroPadding2D,
)


def costs(network):
    """Counts parameters and multiply-accumulates up to each exit.

    A multiply-accumulate is one product of a convolution or Dense kernel, for one image;
    biases, normalisation, activations and pooling are left out, as the papers count. The
    cost of an exit holds its own bottleneck and classifier and no shallower exit's.

    Args:
        network: functional model, made by `attach_exits`.

    Returns:
        A dict from `exit_1 … exit_C` and `ensemble` (the whole network) to a dict with
        `macs`, `parameters` (trainable) and `non_trainable` (moving statistics).

    Raises:
        ValueError: for a layer with weights that this function cannot count.
    """
    names = exit_names(network)
    models = {name: submodel(network, name) for name in names} | {"ensemble": network}
    return {
        name: {
            "macs": sum(layer_macs(layer) for layer in model.layers),
            "parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
            "non_trainable": sum(math.prod(w.shape) for w in model.non_trainable_weights),
        }
        for name, model in models.items()
    }


def layer_macs(layer):
    """Returns the multiply-accumulates of one layer for one image.

    Args:
        layer: a built layer of a functional model, called once; a layer made of layers
            counts as their sum.

    Raises:
        ValueError: for a layer with weights whose count is not known.
    """
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        positions = math.prod(layer.output.shape[1:-1])
        return positions * math.prod(layer.kernel.shape)
    if hasattr(layer, "blocks"):
        # A layer that chains others: the same chain on symbolic tensors tells their shapes.
        tensor = keras.Input(layer.input.shape[1:])
        total = 0
        for block in layer.blocks:
            output_shape = block.compute_output_shape((1, *tensor.shape[1:]))
            if isinstance(block, keras.layers.Conv2D):
                total += math.prod(output_shape[1:-1]) * math.prod(block.kernel.shape)
            tensor = keras.Input(output_shape[1:])
        return total
    if layer.weights and not isinstance(layer, FREE):
        raise ValueError(
            "`network` holds a layer whose cost cannot be counted. "
            f"Received: layer {layer.name} of type {type(layer).__name__}"
        )
    return 0


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
