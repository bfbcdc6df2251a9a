"""Exits on a backbone: attach them, name them, cut the network at one of them."""

import numbers
import re

import keras
from keras import layers

from sd_keras.layers import Bottleneck
from sd_keras.layers.bottleneck import dense_initializer
from sd_keras.models.body import body_of, channels, grid, is_activated, is_channels_first
from sd_keras.models.placement import taps


class Heads:
    """Builds exits on the tensors of a body.

    Args:
        body: of `body_of`.
        num_classes: number of classes.
        pooling: `"average"` or `"token"`.
    """

    def __init__(self, body, num_classes, pooling):
        if pooling == "token" and len(body.output.shape) != 3:
            raise ValueError(
                "`pooling` can be 'token' only for a backbone that ends in tokens (n, t, c). "
                f"Received: pooling={pooling!r} and output of shape {body.output.shape}"
            )
        self.model = body.model
        self.made_by = body.made_by
        self.deepest = body.output
        self.filters = channels(body.output, body.made_by)
        self.grid = grid(body.last_map, body.made_by)
        self.num_classes = num_classes
        self.pooling = pooling
        self.taken = {operation.name for operation in body.model.operations}

    def network(self, tensors):
        """Returns the model with an exit on each of the tensors and on the body's output."""
        outputs, vectors = {}, {}
        for index, tensor in enumerate([*tensors, self.deepest], start=1):
            vector = self._features(tensor, index)
            vectors[f"features_{index}"] = vector
            outputs[f"exit_{index}"] = layers.Dense(
                self.num_classes,
                kernel_initializer=dense_initializer(),
                # Whatever the policy, because softmax of 16-bit logits loses accuracy.
                dtype="float32",
                name=self._name(f"classifier_{index}"),
            )(vector)
        return keras.Model(self.model.inputs[0], outputs | vectors, name=self.model.name)

    def _name(self, base):
        """Returns a name that no layer of the backbone has."""
        while base in self.taken:
            base += "_of_exit"
        return base

    def _features(self, tensor, index):
        """Returns the vector in front of the classifier of one exit."""
        if len(tensor.shape) == 2:
            return tensor
        feature_map = self._as_map(tensor, index)
        if tensor is not self.deepest:
            here = (1, 1) if len(tensor.shape) == 3 else grid(tensor, self.made_by)
            pool = max(1, min(size // last for size, last in zip(here, self.grid)))
            raw = not is_activated(tensor, self.made_by)
            name = self._name(f"bottleneck_{index}")
            feature_map = Bottleneck(self.filters, pool, preactivation=raw, name=name)(feature_map)
        return layers.GlobalAveragePooling2D(
            data_format="channels_last", name=self._name(f"pool_{index}")
        )(feature_map)

    def _as_map(self, tensor, index):
        """Brings tokens and channels_first maps into the form `(n, h, w, c)`."""
        name = self._name(f"map_{index}")
        if len(tensor.shape) == 4:
            if not is_channels_first(tensor, self.made_by):
                return tensor
            return layers.Permute((2, 3, 1), name=name)(tensor)
        count, width = tensor.shape[1:]
        if self.pooling == "token":
            token = self._name(f"token_{index}")
            tensor, count = layers.Cropping1D((0, count - 1), name=token)(tensor), 1
        return layers.Reshape((count, 1, width), name=name)(tensor)


BOTTLENECKS = ("scala",)
POOLINGS = ("average", "token")


def attach_exits(
    backbone,
    num_classes,
    at=None,
    bottleneck="scala",
    input_shape=None,
    pooling="average",
    freeze=False,
):
    """Makes a multi-exit classifier out of a backbone, whose layers it shares.

    Behind each cut point stand a bottleneck, pooling and a classifier (Be Your Own Teacher,
    section 3.1, figure 2); the deepest exit is the plain network.

    Args:
        backbone: functional or built Sequential model that ends in one feature map, in
            tokens `(n, t, c)` or in hidden Dense layers.
        num_classes: number of classes.
        at: where shallow exits stand, shallow to deep: names of layers; shares of the
            backbone's cost, `[0.25, 0.5, 0.75]`; or the number of all exits, spread evenly.
            `[]` gives the plain network. None takes the layers named `stage_1`, `stage_2`, …
            or, where there are none, finds up to four exits.
        bottleneck: the kind of bottleneck; `"scala"` is the only one.
        input_shape: size of the image, for a backbone that takes any.
        pooling: `"average"`, or `"token"` for the first token alone.
        freeze: freeze the backbone itself, till `backbone.trainable = True`; train the exits.

    Returns:
        A functional model to a dict with `exit_1 … exit_C` (logits `(n, num_classes)`,
        float32, shallow to deep) and `features_1 … features_C` (the classifiers' inputs).

    Raises:
        ValueError: for an argument that does not fit; the message names it.
    """
    if not isinstance(num_classes, numbers.Integral) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2. Received: num_classes={num_classes!r}"
        )
    for name, value, known in (
        ("bottleneck", bottleneck, BOTTLENECKS),
        ("pooling", pooling, POOLINGS),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    if not isinstance(backbone, keras.Model):
        raise ValueError(
            "`backbone` must be a functional keras.Model. "
            f"Received: backbone of type {type(backbone).__name__}"
        )
    body = body_of(backbone, at, input_shape)
    network = Heads(body, int(num_classes), pooling).network(taps(body, at))
    if freeze:
        backbone.trainable = False
    return network


def exit_names(network):
    """Returns `["exit_1", …, "exit_C"]` of a network, shallow to deep.

    Raises:
        ValueError: if the network's outputs are not a dict with `exit_1 …`.
    """
    if hasattr(network, "network"):
        raise ValueError(
            "`network` must be the network itself: pass model.network. "
            f"Received: network of type {type(network).__name__}"
        )
    outputs = getattr(network, "output", None)
    names = (
        [n for n in outputs if re.fullmatch(r"exit_\d+", n)] if isinstance(outputs, dict) else []
    )
    if not names:
        raise ValueError(
            "`network` must be a functional model with outputs exit_1, exit_2, …; make one with "
            f"`attach_exits(backbone, num_classes)`. Received: network with output {outputs}"
        )
    return sorted(names, key=lambda name: int(name.removeprefix("exit_")))


def submodel(network, exit_name):
    """Cuts the network at one exit.

    Args:
        network: model made by `attach_exits`.
        exit_name: one of `exit_names(network)`.

    Returns:
        A functional model from the network's input to the logits `(n, num_classes)` of
        that exit, which shares the network's layers and holds none deeper than the exit.

    Raises:
        ValueError: if there is no such exit.
    """
    names = exit_names(network)
    if exit_name not in names:
        raise ValueError(f"`exit_name` must be one of {names}. Received: exit_name={exit_name!r}")
    return keras.Model(network.input, network.output[exit_name], name=f"{network.name}_{exit_name}")
