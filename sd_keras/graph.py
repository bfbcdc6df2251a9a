"""The graph behind a functional model: its nodes in order, its cut points, what lies nested.

Keras shows a functional model's layers, but a layer may be called several times, and a call
may have several inputs; what an exit can stand on and what it costs are questions about calls.
"""

import numbers

import keras
from keras import tree


def as_functional(model):
    """Returns the functional model that `model` is or, as a built Sequential, holds.

    None if it is neither: a subclassed model has no graph.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            return None
        output = model.outputs[0] if len(model.outputs) == 1 else model.outputs
        return keras.Model(model.inputs[0], output, name=model.name)
    return model if isinstance(model, keras.Model) and hasattr(model, "operations") else None


def known_shapes(model, input_shape=None, called="network"):
    """Returns the shapes of a functional model's inputs without the batch, all sizes known.

    Args:
        model: functional model.
        input_shape: shape to take where the model's own, of its one input, leaves it open.
        called: what messages call the model.

    Raises:
        ValueError: if it does not fit, or a size stays unknown.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if input_shape is not None:
        own = shapes[0]
        given = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
        fits = len(shapes) == 1 and len(given) == len(own)
        fits = fits and all(a in (None, b) for a, b in zip(own, given))
        known = [size for size in given if size is not None]
        if not fits or not all(isinstance(n, numbers.Integral) and n > 0 for n in known):
            raise ValueError(
                f"`input_shape` must fit the {called}'s input {own}. "
                f"Received: input_shape={input_shape!r}"
            )
        shapes = [given]
    if any(None in shape for shape in shapes):
        raise ValueError(
            f"`input_shape` must be given, because the `{called}` must take inputs of a known "
            f"size. Received: input_shape={input_shape!r} and a {called} with inputs {shapes}"
        )
    return shapes


def nodes_of(model):
    """Returns the calls of a functional model in the order in which they are computed.

    Each has `operation`, `input_tensors`, `output_tensors` and `arguments`.
    """
    by_depth = model._nodes_by_depth
    ordered = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in ordered if not node.is_input]


def ancestors(nodes, tensors):
    """Returns those of the ordered `nodes` that have to be computed for `tensors`."""
    wanted, kept = {id(tensor) for tensor in tensors}, []
    for node in reversed(nodes):
        if any(id(tensor) in wanted for tensor in node.output_tensors):
            kept.append(node)
            wanted.update(id(tensor) for tensor in node.input_tensors)
    return kept[::-1]


def last_uses(nodes, outputs):
    """Returns, by id of a tensor, the index of the last node that reads it."""
    uses = {id(t): index for index, node in enumerate(nodes) for t in node.input_tensors}
    return uses | {id(tensor): len(nodes) for tensor in outputs}


def live_tensors(nodes, outputs):
    """Returns for each node the ids of the tensors that are needed after it."""
    last = last_uses(nodes, outputs)
    made = {id(t) for node in nodes for t in node.output_tensors}
    live, found = set(last) - made, []
    for index, node in enumerate(nodes):
        own = {id(tensor) for tensor in node.output_tensors}
        live = {tensor for tensor in live | own if last.get(tensor, -1) > index}
        found.append(live)
    return found


def operations_before(tensor):
    """Returns the operations that a symbolic tensor is made by, in no order."""
    found, seen, waiting = {}, set(), [tensor]
    while waiting:
        operation, index, _ = waiting.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) not in seen:
            seen.add(id(node))
            found[id(operation)] = operation
            waiting += node.input_tensors
    return list(found.values())


def all_operations(model):
    """Returns the operations of a functional model and of the models nested in it."""
    found = []
    for operation in model.operations:
        inner = as_functional(operation)
        found += [operation, *(all_operations(inner) if inner is not None else [])]
    return found


def is_openable(operation):
    """Tells whether a call of this operation can be replaced by the calls inside it.

    That is a nested functional model, or a layer that only chains other layers: its own
    variables would be lost from the graph.
    """
    if as_functional(operation) is not None:
        return True
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.Model):
        return False
    own = [*operation._trainable_variables, *operation._non_trainable_variables]
    stock = type(operation).__module__.startswith("keras.src.")
    holds_layers = bool(operation._flatten_layers(include_self=False, recursive=False))
    return holds_layers and not own and not stock


def replay(model, inputs, opens):
    """Calls a functional model's layers again, on other inputs.

    Args:
        model: functional model.
        inputs: symbolic tensors in place of `model.inputs`.
        opens: function of an operation that tells whether to call what is inside it.

    Returns:
        A dict from the id of each tensor of the model to the tensor in its place.
    """
    tensors = {id(old): new for old, new in zip(model.inputs, inputs)}
    for node in nodes_of(model):
        args, kwargs = node.arguments.fill_in(tensors)
        call = _call_inside if opens(node.operation) else _call
        outputs = call(node.operation, args, kwargs, opens)
        tensors |= {id(old): new for old, new in zip(node.output_tensors, tree.flatten(outputs))}
    return tensors


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


def _call(operation, args, kwargs, opens):
    del opens
    return operation(*args, **kwargs)


def _call_inside(operation, args, kwargs, opens):
    model = as_functional(operation)
    if model is not None:
        flat = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        tensors = replay(model, flat, opens)
        return [tensors[id(tensor)] for tensor in model.outputs]

    def in_own_precision(tensor):
        is_float = isinstance(tensor, keras.KerasTensor) and "float" in tensor.dtype
        if not is_float or not operation.autocast or tensor.dtype == operation.compute_dtype:
            return tensor
        return keras.ops.cast(tensor, operation.compute_dtype)

    args, kwargs = tree.map_structure(in_own_precision, (args, kwargs))
    return operation.call(*args, **kwargs)
