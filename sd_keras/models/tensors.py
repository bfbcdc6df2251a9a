"""What a tensor of a network is: activated or raw, channels first or last, map or tokens."""

import math

import keras
from keras import layers

from sd_keras import graph, keras_internals
from sd_keras.layers import LocalResponseNormalization

# Layers that keep what is asked about their input.
PASSING_MODULES = (
    "layers.pooling",
    "layers.regularization",
    "layers.reshaping",
    "layers.core.identity",
)
# Layers whose argument `activation` is the last thing they do; a block's may lie within.
ACTIVATING_MODULES = (
    "layers.activations",
    "layers.convolutional",
    "layers.core",
)
ACTIVATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu"),
    *("Sigmoid", "HardSigmoid", "Tanh", "HardTanh", "Softplus"),
)


def is_map(tensor):
    """Tells whether a tensor is a feature map of known size."""
    return len(tensor.shape) == 4 and None not in tensor.shape[1:]


def makers(nodes):
    """Returns the node that makes each tensor, by the tensor's id."""
    return {id(tensor): node for node in nodes for tensor in node.output_tensors}


def is_activated(tensor, made_by):
    """Tells whether a nonlinearity other than softmax is the last thing done to a tensor.

    Pooling, dropout and the like are looked through; a sum or a normalisation is raw. A vector
    behind a sigmoid holds the probabilities of a classifier.
    """
    node = made_by.get(id(tensor))
    if node is None:
        return False
    operation = node.operation
    if isinstance(operation, (layers.Softmax, layers.Dot)):
        return False
    if (model := graph.as_functional(operation)) is not None:
        index = [id(each) for each in node.output_tensors].index(id(tensor))
        return is_activated(model.outputs[index], makers(graph.nodes_of(model)))
    kind = type(operation)
    linear = [None, keras.activations.linear, keras.activations.softmax]
    if len(tensor.shape) == 2:
        linear.append(keras.activations.sigmoid)
    ends_activated = any(
        keras_internals.module_of(base).startswith(ACTIVATING_MODULES) for base in kind.__mro__
    )
    if ends_activated and getattr(operation, "activation", None) not in linear:
        return True
    if isinstance(operation, (layers.ReLU, layers.PReLU, layers.LeakyReLU, layers.ELU)):
        return True
    if kind.__name__ in ACTIVATIONS and not isinstance(operation, keras.Layer):
        return True
    passing = keras_internals.module_of(kind).startswith(PASSING_MODULES)
    if passing or isinstance(operation, (layers.Concatenate, LocalResponseNormalization)):
        return all(is_activated(each, made_by) for each in node.input_tensors)
    return False


def is_channels_first(tensor, made_by):
    """Tells whether a feature map is `(n, channels, height, width)`.

    The layers before it know: the nearest convolution or pooling, or a permutation.
    """
    order = _stated_order(tensor, made_by) or keras.config.image_data_format()
    return order == "channels_first"


def _stated_order(tensor, made_by):
    """Returns `"channels_first"` or `"channels_last"`; None if no layer tells."""
    while (node := made_by.get(id(tensor))) is not None:
        operation = node.operation
        if isinstance(operation, layers.Permute) and len(operation.dims) == 3:
            return "channels_first" if operation.dims == (3, 1, 2) else "channels_last"
        order = getattr(operation, "data_format", None)
        if (model := graph.as_functional(operation)) is not None:
            order = _stated_order(model.outputs[0], makers(graph.nodes_of(model)))
        if order is not None:
            return order
        tensor = node.input_tensors[0]
    return None


def grid(tensor, made_by):
    """Returns height and width of a feature map; of tokens, the sides of their square."""
    if len(tensor.shape) == 3:
        return (math.isqrt(tensor.shape[1]),) * 2
    return tensor.shape[2:] if is_channels_first(tensor, made_by) else tensor.shape[1:3]


def channels(tensor, made_by):
    """Returns the channels of a feature map, the width of tokens or of a vector."""
    is_map = len(tensor.shape) == 4
    return tensor.shape[1 if is_map and is_channels_first(tensor, made_by) else -1]
