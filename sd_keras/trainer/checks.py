"""Checks of what SelfDistillModel is given; each error names the argument."""

import warnings

import numpy as np

from sd_keras.methods import Method
from sd_keras.models.exits import exit_names
from sd_keras.models.maps import logits_of
from sd_keras.objectives import ExitHint
from sd_keras.trainer import labels


def check_parts(network, method, distortion, mixing=None):
    """Checks that network, method, distortion and mixing fit each other."""
    names = exit_names(network)
    if not isinstance(method, Method):
        raise ValueError(
            "`method` must be a sd_keras.methods.Method, for instance be_your_own_teacher(). "
            f"Received: method={method!r}"
        )
    if len(names) < method.min_exits:
        raise ValueError(
            f"`method` {method.name!r} trains shallow exits, so `network` needs at least "
            f"{method.min_exits} exits; attach them with attach_exits(backbone, num_classes). "
            f"Received: network with {names}"
        )
    if distortion is not None and (isinstance(distortion, type) or not callable(distortion)):
        raise ValueError(
            "`distortion` must be callable on a batch, for instance CropFlip(padding=4). "
            f"Received: distortion={distortion!r}"
        )
    if mixing is not None and not callable(getattr(mixing, "mix", None)):
        raise ValueError(
            "`mixing` must be a sd_keras.mixing.Mix, for instance Mix(mixup=0.2, cutmix=1.0). "
            f"Received: mixing={mixing!r}"
        )
    if len(names) > 1 and method.shallow_label_weight is None:
        warnings.warn(
            f"method {method.name!r} trains {names[-1]} only; the other exits and the ensemble "
            "stay untrained. For one exit use attach_exits(backbone, num_classes, at=[])",
            stacklevel=3,
        )
    features = [name.replace("exit", "features") for name in names]
    widths = {name: network.output[name].shape[-1] for name in features if name in network.output}
    hints = any(isinstance(objective, ExitHint) for objective in method.objectives)
    if hints and (len(widths) < len(names) or len(set(widths.values())) > 1):
        raise ValueError(
            "`network` must have features of one width at every exit for the hint "
            f"(hint_weight) of {method.name!r}. Received: network with {widths}"
        )


def check_others(network, method, teacher, peer, adversary):
    """Checks that the networks beside the network are those that the method compares with."""
    for argument, model in (("teacher", teacher), ("peer", peer)):
        wanted = argument in method.companions
        if wanted != (model is not None):
            raise ValueError(
                f"`{argument}` must be given for a method that compares with it, and for no "
                f"other. Received: {argument}={model!r}, method {method.name!r}"
            )
        if model is not None:
            _check_fits(network, model, argument)
    if peer is not None and isinstance(peer.output, dict) and len(exit_names(peer)) > 1:
        raise ValueError(
            "`peer` must have one exit: attach_exits(backbone, num_classes, at=[]). "
            f"Received: peer with {exit_names(peer)}"
        )
    if method.balance is not None and any(each.maps for each in method.objectives):
        raise ValueError(
            "`method` can be balanced only between terms of features and logits. "
            f"Received: method {method.name!r} with {[o.name for o in method.objectives]}"
        )
    if adversary is not None and not callable(getattr(adversary, "attack", None)):
        raise ValueError(
            "`adversary` must be a sd_keras.adversary.FastGradientSign. "
            f"Received: adversary={adversary!r}"
        )


def _check_fits(network, model, argument):
    """Checks that another network takes the same images and gives logits of the same classes."""
    if model is network:
        raise ValueError(
            f"`{argument}` must be another network than `network`. Received: {argument}=network"
        )
    classes = network.output[exit_names(network)[-1]].shape[-1]
    logits = logits_of(model, argument)
    inputs = model.inputs
    sizes = zip(inputs[0].shape[1:], network.input_shape[1:])
    fits = len(inputs) == 1 and all(None in pair or pair[0] == pair[1] for pair in sizes)
    if not fits or logits.shape[-1] != classes:
        raise ValueError(
            f"`{argument}` must take images {network.input_shape[1:]} and give {classes} logits, "
            f"as `network` does. Received: {argument} from "
            f"{[tuple(tensor.shape[1:]) for tensor in inputs]} to {logits.shape[-1]}"
        )


def check_views(x, method, distortion):
    """Checks that the data and the distortion give the views that the method compares."""
    given = len(x) if isinstance(x, (tuple, list)) else None
    if given is None and method.pairs:
        raise ValueError(
            f"`x` must hold pairs of images of a class for method {method.name!r}, as "
            "sd_keras.data.SameClassPairs gives them. Received: one batch of images"
        )
    if given is None and method.num_views > 1 and distortion is None:
        raise ValueError(
            f"`distortion` must be given, because method {method.name!r} needs "
            f"{method.num_views} views of each image and the data hold one. "
            "Received: distortion=None"
        )
    if given is not None and given != method.num_views:
        raise ValueError(
            f"`x` must hold {method.num_views} views of each image for method {method.name!r}. "
            f"Received: {given} views"
        )


def check_images(images, network, argument="x"):
    """Checks rank, size and channels of a batch of images as far as they are known."""
    expected = tuple(network.input_shape)
    if isinstance(images, dict) or getattr(images.shape, "rank", 4) is None:
        raise ValueError(
            f"`{argument}` must be images of known rank, shape {('n', *expected[1:])}; a dict "
            "gives them by its entry, a tensor of unknown shape by set_shape. "
            f"Received: {argument} of type {type(images).__name__}"
        )
    shape = tuple(images.shape)
    fits = len(shape) == len(expected) and all(
        want is None or have is None or want == have for want, have in zip(expected[1:], shape[1:])
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must be images of shape {('n', *expected[1:])}. "
            f"Received: {argument} of shape {shape}"
        )


def check_arrays(x, y, network, num_classes, arguments=("x", "y")):
    """Checks NumPy arrays of images and labels before they are used; passes streams by."""
    views = x if isinstance(x, (tuple, list)) else (x,)
    for view in views:
        if isinstance(view, np.ndarray):
            check_images(view, network, arguments[0])
            if view.dtype.kind == "f" and not np.isfinite(view).all():
                raise ValueError(
                    f"`{arguments[0]}` must be finite. "
                    f"Received: {arguments[0]} with NaN or infinite pixels"
                )
            if view.dtype.kind == "f" and view.size and view.max() <= 1:
                warnings.warn(
                    f"`{arguments[0]}` has no pixel above 1: networks of sd_keras take raw pixels "
                    "0…255 and normalise them themselves",
                    stacklevel=3,
                )
    labels.check_array(y, num_classes, arguments[1])


def check_stream_arguments(x, y, arguments):
    """Checks that nothing is given beside a stream, or data on the device, that they hold."""
    own = ("sample_weight", "class_weight", "batch_size", "steps_per_epoch")
    for name, value in {"y": y, **{name: arguments.get(name) for name in own}}.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must be left out when `x` is a sd_keras.data.{type(x).__name__}, which "
                f"brings labels and batches. Received: {name} of type {type(value).__name__}"
            )


def check_callbacks(callbacks, backup_class):
    """Checks that a backup will not be made while averages stand in for the weights."""
    swaps = any(getattr(callback, "swap_on_epoch", False) for callback in callbacks)
    if swaps and any(isinstance(callback, backup_class) for callback in callbacks):
        raise ValueError(
            "`callbacks` must not hold SwapEMAWeights(swap_on_epoch=True) beside a Backup, which "
            "would save the averages as weights. Received: swap_on_epoch=True"
        )
