"""A network in sections: what each exit needs beyond the one before it."""

import keras
from keras import tree

from sd_keras import calls, graph
from sd_keras.models.exits import exit_names
from sd_keras.models.stock import new_input


def sections(network):
    """Cuts a network into a chain of models, one an exit, that computes nothing twice.

    The k-th model holds what exit k needs and the exits before it do not: a section of the
    backbone, and the exit's bottleneck and classifier. To answer at exit k, run the first k:

        handed_on = images
        for section in sections(network):
            outputs = section(handed_on, training=False)
            if is_sure(outputs["logits"]):
                break
            handed_on = outputs["handed_on"]

    Args:
        network: model made by `attach_exits`, or by `stock` of one.

    Returns:
        A list of functional models, shallow to deep, which share the network's layers. The
        first takes what the network takes, each other one the list that the one before it
        handed on. Each returns a dict of `logits` `(n, classes)`, those of its exit to the
        bit, and `handed_on`: the list of all tensors that deeper exits still need, as the
        network has them; empty for the last.

    Raises:
        ValueError: if the network's outputs are not `exit_1 …`.
    """
    names = exit_names(network)
    nodes = graph.nodes_of(network)
    logits = [network.output[name] for name in names]
    given, computed, found = network.input, set(), []
    for index, tensor in enumerate(logits):
        needed = graph.ancestors(nodes, logits[: index + 1])
        own = [node for node in needed if id(node) not in computed]
        computed |= {id(node) for node in own}
        handed_on = _frontier(network, nodes, computed, logits[index + 1 :])
        outputs = {"logits": tensor, "handed_on": handed_on}
        found.append(_section(f"{network.name}_section_{index + 1}", given, own, outputs))
        given = handed_on
    return found


def _frontier(network, nodes, computed, deeper):
    """Returns the tensors that are there after the computed nodes and needed for deeper logits."""
    rest = [node for node in graph.ancestors(nodes, deeper) if id(node) not in computed]
    wanted = {id(tensor) for node in rest for tensor in node.input_tensors}
    wanted |= {id(tensor) for tensor in deeper}
    there = [t for node in nodes if id(node) in computed for t in node.output_tensors]
    return [tensor for tensor in (*network.inputs, *there) if id(tensor) in wanted]


def _section(name, given, nodes, outputs):
    """Returns the model of the nodes from the given tensors to the outputs."""
    inputs = tree.map_structure(new_input, given)
    tensors = {id(old): new for old, new in zip(tree.flatten(given), tree.flatten(inputs))}
    tensors = calls.replay_nodes(nodes, tensors)
    outputs = tree.map_structure(lambda tensor: tensors[id(tensor)], outputs)
    return keras.Model(inputs, outputs, name=name)
