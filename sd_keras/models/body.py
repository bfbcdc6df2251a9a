"""The part of a backbone that exits stand on: its graph, and what each of its tensors is."""

import collections
import dataclasses
import functools
import math
import numbers
import re

import keras
from keras import layers

from sd_keras import calls, graph, keras_internals
from sd_keras.layers import LocalResponseNormalization

# Layers that keep what is asked about their input.
PASSING_MODULES = (
    "layers.pooling",
    "layers.regularization",
    "layers.reshaping",
    "layers.core.identity",
)
# Layers whose argument `activation` is the last thing they do; a block's may lie within.
ACTIVATING_MODULES = ("layers.activations", "layers.convolutional", "layers.core")
ACTIVATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu"),
    *("Sigmoid", "HardSigmoid", "Tanh", "HardTanh", "Softplus"),
)


def is_map(tensor):
    """Returns whether a tensor is a feature map of known size."""
    return len(tensor.shape) == 4 and None not in tensor.shape[1:]


def makers(nodes):
    """Returns the node that makes each tensor, by the tensor's id."""
    return {id(tensor): node for node in nodes for tensor in node.output_tensors}


def is_activated(tensor, made_by):
    """Returns whether a nonlinearity other than softmax is the last thing done to a tensor.

    Pooling, dropout and the like are looked through; a sum or a normalisation is raw. A vector
    after a sigmoid holds the probabilities of a classifier.
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
    """Returns whether a feature map is `(n, channels, height, width)`.

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


@dataclasses.dataclass
class Body:
    """A functional model of known input size with one output.

    Attributes:
        model: the functional model; its layers are the backbone's own.
        pyramid: tensors at which the backbone itself says that a level ends.
    """

    model: keras.Model
    pyramid: tuple = ()

    def __post_init__(self):
        self.output = self.model.outputs[0]
        self.nodes = graph.nodes_of(self.model)
        self.made_by = makers(self.nodes)
        self.tensors = {}
        for node in self.nodes:
            if len(node.output_tensors) == 1:
                self.tensors.setdefault(node.operation.name, []).append(node.output_tensors[0])

    @functools.cached_property
    def order(self):
        """The place of each tensor, by its id, in the order in which they are computed."""
        made = [tensor for node in self.nodes for tensor in node.output_tensors]
        return {id(tensor): index for index, tensor in enumerate(made)}

    @functools.cached_property
    def largest(self):
        """Height or width, whichever is less, of the largest feature map."""
        made = [tensor for node in self.nodes for tensor in node.output_tensors]
        return max(min(grid(each, self.made_by)) for each in made if is_map(each))

    @property
    def last_map(self):
        """The last feature map, or the output tokens."""
        maps = [t[0] for t in self.tensors.values() if is_map(t[0])]
        if len(self.output.shape) != 2 or not maps:
            return self.output
        return max(maps, key=lambda tensor: self.order[id(tensor)])


def stage_names(names):
    """Returns those of the names that are `stage_1`, `stage_2`, … in the order of numbers."""
    found = {int(match[1]): name for name in names if (match := re.fullmatch(r"stage_(\d+)", name))}
    return [found[number] for number in sorted(found)]


def parse_at(at):
    """Splits the argument `at` of `attach_exits` into layer names and shares of the cost.

    Returns:
        A pair of lists, one of them or both empty; `(None, None)` for `at=None`.
    """
    if at is None:
        return None, None
    if isinstance(at, numbers.Integral) and not isinstance(at, bool) and at >= 1:
        return [], [index / at for index in range(1, at)]
    if isinstance(at, (list, tuple)):
        if all(isinstance(place, str) for place in at):
            return list(at), []
        if all(isinstance(place, float) and 0 < place < 1 for place in at):
            if list(at) != sorted(set(at)):
                raise ValueError(
                    f"`at` must go from shallow to deep, each share once. Received: at={at!r}"
                )
            return [], list(at)
    raise ValueError(
        "`at` must be a list of names of layers, a list of shares of the cost (0 < share < 1), "
        f"or the number of exits. Received: at={at!r}"
    )


def body_of(backbone, at, input_shape=None):
    """Returns the body of a backbone.

    Args:
        backbone: functional or built Sequential model.
        at: as `attach_exits`; decides whether nested models have to be laid open.
        input_shape: size of the image, where the backbone takes any.
    """
    model = _with_one_end(backbone)
    (shape,) = graph.known_shapes(model, input_shape, "backbone")
    pyramid = _pyramid(backbone, model)
    opens = _opener(model, at)
    if opens is None and None not in model.inputs[0].shape[1:]:
        return _checked(Body(model, pyramid))
    old = model.inputs[0]
    image = keras.Input(shape, dtype=old.dtype, name=old.name)
    try:
        tensors = calls.replay(model, [image], opens or (lambda operation: False))
    except Exception as error:
        raise ValueError(
            f"`backbone` must take images {shape}, and all the layers in which exits may stand "
            "must pass on tensors only. Received: "
            f"backbone {model.name!r}, input_shape={input_shape!r}, at={at!r}; "
            # Keras prints some of its messages in bold.
            + re.sub("\x1b\\[\\d*m", "", str(error))
        ) from error
    pyramid = tuple(tensors[id(tensor)] for tensor in pyramid)
    output = tensors[id(model.output)]
    _check_names(graph.operations_before(output), model)
    return _checked(Body(keras.Model(image, output, name=model.name), pyramid))


def _with_one_end(backbone):
    """Returns the functional model of a backbone, with one input and one output."""
    model = graph.as_functional(backbone)
    if model is None or len(model.inputs) != 1 or not isinstance(model.output, keras.KerasTensor):
        raise ValueError(
            "`backbone` must be a functional keras.Model, or a Sequential one built by "
            "model.build((None, height, width, channels)), without a `call` of its own, with one "
            "input, that ends in one feature map. Received: backbone "
            f"of type {type(backbone).__name__} with inputs {getattr(model, 'inputs', None)} and "
            f"output {getattr(model, 'output', None)}"
        )
    return model


def _check_names(operations, model):
    """Checks that names are unique; gives others to operations that opening a layer made."""
    old = {id(operation) for operation in graph.all_operations(model)}
    counts = collections.Counter(operation.name for operation in operations)
    for operation in operations:
        is_new = id(operation) not in old and not isinstance(operation, keras.Layer)
        while is_new and counts[operation.name] > 1:
            # Keras counts names from the start again in each process and session.
            counts[operation.name] -= 1
            operation.name += "_opened"
            counts[operation.name] += 1
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            "`backbone` must have no two layers of the same name, also where models are nested. "
            f"Received: backbone {model.name!r} with two layers called {twice}"
        )


def _opener(model, at):
    """Returns the function that tells which operations to lay open; None if nothing has to be.

    Nested models; and layers that only chain other layers, if they hold a layer that is
    asked for, or most of the network (the encoder of a transformer).
    """
    names, shares = parse_at(at)
    visible = {node.operation.name for node in graph.nodes_of(model)}
    is_open = stage_names(visible) if at is None else not shares and set(names) <= visible
    if is_open:
        return None
    most = model.count_params() / 2

    def opens(operation):
        if graph.as_functional(operation) is not None:
            return True
        if not calls.is_openable(operation):
            return False
        inner = {
            layer.name for layer in keras_internals.flatten_layers(operation, include_self=False)
        }
        asked = inner & set(names or [])
        if not asked and operation.count_params() <= most:
            return False
        otherwise = calls.acts_otherwise_in_training(operation)
        if asked and otherwise:
            raise ValueError(
                "`at` must name no layer inside one that is called otherwise in training than "
                f"at inference, as {operation.name!r} of type {type(operation).__name__} is. "
                f"Received: at={at!r}"
            )
        return not otherwise

    return opens if any(opens(node.operation) for node in graph.nodes_of(model)) else None


def _pyramid(backbone, model):
    """The tensors that KerasHub and KerasCV backbones give as levels of a pyramid."""
    levels = getattr(backbone, "pyramid_outputs", None)
    if levels is None and (named := getattr(backbone, "pyramid_level_inputs", None)):
        known = {n.operation.name: n.output_tensors[0] for n in graph.nodes_of(model)}
        levels = {level: known.get(name) for level, name in named.items()}
    made = {id(t) for node in graph.nodes_of(model) for t in node.output_tensors}
    return tuple(t for t in (levels or {}).values() if id(t) in made)


def _checked(body):
    """Checks that the body ends in something an exit can stand on."""
    shape = body.output.shape
    if len(shape) in (3, 4) and None not in shape[1:]:
        return body
    is_hidden = len(shape) == 2 and is_activated(body.output, body.made_by)
    is_hidden = is_hidden and any(
        isinstance(operation, keras.layers.Dense) for operation in graph.all_operations(body.model)
    )
    if not is_hidden or len(body.last_map.shape) != 4:
        raise ValueError(
            "`backbone` must end in one feature map (n, height, width, channels), in tokens "
            "(n, tokens, width) or in hidden Dense layers with activation, without pooling and "
            "classifier: for instance include_top=False, or "
            "keras.Model(model.inputs, model.get_layer(NAME).output). "
            f"Received: backbone with output of shape {shape}"
        )
    return body
