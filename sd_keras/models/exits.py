"""Exits on a backbone: attach them, name them, cut the network at one of them."""

import difflib
import numbers
import re

import keras
from keras import layers

from sd_keras.layers import Bottleneck

BOTTLENECKS = ("scala",)


def attach_exits(backbone, num_classes, at=None, bottleneck="scala"):
    """Makes a multi-exit classifier out of a backbone.

    After each cut point stands a bottleneck, global average pooling and a classifier
    (Be Your Own Teacher, section 3.1, figure 2); the deepest exit is the plain network and
    has no bottleneck. The backbone's layers and variables are shared, not copied.

    Args:
        backbone: functional `keras.Model` with one output, a feature map `(n, h, w, c)`.
        num_classes: number of classes.
        at: names of the layers after which the shallow exits stand, in order of depth;
            `[]` gives the plain one-exit network. None takes the layers named
            `stage_1`, `stage_2`, … but the deepest.
        bottleneck: the kind of bottleneck; `"scala"` is the only one.

    Returns:
        A functional `keras.Model` from the backbone's input to a dict with `exit_1 …
        exit_C` (logits `(n, num_classes)`, float32, shallow to deep) and `features_1 …
        features_C` (the vectors in front of the classifiers).

    Raises:
        ValueError: for an argument that does not fit; the message names it.
    """
    _check_arguments(backbone, num_classes, bottleneck)
    deepest = backbone.output
    taps = _taps(backbone, at)
    features = []
    for index, tap in enumerate(taps, start=1):
        pool = max(1, min(tap.shape[axis] // deepest.shape[axis] for axis in (1, 2)))
        head = Bottleneck(deepest.shape[-1], pool, name=f"bottleneck_{index}")
        features.append(head(tap))
    features.append(deepest)
    outputs, vectors = {}, {}
    for index, feature_map in enumerate(features, start=1):
        pooled = layers.GlobalAveragePooling2D(name=f"pool_{index}")(feature_map)
        vectors[f"features_{index}"] = pooled
        outputs[f"exit_{index}"] = _classifier(pooled, num_classes, index)
    return keras.Model(backbone.input, outputs | vectors, name=backbone.name)


def _classifier(vector, num_classes, index):
    # Uniform in ±1/sqrt(fan_in), as the reference networks; float32 whatever the policy,
    # because softmax of 16-bit logits loses accuracy.
    initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name=f"classifier_{index}"
    )(vector)


def _check_arguments(backbone, num_classes, bottleneck):
    if not isinstance(num_classes, numbers.Integral) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2. Received: num_classes={num_classes!r}"
        )
    if bottleneck not in BOTTLENECKS:
        raise ValueError(
            f"`bottleneck` must be one of {BOTTLENECKS}. Received: bottleneck={bottleneck!r}"
        )
    if not isinstance(backbone, keras.Model) or not hasattr(backbone, "operations"):
        raise ValueError(
            "`backbone` must be a functional keras.Model; of a Sequential one make "
            "keras.Model(model.inputs[0], model.outputs[0]). "
            f"Received: backbone of type {type(backbone).__name__}"
        )
    shape = getattr(backbone.output, "shape", None)
    if shape is None or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "`backbone` must end in one feature map (n, height, width, channels) of known "
            "size, without pooling and classifier: for instance include_top=False, or "
            "keras.Model(model.input, model.get_layer(NAME).output). "
            f"Received: backbone with output of shape {shape}"
        )


def _taps(backbone, at):
    """The tensors behind which shallow exits stand, in the order given."""
    names = {layer.name: layer for layer in backbone.layers}
    if at is None:
        stages = sorted(
            (int(match[1]), name) for name in names if (match := re.fullmatch(r"stage_(\d+)", name))
        )
        if not stages:
            raise ValueError(
                "`at` must name the layers after which exits stand, because no layer of the "
                f"backbone is called stage_1, stage_2, …. Received: at=None; layers with a "
                f"feature map: {_feature_maps(backbone)}"
            )
        at = [name for _, name in stages if names[name].output is not backbone.output]
    if isinstance(at, str) or not all(isinstance(name, str) for name in at):
        raise ValueError(f"`at` must be a list of names of layers. Received: at={at!r}")
    maps = _feature_maps(backbone)
    for name in at:
        if name not in maps:
            near = difflib.get_close_matches(name, maps)
            shown = maps if len(maps) <= 50 else [*maps[:20], "…", *maps[-20:]]
            raise ValueError(
                f"`at` must name layers of the backbone that give a feature map; {name!r} is "
                f"none. Close matches: {near}; all: {shown}. Received: at={list(at)!r}"
            )
    order = [list(names).index(name) for name in at]
    if order != sorted(set(order)) or any(names[n].output is backbone.output for n in at):
        raise ValueError(
            "`at` must name different layers from shallow to deep, all before the backbone's "
            f"last, where the deepest exit stands. Received: at={list(at)!r}"
        )
    return [names[name].output for name in at]


def _feature_maps(backbone):
    named = [layer for layer in backbone.layers if len(getattr(layer.output, "shape", ())) == 4]
    return [layer.name for layer in named if not isinstance(layer, layers.InputLayer)]


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
