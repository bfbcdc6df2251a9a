"""A network rewritten in Keras's own layers, as it trains or folded for inference."""

from collections import Counter

import keras
import numpy as np
from keras import layers, ops, tree

from sd_keras import calls, graph, keras_internals
from sd_keras.layers import (
    BatchNormalization,
    Bottleneck,
    Conv2D,
    GroupConv2D,
    IdentityShortcut,
    LocalResponseNormalization,
    PatchConv2D,
)

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

    With `fold`, the form for inference: a batch normalisation right after a convolution or
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
        trains_only = keras_internals.module_of(type(operation)).startswith(
            "layers.regularization."
        )
        if self.fold and trains_only and not kwargs.get("training"):
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


def _has_precision(operation):
    """Returns whether an operation has a precision that can be changed to float32."""
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


def rebuild(model, call):
    """Makes the calls of a functional model again, also those inside nested models.

    Args:
        model: functional model.
        call: function of an operation, its positional and its keyword arguments that returns
            its outputs, or those of what takes its place.

    Returns:
        A flat functional model with inputs and outputs of the same names and structure.
    """
    inputs = tree.map_structure(new_input, model.input)
    tensors = calls.replay(model, tree.flatten(inputs), graph.as_functional, call)
    outputs = tree.map_structure(lambda tensor: tensors[id(tensor)], model.output)
    return keras.Model(inputs, outputs, name=model.name)


def new_input(tensor, name=None):
    """Returns a `keras.Input` that takes what a symbolic tensor holds."""
    name = name or keras_internals.operation_of(tensor).name
    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, name=name
    )


def only_tensor(args, kwargs):
    """Returns the symbolic tensor among the arguments of a call that takes one."""
    (tensor,) = (t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor))
    return tensor


class Copies:
    """The copies of a network's operations: one of each, however often it is called.

    Args:
        taken: names that no copy may have.
    """

    def __init__(self, taken):
        self.taken = set(taken)
        self.made = {}

    def free_name(self, name):
        """Returns the name, or with a number appended if it is taken, and takes it."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def call(self, operation, args, kwargs, kind=None, config=None):
        """Calls the copy of an operation, which the first call makes.

        Args:
            operation: layer or other operation to copy.
            args, kwargs: of the call.
            kind, config: class of the copy and its config; None for the operation's own.
        """
        if id(operation) in self.made:
            return self.made[id(operation)](*args, **kwargs)
        config = operation.get_config() if config is None else config
        name = self.free_name(config.get("name", operation.name))
        if "name" in config:
            config = config | {"name": name}
        copy = self.made[id(operation)] = (kind or type(operation)).from_config(config)
        copy.name = name
        outputs = copy(*args, **kwargs)
        if isinstance(operation, keras.Layer):
            _copy_weights(operation, copy)
        return outputs


def _copy_weights(layer, copy):
    """Gives a built layer the weights of another one, and what else its file would hold."""
    pairs = list(zip(*map(keras_internals.flatten_layers, (layer, copy))))
    if [w.shape for w in layer.weights] != [w.shape for w in copy.weights]:
        raise ValueError(
            "`network` must hold layers that their own `get_config` makes again, with the same "
            f"weights. Received: network with layer {layer.name!r} of type "
            f"{type(layer).__module__}.{type(layer).__name__}"
        )
    for old, new in pairs:
        # As a file does it: some layers compute more from their variables.
        store = {}
        old.save_own_variables(store)
        new.load_own_variables({key: keras.ops.convert_to_numpy(v) for key, v in store.items()})


# By where the last kernel has its output channels: in the last axis, or in the last two.
PLAIN = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense, layers.SeparableConv2D),
    GroupConv2D,
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def fold_normalizations(model):
    """Returns a copy of a functional model with fewer batch normalisations.

    A normalisation by moving statistics is a scale and an offset per channel (Jacob et al.
    2018, section 3.2): `kernel · γ / sqrt(variance + ε)` and
    `(bias − mean) · γ / sqrt(variance + ε) + β` give the same in the layer in front of it, if
    that is called once, has no activation, and nothing else reads its output.

    Args:
        model: functional model of Keras's own layers, without nested models.

    Returns:
        A functional model with the same inputs and outputs. The layers that were folded into
        keep their names.
    """
    pairs = foldable(model)
    norms = {id(norm) for _, norm in pairs}
    convolutions = {id(convolution): norm for convolution, norm in pairs}
    copies = Copies(keras_internals.operation_of(tensor).name for tensor in model.inputs)

    def call(operation, args, kwargs):
        if id(operation) in norms:
            return only_tensor(args, kwargs)
        if id(operation) in convolutions:
            copy = type(operation).from_config(_config(operation))
            copies.taken.add(copy.name)
            outputs = copy(*args, **kwargs)
            copy.set_weights(_folded(operation, convolutions[id(operation)]))
            return outputs
        return copies.call(operation, args, kwargs)

    return rebuild(model, call)


def foldable(model):
    """Returns the pairs of a layer and the batch normalisation that can be folded into it."""
    nodes = graph.nodes_of(model)
    makers = {id(tensor): node for node in nodes for tensor in node.output_tensors}
    # As often as a tensor is read and an operation called.
    reads = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    reads.update(id(tensor) for tensor in model.outputs)
    called = Counter(id(node.operation) for node in nodes)
    pairs = []
    for node in nodes:
        if type(node.operation) is not layers.BatchNormalization:
            continue
        (tensor,) = node.input_tensors
        maker = makers.get(id(tensor))
        if maker is None or not _fit(maker.operation, node.operation, len(tensor.shape)):
            continue
        once = called[id(maker.operation)] == called[id(node.operation)] == reads[id(tensor)] == 1
        if once and not node.arguments.kwargs.get("training"):
            pairs.append((maker.operation, node.operation))
    return pairs


def _fit(layer, norm, rank):
    """Returns whether a layer is linear and has its channels where they are normalised."""
    if type(layer) not in PLAIN + DEPTHWISE or layer.activation is not keras.activations.linear:
        return False
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return False
    first = getattr(layer, "data_format", None) == "channels_first"
    return norm.axis % rank == (1 if first else rank - 1)


def _config(layer):
    """Returns the config of the layer that a normalisation is folded into."""
    config = layer.get_config()
    training = {name: None for name in config if name.endswith(("_regularizer", "_constraint"))}
    return config | training | {"use_bias": True, "bias_initializer": "zeros"}


def _folded(layer, norm):
    """Returns the weights of a layer with a normalisation in them."""
    mean, variance = _numpy(norm.moving_mean), _numpy(norm.moving_variance)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= _numpy(norm.gamma)
    kernels = [_numpy(weight) for weight in layer.weights]
    bias = kernels.pop() if layer.use_bias else 0.0
    shape = kernels[-1].shape[-2:] if type(layer) in DEPTHWISE else scale.shape
    kernels[-1] = kernels[-1] * scale.reshape(shape)
    offset = (bias - mean) * scale
    if norm.center:
        offset += _numpy(norm.beta)
    return [weight.astype("float32") for weight in (*kernels, offset)]


def _numpy(variable):
    return ops.convert_to_numpy(variable.value).astype("float64")
