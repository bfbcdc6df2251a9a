"""A network rewritten in Keras's own layers, as it trains or folded for inference."""

import keras
from keras import layers, ops

from sd_keras import graph, keras_internals
from sd_keras.layers import (
    BatchNormalization,
    Bottleneck,
    Conv2D,
    GroupConv2D,
    IdentityShortcut,
    LocalResponseNormalization,
    PatchConv2D,
)
from sd_keras.models.copies import Copies, only_tensor, rebuild
from sd_keras.models.folding import fold_normalizations

KNOWN_PACKAGES = ("keras_hub", "keras_cv")
# Ours that only compute in another way what Keras's layer computes.
KERAS_LAYERS = {
    BatchNormalization: layers.BatchNormalization,
    Conv2D: layers.Conv2D,
    GroupConv2D: layers.Conv2D,
    PatchConv2D: layers.Conv2D,
}
# Ours without weights, which stand for several of Keras's operations.
OPENED = (IdentityShortcut, LocalResponseNormalization)
HALF_TYPES = ("float16", "bfloat16")


def stock(network, fold=False, packages=KNOWN_PACKAGES):
    """Returns a network of Keras's own layers and operations that answers the same.

    Its `.keras` file loads where this library is not installed. Layers of this library give
    way to their equals; nested models are laid open; everything else is copied. Variables are
    copied too, so neither network changes with the other. Layers keep their names where
    these are free; what replaces one layer by several ends with its name.

    With `fold`, the form for inference: a batch normalisation right behind a convolution or
    dense layer that nothing else reads goes into its kernel and bias (computed in float64),
    dropout and noise vanish with their names, and all layers are float32. Other normalisations
    stay, as does that of pixels, which does not commute with zero padding.

    Args:
        network: functional or built Sequential model, for instance of `attach_exits` or
            `submodel`.
        fold: make the form for inference. Without it, layers keep precision and trainability.
        packages: packages besides Keras whose layers may stay: whoever loads a file of the
            network needs them.

    Returns:
        A functional model with the same inputs and outputs, `exit_1 …` and `features_1 …` or
        a single one, equal at inference up to rounding.

    Raises:
        ValueError: if `network` has no graph, or holds a layer or function of another package.
    """
    rewritten = _rewritten(network, fold, {"keras", "builtins", *packages}, KERAS_LAYERS)
    return fold_normalizations(rewritten) if fold else rewritten


def inference_form(network):
    """Returns what `stock(network, fold=True)` does, for graphs that TensorFlow writes.

    Layers of any package stay, and so do this library's grouped convolutions: those of Keras
    are compiled by XLA on TensorFlow, which servers and converters may not have.

    Args:
        network: as `stock`.

    Raises:
        ValueError: if `network` has no graph.
    """
    kept = {own: other for own, other in KERAS_LAYERS.items() if own is not GroupConv2D}
    return fold_normalizations(_rewritten(network, True, None, kept))


def _rewritten(network, fold, packages, replacements):
    model = graph.as_functional(network)
    if model is None:
        raise ValueError(
            "`network` must be a functional keras.Model, or a built Sequential one, without a "
            f"`call` of its own. Received: network of type {type(network).__name__}"
        )
    inputs = [keras_internals.operation_of(tensor).name for tensor in model.inputs]
    return rebuild(model, _Rewriting(inputs, fold, packages, replacements).call)


class _Rewriting:
    """Calls Keras's operations in place of a network's.

    Args:
        taken: names that the operations may not have.
        fold: as `stock`.
        packages: whose layers may stay; None for all.
        replacements: Keras's layers by those that they stand in for.
    """

    def __init__(self, taken, fold, packages, replacements):
        self.copies = Copies(taken)
        self.fold = fold
        self.packages = packages
        self.replacements = replacements

    def call(self, operation, args, kwargs):
        if self.fold and _is_idle(operation) and not kwargs.get("training"):
            return only_tensor(args, kwargs)
        if type(operation) is Bottleneck:
            return self._call_parts(operation, only_tensor(args, kwargs))
        if type(operation) in OPENED:
            return self._call_inside(operation, only_tensor(args, kwargs))
        return self._call_copy(operation, args, kwargs, operation.name)

    def _call_parts(self, bottleneck, outputs):
        for part in bottleneck.blocks:
            is_last = part is bottleneck.blocks[-1]
            name = bottleneck.name if is_last else f"{bottleneck.name}_{part.name}"
            outputs = self._call_copy(part, (outputs,), {}, name)
        return outputs

    def _call_inside(self, layer, inputs):
        layer = type(layer).from_config(self._config(layer))
        # What the layer would do by itself.
        if inputs.dtype != layer.compute_dtype:
            inputs = ops.cast(inputs, layer.compute_dtype)
        outputs = layer.call(inputs)
        *inner, last = graph.nodes_of(keras.Function(inputs, outputs))
        for node in inner:
            kind = type(node.operation).__name__.lower()
            node.operation.name = self.copies.free_name(f"{layer.name}_{kind}")
        last.operation.name = self.copies.free_name(layer.name)
        return outputs

    def _call_copy(self, operation, args, kwargs, name):
        kind = self.replacements.get(type(operation), type(operation))
        config = self._config(operation)
        if self.packages is not None:
            self._check(operation, kind, config)
        if "name" in config:
            config["name"] = name
        return self.copies.call(operation, args, kwargs, kind, config)

    def _config(self, operation):
        config = operation.get_config()
        if isinstance(operation, PatchConv2D):
            size = config.pop("size")
            config |= {"kernel_size": size, "strides": size}
        if self.fold and "dtype" in config and _has_precision(operation):
            config["dtype"] = "float32"
        return config

    def _check(self, operation, kind, config):
        """Refuses what cannot be loaded with Keras and the packages alone."""
        needed = {kind.__module__, *_modules(config)}
        others = {name for name in needed if name.partition(".")[0] not in self.packages}
        if others:
            raise ValueError(
                "`network` must consist of layers and functions of Keras, of sd_keras and of "
                f"`packages`, {sorted(self.packages - {'keras', 'builtins'})}. Received: network "
                f"with layer {operation.name!r} of type {kind.__module__}.{kind.__name__}, which "
                f"needs {sorted(others)}"
            )


def _is_idle(operation):
    """Tells whether an operation acts in training only."""
    return keras_internals.module_of(type(operation)).startswith("layers.regularization.")


def _has_precision(operation):
    """Tells whether an operation has a precision that can be changed to float32."""
    if isinstance(operation, keras.Layer):
        return "float" in operation.compute_dtype and operation.quantization_mode is None
    return getattr(operation, "dtype", None) in HALF_TYPES


def _modules(config):
    """Yields the modules of what stands in a config, or what tells where a function is from."""
    if isinstance(config, dict):
        kind, module = config.get("class_name"), config.get("module")
        if kind == "__lambda__":
            yield "a lambda"
        elif kind == "function" and module == "builtins":
            package, _, name = config["config"].rpartition(">")
            yield f"{package}.{name}" if package else f"function {name!r}"
        elif kind and module:
            yield module
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from _modules(value)
