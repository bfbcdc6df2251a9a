"""The graph of a functional model: its nodes in order, its cut points, what lies nested.

Keras shows a functional model's layers, but a layer may be called several times, and a call
may have several inputs; what an exit can stand on and what it costs are questions about calls.
"""

import numbers

import keras

from sd_keras import keras_internals


def as_functional(model):
    """Returns the functional model that `model` is or, as a built Sequential, holds.

    None if it is neither: a subclassed model has no graph, one with a `call` of its own does
    more than its graph, and a Sequential has none whose layers do not take symbolic tensors.
    """
    is_sequential = isinstance(model, keras.Sequential)
    is_functional = isinstance(model, keras.Model) and hasattr(model, "operations")
    if not (is_sequential or is_functional):
        return None
    if not keras_internals.module_of(type(model).call).startswith("models."):
        return None
    if not is_sequential:
        return model
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    return keras.Model(
        model.inputs[0], outputs[0] if len(outputs) == 1 else outputs, name=model.name
    )


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
    by_depth = keras_internals.nodes_by_depth(model)
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


def live_tensors(nodes, outputs):
    """Returns for each node the ids of the tensors that are needed after it."""
    last = {id(t): index for index, node in enumerate(nodes) for t in node.input_tensors}
    last |= {id(tensor): len(nodes) for tensor in outputs}
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
        node = keras_internals.node_of(waiting.pop())
        if id(node) not in seen:
            seen.add(id(node))
            found[id(node.operation)] = node.operation
            waiting += node.input_tensors
    return list(found.values())


def all_operations(model):
    """Returns the operations of a functional model and of the models nested in it."""
    found = []
    for operation in model.operations:
        inner = as_functional(operation)
        found += [operation, *(all_operations(inner) if inner is not None else [])]
    return found
