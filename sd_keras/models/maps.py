"""Feature maps of a network: what stands where its resolution is about to change."""

import keras

from sd_keras import graph, keras_internals
from sd_keras.models.body import body_of, grid, is_channels_first, is_map, makers, stage_names
from sd_keras.models.placement import taps


def logits_of(network, argument):
    """Returns the logits of a network: of its deepest exit, or its only output.

    Args:
        network: made by `attach_exits`, or any functional model that gives logits `(n, classes)`.
        argument: what the error names.
    """
    if hasattr(network, "network"):
        raise ValueError(
            f"`{argument}` must be the network itself: pass model.network. "
            f"Received: {argument} of type {type(network).__name__}"
        )
    functional = graph.as_functional(network)
    output = getattr(functional, "output", None)
    if isinstance(output, dict):
        names = [name for name in output if name.startswith("exit_")]
        output = output[max(names, key=lambda n: int(n.removeprefix("exit_")))] if names else None
    if not isinstance(output, keras.KerasTensor) or len(output.shape) != 2:
        raise ValueError(
            f"`{argument}` must be a network of attach_exits or a functional keras.Model with one "
            f"output, logits (n, classes). Received: {argument} of type "
            f"{type(network).__name__} with output {getattr(functional, 'output', None)}"
        )
    last = keras_internals.operation_of(output)
    activation = getattr(last, "activation", None)
    softmax = activation is keras.activations.softmax or "softmax" in type(last).__name__.lower()
    if softmax:
        raise ValueError(
            f"`{argument}` must give logits, without softmax: for instance "
            f"classifier_activation=None. Received: {argument} that ends in {last.name!r}"
        )
    return output


def feature_maps(network, argument="network"):
    """Returns the last feature map of each resolution, from large to small.

    Of the ends of stages: the layers called `stage_1`, `stage_2`, …, or where exits would stand.

    Args:
        network: as `logits_of`.
        argument: what the error names.

    Returns:
        A dict from `(height, width)` to a symbolic tensor of the network.
    """
    nodes = graph.ancestors(graph.nodes_of(graph.as_functional(network)), [logits_of(network, "")])
    made_by = makers(nodes)
    named = {node.operation.name: node.output_tensors[0] for node in nodes}
    found = [named[name] for name in stage_names(named)] or _where_exits_would_stand(network, nodes)
    found = [tensor for tensor in found if is_map(tensor)]
    if not found or any(is_channels_first(tensor, made_by) for tensor in found):
        raise ValueError(
            f"`{argument}` must have feature maps (n, height, width, channels) of known size, at "
            "best behind layers called stage_1, stage_2, …. "
            f"Received: {argument} {network.name!r} with {[t.shape for t in found]}"
        )
    return {tuple(grid(tensor, made_by)): tensor for tensor in found}


def _where_exits_would_stand(network, nodes):
    """The cut points of a network without named stages, and its last map."""
    maps = [t for node in nodes for t in node.output_tensors if is_map(t)]
    if not maps:
        return []
    body = body_of(keras.Model(graph.as_functional(network).inputs[0], maps[-1]), None)
    if body.output is not maps[-1]:
        return maps[-1:]  # nested models were laid open: other tensors than the network's
    try:
        return [*taps(body, None), maps[-1]]
    except ValueError:  # one resolution, or layers whose cost nobody knows
        return maps[-1:]
