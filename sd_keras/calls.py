"""Calls of layers made again: on other inputs, or as the calls that lie inside them."""

import keras
from keras import tree

from sd_keras import graph, keras_internals


def is_openable(operation):
    """Returns whether a call of this operation can be replaced by the calls inside it.

    That is a nested functional model, or a layer that only chains other layers: its own
    variables would be lost from the graph.
    """
    if graph.as_functional(operation) is not None:
        return True
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.Model):
        return False
    if keras_internals.module_of(type(operation)) or any(keras_internals.own_variables(operation)):
        return False
    return bool(keras_internals.flatten_layers(operation, include_self=False, recursive=False))


def call_itself(operation, args, kwargs):
    """Calls an operation; how `replay` does, where it is not told otherwise."""
    return operation(*args, **kwargs)


def replay(model, inputs, opens, call=call_itself):
    """Calls a functional model's layers again, on other inputs.

    Args:
        model: functional model.
        inputs: symbolic tensors in place of `model.inputs`.
        opens: function of an operation that tells whether to call what is inside it.
        call: function of any other operation, its positional and its keyword arguments that
            returns its outputs, or those of what takes its place.

    Returns:
        A dict from the id of each tensor of the model to the tensor in its place.
    """
    tensors = {id(old): new for old, new in zip(model.inputs, inputs)}
    return replay_nodes(graph.nodes_of(model), tensors, opens, call)


def replay_nodes(nodes, tensors, opens=lambda operation: False, call=call_itself):
    """As `replay`, for nodes in the order of a model that read these tensors or each other.

    Args:
        nodes: as `graph.nodes_of` returns them.
        tensors: dict from the ids of tensors that the nodes read to what takes their places.
        opens, call: as `replay`.
    """
    tensors = dict(tensors)
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        if opens(node.operation):
            outputs = _call_inside(node.operation, args, kwargs, opens, call)
        else:
            outputs = call(node.operation, args, kwargs)
        tensors |= {id(old): new for old, new in zip(node.output_tensors, tree.flatten(outputs))}
    return tensors


def given_inputs(model, args, kwargs):
    """Returns the tensors of a call of a functional model in the order of its inputs."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(first, dict) and not isinstance(model.input, dict):
        return [first[tensor.name] for tensor in model.inputs]
    return [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]


def acts_otherwise_in_training(layer):
    """Returns whether a layer that chains others chains them otherwise in training.

    A graph of its calls holds one way only. Noise of its own, for instance: other layers, like
    Dropout, know by themselves whether they train.
    """
    if keras_internals.seed_generators(layer):
        return True
    if not keras_internals.takes_training(layer):
        return False
    arguments = keras_internals.inbound_nodes(layer)[0].arguments
    kinds = []
    for training in (True, False):
        kwargs = arguments.kwargs | {"training": training}
        function = inside(layer, arguments.args, kwargs)
        called = [node.operation for node in graph.nodes_of(function)]
        # Layers are the same objects again; other operations are new, under new names.
        kinds.append([o if isinstance(o, keras.Layer) else type(o) for o in called])
        forget(function)
    return kinds[0] != kinds[1]


def forget(function):
    """Takes the calls of a function from its layers, which may be a network's own."""
    for node in graph.nodes_of(function):
        makers = [keras_internals.operation_of(tensor) for tensor in node.input_tensors]
        lists = [keras_internals.inbound_nodes(node.operation)]
        lists += [keras_internals.outbound_nodes(maker) for maker in makers]
        for calls in lists:
            if node in calls:
                calls.remove(node)


def inside(operation, args, kwargs):
    """Returns what one call of a layer does as a `keras.Function`.

    Args:
        operation: the layer.
        args, kwargs: arguments of its call, specifications in place of tensors.

    Raises whatever the layer does when it meets symbolic tensors.
    """
    inputs = []

    def stand_in(value):
        if not isinstance(value, keras.KerasTensor):
            return value
        inputs.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
        return inputs[-1]

    args, kwargs = tree.map_structure(stand_in, (args, kwargs))
    return keras.Function(inputs, _call_inside(operation, args, kwargs, lambda inner: False))


def _call_inside(operation, args, kwargs, opens, call=call_itself):
    model = graph.as_functional(operation)
    if model is not None:
        # A model casts what it is given to what it was built for.
        pairs = zip(given_inputs(model, args, kwargs), model.inputs)
        given = [t if t.dtype == own.dtype else keras.ops.cast(t, own.dtype) for t, own in pairs]
        tensors = replay(model, given, opens, call)
        return [tensors[id(tensor)] for tensor in model.outputs]

    def in_own_precision(tensor):
        is_float = isinstance(tensor, keras.KerasTensor) and "float" in tensor.dtype
        if not is_float or not operation.autocast or tensor.dtype == operation.compute_dtype:
            return tensor
        return keras.ops.cast(tensor, operation.compute_dtype)

    args, kwargs = tree.map_structure(in_own_precision, (args, kwargs))
    return operation.call(*args, **kwargs)
