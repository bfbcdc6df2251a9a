"""What runs beside the network in training: teacher, peer, past, and learned regressors."""

import keras
import numpy as np
from keras import ops

from sd_keras import graph
from sd_keras.models.maps import feature_maps, logits_of


class Companions:
    """Gives a training step the outputs of all networks that the method compares.

    No layer: it holds models that share the layers of those that the `SelfDistillModel` holds.

    Args:
        network: made by `attach_exits`.
        method: a `Method`.
        others: dict from "teacher", "peer" and "past" to a model or None.

    Attributes:
        adapters: the learned layers, for the `SelfDistillModel` to hold.
    """

    def __init__(self, network, method, others):
        self.others = {kind: model for kind, model in others.items() if model is not None}
        wanted = {
            kind: {f"{kind}_logits": logits_of(model, kind)} for kind, model in self.others.items()
        }
        own = dict(network.output)
        self.regressions = {}
        reading = [objective for objective in method.objectives if objective.maps]
        if reading:
            pairs = _pairs(network, self.others["teacher"])
            own |= {f"map_{index}": pair[0] for index, pair in enumerate(pairs, start=1)}
            taught = {f"teacher_map_{i}": pair[1] for i, pair in enumerate(pairs, start=1)}
            wanted["teacher"] |= taught
            shapes = {name: own[name].shape for name in own if name.startswith("map_")}
            shapes |= {name: tensor.shape for name, tensor in taught.items()}
            self._adapt(reading, shapes)
        self.network = network if not reading else keras.Model(network.inputs[0], own)
        self.models = {
            kind: keras.Model(graph.as_functional(self.others[kind]).inputs[0], outputs)
            for kind, outputs in wanted.items()
        }

    def _adapt(self, objectives, shapes):
        for objective in objectives:
            if hasattr(objective, "adapter"):
                self.regressions[objective.needed_outputs[0]] = objective.adapter(shapes)

    @property
    def adapters(self):
        return [layer for layer, *_ in self.regressions.values()]

    def are_in(self, outputs):
        """Returns whether outputs are those of a training step."""
        return all(f"{kind}_logits" in outputs for kind in self.models)

    def outputs(self, images):
        """Runs all networks on a batch of a training step.

        Returns:
            The network's outputs and `map_k`, and those of the others as `teacher_logits`,
            `teacher_map_k`, `peer_logits`, `past_logits`, and of each regressor.
        """
        outputs = dict(self.network(images, training=True))
        for kind, model in self.models.items():
            learns = kind == "peer"
            found = model(images, training=learns)
            outputs |= found if learns else {n: ops.stop_gradient(v) for n, v in found.items()}
        for name, (layer, own, target) in self.regressions.items():
            outputs[name] = layer(outputs[own])
            outputs[f"{name}_target"] = outputs[target]
        return outputs


def copy_of(network):
    """Returns a frozen copy of a network, with weights of its own."""
    past = keras.models.clone_model(network)
    past.trainable = False
    _assign(past, network)
    return past


def _assign(past, network):
    # Through copies: on JAX an assigned array would be the network's own, and a step gives all
    # its arrays away, each of which may then be there only once.
    for old, new in zip(past.weights, network.weights):
        old.assign(np.array(ops.convert_to_numpy(new)))


class Renewal(keras.callbacks.Callback):
    """Gives the copy of a network's past the weights of the epoch that ends."""

    def __init__(self, network, past):
        super().__init__()
        self.network = network
        self.past = past

    def on_epoch_end(self, epoch, logs=None):
        _assign(self.past, self.network)


def _pairs(network, teacher):
    """Returns the maps of both networks of each size that both have, from large to small."""
    own, taught = feature_maps(network, "network"), feature_maps(teacher, "teacher")
    common = sorted(own.keys() & taught.keys(), reverse=True)
    if not common:
        raise ValueError(
            "`teacher` must have feature maps of a size that `network` has. Received: teacher "
            f"with maps of {sorted(taught)}, network with maps of {sorted(own)}"
        )
    return [(own[size], taught[size]) for size in common]
