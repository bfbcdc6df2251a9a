"""Exits on a backbone: attach them, name them, cut the network at one of them."""

import numbers
import re

import keras

from sd_keras.models.body import body_of
from sd_keras.models.heads import Heads
from sd_keras.models.places import taps

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
    _check_arguments(backbone, num_classes, bottleneck, pooling)
    body = body_of(backbone, at, input_shape)
    network = Heads(body, int(num_classes), pooling).network(taps(body, at))
    if freeze:
        backbone.trainable = False
    return network


def _check_arguments(backbone, num_classes, bottleneck, pooling):
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
