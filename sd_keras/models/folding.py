"""Batch normalisations folded into the convolutions in front of them."""

from collections import Counter

import keras
import numpy as np
from keras import layers, ops

from sd_keras import graph, keras_internals
from sd_keras.layers import GroupConv2D
from sd_keras.models.copies import Copies, only_tensor, rebuild

# By where the last kernel has its output channels: in the last axis, or in the last two.
PLAIN = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense, layers.SeparableConv2D),
    GroupConv2D,
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def fold_normalizations(model):
    """Returns a copy of a functional model with fewer batch normalisations.

    A normalisation by moving statistics is a scale and an offset per channel (Jacob et al.
    2018, section 3.2): `kernel · γ / sqrt(variance + ε)` and
    `(bias − mean) · γ / sqrt(variance + ε) + β` give the same in the layer in front of it, if
    that is called once, has no activation, and nothing else reads its output.

    Args:
        model: functional model of Keras's own layers, without nested models.

    Returns:
        A functional model with the same inputs and outputs. The layers that were folded into
        keep their names.
    """
    pairs = foldable(model)
    norms = {id(norm) for _, norm in pairs}
    convolutions = {id(convolution): norm for convolution, norm in pairs}
    copies = Copies(keras_internals.operation_of(tensor).name for tensor in model.inputs)

    def call(operation, args, kwargs):
        if id(operation) in norms:
            return only_tensor(args, kwargs)
        if id(operation) in convolutions:
            copy = type(operation).from_config(_config(operation))
            copies.taken.add(copy.name)
            outputs = copy(*args, **kwargs)
            copy.set_weights(_folded(operation, convolutions[id(operation)]))
            return outputs
        return copies.call(operation, args, kwargs)

    return rebuild(model, call)


def foldable(model):
    """Returns the pairs of a layer and the batch normalisation that can be folded into it."""
    nodes = graph.nodes_of(model)
    makers = {id(tensor): node for node in nodes for tensor in node.output_tensors}
    # As often as a tensor is read and an operation called.
    reads = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    reads.update(id(tensor) for tensor in model.outputs)
    called = Counter(id(node.operation) for node in nodes)
    pairs = []
    for node in nodes:
        if type(node.operation) is not layers.BatchNormalization:
            continue
        (tensor,) = node.input_tensors
        maker = makers.get(id(tensor))
        if maker is None or not _fit(maker.operation, node.operation, len(tensor.shape)):
            continue
        once = called[id(maker.operation)] == called[id(node.operation)] == reads[id(tensor)] == 1
        if once and not node.arguments.kwargs.get("training"):
            pairs.append((maker.operation, node.operation))
    return pairs


def _fit(layer, norm, rank):
    """Tells whether a layer is linear and has its channels where they are normalised."""
    if type(layer) not in PLAIN + DEPTHWISE or layer.activation is not keras.activations.linear:
        return False
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return False
    first = getattr(layer, "data_format", None) == "channels_first"
    return norm.axis % rank == (1 if first else rank - 1)


def _config(layer):
    """Returns the config of the layer that a normalisation is folded into."""
    config = layer.get_config()
    training = {name: None for name in config if name.endswith(("_regularizer", "_constraint"))}
    return config | training | {"use_bias": True, "bias_initializer": "zeros"}


def _folded(layer, norm):
    """Returns the weights of a layer with a normalisation in them."""
    mean, variance = _numpy(norm.moving_mean), _numpy(norm.moving_variance)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= _numpy(norm.gamma)
    kernels = [_numpy(weight) for weight in layer.weights]
    bias = kernels.pop() if layer.use_bias else 0.0
    shape = kernels[-1].shape[-2:] if type(layer) in DEPTHWISE else scale.shape
    kernels[-1] = kernels[-1] * scale.reshape(shape)
    offset = (bias - mean) * scale
    if norm.center:
        offset += _numpy(norm.beta)
    return [weight.astype("float32") for weight in (*kernels, offset)]


def _numpy(variable):
    return ops.convert_to_numpy(variable.value).astype("float64")
