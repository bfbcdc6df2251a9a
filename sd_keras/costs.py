"""What a functional model costs for one image: multiply-accumulates, activations, memory."""

import collections
import itertools
import math
import re

import keras
from keras import layers, tree

from sd_keras import calls, graph, keras_internals

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
# Modules of Keras whose layers multiply by no kernel. Not `preprocessing` as a whole:
# spectrograms convolve, and a Pipeline holds any layers.
FREE_MODULES = re.compile(
    r"layers\.(activations|merging|normalization|pooling|regularization|reshaping|"
    r"preprocessing\.(?!stft_|mel_|pipeline|feature_space)|"
    r"core\.(embedding|identity|input_layer|masking))\b"
)
# Operations outside these modules are someone's own.
OPERATION_MODULES = re.compile(r"ops\.(core|einops|image|linalg|math|nn|numpy)$")
# Operations of `keras.ops` that multiply matrices or run a function, in ways not counted here.
UNCOUNTED = (
    *("Map", "Scan", "AssociativeScan", "VectorizedMap", "WhileLoop", "ForiLoop"),
    *("Switch", "Cond", "JVP", "GaussianBlur", "ElasticTransform", "SobelEdges", "SSIM"),
    *("FFT", "FFT2", "IFFT2", "RFFT", "IRFFT", "STFT", "ISTFT", "CDist"),
    *("Corrcoef", "Correlate", "Inner", "Outer", "Kron", "Vdot"),
)
# Methods of a subclass that leave alone what a call multiplies.
HARMLESS = {"__init__", "build", "get_config", "from_config"} | {
    f"compute_{what}" for what in ("mask", "output_shape", "output_spec")
}


def _size(tensor):
    return math.prod(tensor.shape)


def _positions(tensor, data_format):
    # With the first axis: windows of an image may lie there.
    if data_format == "channels_last":
        return math.prod(tensor.shape[:-1])
    return tensor.shape[0] * math.prod(tensor.shape[2:])


def _kernels(layer, operands):
    names = ("kernel",) if hasattr(layer, "kernel") else ("depthwise_kernel", "pointwise_kernel")
    is_layer = isinstance(layer, keras.Layer)
    return [getattr(layer, name) for name in names] if is_layer else operands[1:]


def _convolution(operation, operands, outputs):
    # Depthwise and pointwise kernels of a separable one slide over the same positions.
    kernels = sum(_size(kernel) for kernel in _kernels(operation, operands))
    return _positions(outputs[0], operation.data_format) * kernels


def _transposed(operation, operands, outputs):
    kernel = _kernels(operation, operands)[0]
    return _positions(operands[0], operation.data_format) * _size(kernel)


def _dense(layer, operands, outputs):
    return _size(operands[0]) * layer.units


def _summed(equation, shapes):
    """Product of the sizes of an einsum's axes that both terms have and the result lacks."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    sizes = []
    for term, shape in zip(terms.split(","), shapes):
        before, dots, after = term.partition("...")
        last = shape[len(shape) - len(after) :]
        sizes.append(dict(zip(before, shape)) | dict(zip(after, last) if dots else ()))
    left, right = sizes
    # Without an arrow the result is what only one term has.
    shared = [label for label in left if label in right and not (arrow and label in result)]
    return math.prod(max(left[label], right[label]) for label in shared)


def _einsum_dense(layer, operands, outputs):
    return _size(outputs[0]) * _summed(layer.equation, (operands[0].shape, layer.kernel.shape))


def _einsum(operation, operands, outputs):
    if "," not in operation.subscripts:
        return 0  # a sum or a transposition
    if len(operands) != 2 or operation.subscripts.count(",") != 1:
        return None
    return _size(outputs[0]) * _summed(operation.subscripts, [each.shape for each in operands])


def _dot(layer, operands, outputs):
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return _size(outputs[0]) * operands[0].shape[axis]


def _matmul(operation, operands, outputs):
    if len(operands) != 2 or not (operands[0].shape and operands[1].shape):
        return None
    return _size(outputs[0]) * operands[0].shape[-1]


def _tensordot(operation, operands, outputs):
    axes, shape = operation.axes, operands[0].shape
    if len(operands) != 2:
        return None
    summed = shape[len(shape) - axes :] if isinstance(axes, int) else [shape[a] for a in axes[0]]
    return _size(outputs[0]) * math.prod(summed)


def _attention(layer, operands, outputs):
    query, value = operands[:2]
    scores = _size(query) // query.shape[-1] * value.shape[1]
    # Additive scores are sums, and no product of matrices.
    width = 0 if _is_additive(layer) else query.shape[-1]
    return scores * (width + outputs[0].shape[-1])


def _is_additive(layer):
    return isinstance(layer, layers.AdditiveAttention) or layer.score_mode == "concat"


def _dot_product_attention(operation, operands, outputs):
    query, key, value = operands[:3]
    return _size(query) // query.shape[-1] * key.shape[1] * (key.shape[-1] + value.shape[-1])


# Types and how to count them; the first that fits.
LAYER_RULES = (
    (TRANSPOSED, _transposed),
    ((*SEPARABLE, *CONVOLUTIONS), _convolution),
    (layers.EinsumDense, _einsum_dense),
    (layers.Dense, _dense),
    (layers.Dot, _dot),
    (layers.Attention, _attention),
)
OPERATION_RULES = {
    "Conv": _convolution,
    "DepthwiseConv": _convolution,
    "SeparableConv": _convolution,
    "ConvTranspose": _transposed,
    "Matmul": _matmul,
    "Dot": _matmul,
    "Tensordot": _tensordot,
    "Einsum": _einsum,
    "DotProductAttention": _dot_product_attention,
}


def multiply_accumulates(operation, operands, outputs):
    """Counts the products of a kernel, or of a matrix product, in one call.

    Args:
        operation: a built Keras layer, or an operation of `keras.ops`.
        operands, outputs: lists of what the call takes and gives that has a shape, batch
            included, all sizes known.

    Returns:
        The number; 0 for what has no kernel; None where the type is not known.
    """
    kind = type(operation)
    if not isinstance(operation, keras.Layer):
        if (
            not OPERATION_MODULES.match(keras_internals.module_of(kind))
            or kind.__name__ in UNCOUNTED
        ):
            return None
        if kind.__name__ in OPERATION_RULES:
            return OPERATION_RULES[kind.__name__](operation, operands, outputs)
        return None if "linalg" in kind.__module__ and kind.__name__ != "Norm" else 0
    stock = None if _applies_own_function(operation) else _stock_type(kind)
    for types, rule in LAYER_RULES if stock else ():
        if issubclass(stock, types):
            return rule(operation, operands, outputs)
    is_free = stock and FREE_MODULES.match(keras_internals.module_of(stock))
    return 0 if is_free and not isinstance(operation, layers.Wrapper) else None


def _applies_own_function(layer):
    """Returns whether a layer's activation is a user's function or a layer: it may multiply."""
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", None) or ""
    known = module.startswith(("keras.", "tensorflow.", "jax.", "torch."))
    return activation is not None and (isinstance(activation, keras.Layer) or not known)


def _stock_type(kind):
    """Returns the layer of Keras that a class calls; None if a subclass may call otherwise."""
    own = list(itertools.takewhile(lambda t: not keras_internals.module_of(t), kind.__mro__))
    for base in own:
        methods = {name for name, value in vars(base).items() if callable(value)}
        if methods - HARMLESS and not base.__module__.startswith("sd_keras."):
            return None
    return kind.__mro__[len(own)]


def hidden_elements(operation, operands, outputs):
    """Counts the elements that a call makes on the way to its last product.

    Returns:
        A pair: those that a product puts out, and others.
    """
    name = type(operation).__name__
    if isinstance(operation, SEPARABLE) or name == "SeparableConv":
        *_, channels, multiplier = _kernels(operation, operands)[0].shape
        return _positions(outputs[0], operation.data_format) * channels * multiplier, 0
    if isinstance(operation, layers.Attention) or name == "DotProductAttention":
        query, value = operands[:2]
        scores = _size(query) // query.shape[-1] * value.shape[1]
        if name == "DotProductAttention" or not _is_additive(operation):
            return (scores if len(outputs) == 1 else 0), 0
        return 0, scores * (query.shape[-1] + 1)
    return 0, 0


# Layers and operations whose output is their input in another shape, or at inference the
# input itself.
VIEW_LAYERS = re.compile(r"layers\.(regularization|reshaping\.(flatten|reshape)|core\.identity)\b")
VIEW_OPERATIONS = ("Reshape", "ExpandDims", "Squeeze", "Ravel", "StopGradient")

# What some of a model's tensors cost: multiply-accumulates; elements that convolutions, Dense
# layers and matrix products put out; bytes of all tensors alive at the worst moment.
Cost = collections.namedtuple("Cost", "macs activations peak")
# What one call adds to them: `hidden` are the bytes of a tensor that it makes and does not put
# out, `inside` the `Measured` calls that it is made of, or None.
Call = collections.namedtuple("Call", "macs activations hidden inside")


class Measured:
    """The calls of a functional model, each with its cost for a batch of one image.

    Args:
        model: functional `keras.Model` or `keras.Function`.
        inputs: specifications of its inputs.
        place: where it is nested, for messages.

    Raises:
        ValueError: naming a layer whose cost cannot be counted.
    """

    def __init__(self, model, inputs, place=""):
        self.nodes = graph.nodes_of(model)
        self.outputs = model.outputs
        self.tensors = {id(old): new for old, new in zip(model.inputs, inputs)}
        self.place = place
        # A tensor passed twice, as to self-attention, is stored once.
        first = {id(new): old for old, new in reversed(list(zip(model.inputs, inputs)))}
        pairs = [(old, first[id(new)]) for old, new in zip(model.inputs, inputs)]
        self.views = {id(old): same for old, same in pairs if old is not same}
        self.inputs = [self._stored(tensor) for tensor in model.inputs]
        self.calls = {id(node): self._measure(node) for node in self.nodes}

    def total(self, outputs):
        """Adds up what has to be computed for some of the model's tensors."""
        nodes = graph.ancestors(self.nodes, outputs)
        made = [self.calls[id(node)] for node in nodes]
        return Cost(
            sum(call.macs for call in made),
            sum(call.activations for call in made),
            self._peak(nodes, [self._stored(tensor) for tensor in outputs]),
        )

    def _measure(self, node):
        args, kwargs = node.arguments.fill_in(self.tensors)
        inputs = [self.tensors[id(tensor)] for tensor in node.input_tensors]
        outputs = self._specifications(node, args, kwargs)
        self.tensors |= {id(old): new for old, new in zip(node.output_tensors, outputs)}
        if _is_view(node, inputs, outputs):
            self.views[id(node.output_tensors[0])] = node.input_tensors[0]
        return self._call(node.operation, inputs, outputs, args, kwargs)

    def _specifications(self, node, args, kwargs):
        operation = node.operation
        kwargs.pop("training", None)  # Identity is called with it and does not take it
        try:
            outputs = tree.flatten(operation.compute_output_spec(*args, **kwargs))
            if any(None in output.shape for output in outputs):
                # EinsumDense answers with the unknown sizes it was made with; tracing tells.
                traced = keras.Operation.compute_output_spec(operation, *args, **kwargs)
                outputs = tree.flatten(traced)
        except Exception as error:
            shapes = [self.tensors[id(tensor)].shape for tensor in node.input_tensors]
            raise ValueError(
                "`network` holds a layer that does not take one image of this size. Received: "
                f"{self._named(operation)} for inputs of shape {shapes}"
            ) from error
        if any(None in output.shape for output in outputs):
            raise ValueError(
                "`network` holds a layer whose output has no known size. "
                f"Received: {self._named(operation)}"
            )
        if type(operation).__name__ == "DotProductAttention":
            # Keras answers with the width of the queries in place of the values'.
            shape = (*outputs[0].shape[:-1], args[2].shape[-1])
            outputs = [keras.KerasTensor(shape)]
        # The precision is the network's: a layer asked outside a call does not cast.
        pairs = zip(outputs, node.output_tensors)
        return [keras.KerasTensor(output.shape, old.dtype) for output, old in pairs]

    def _call(self, operation, inputs, outputs, args, kwargs):
        model = graph.as_functional(operation)
        if isinstance(operation, keras.Function) and not isinstance(operation, keras.Model):
            model = operation
        if model is not None:
            return self._nested(operation, model, calls.given_inputs(model, args, kwargs))
        operands = [each for each in tree.flatten((args, kwargs)) if hasattr(each, "shape")]
        macs = multiply_accumulates(operation, operands, outputs)
        if macs is not None:
            products, others = hidden_elements(operation, operands, outputs)
            activations = sum(math.prod(tensor.shape) for tensor in outputs) + products
            hidden = (products + others) * _width(outputs[0].dtype)
            return Call(macs, activations if macs else 0, hidden, None)
        try:
            function = calls.inside(operation, args, kwargs)
        except Exception as error:
            raise ValueError(
                "`network` holds a layer whose cost cannot be counted, because its type is not "
                f"known and its call cannot be followed. Received: {self._named(operation)}"
            ) from error
        try:
            return self._nested(operation, function, inputs)
        finally:
            calls.forget(function)

    def _nested(self, operation, model, inputs):
        inside = Measured(model, inputs, f", inside {self._named(operation)}")
        made = inside.calls.values()
        macs, activations = (sum(getattr(c, n) for c in made) for n in ("macs", "activations"))
        return Call(macs, activations, 0, inside)

    def _named(self, operation):
        return f"layer {operation.name} of type {type(operation).__name__}{self.place}"

    def _stored(self, tensor):
        while id(tensor) in self.views:
            tensor = self.views[id(tensor)]
        return id(tensor)

    def _bytes(self, stored):
        return sum(_bytes(self.tensors[tensor]) for tensor in stored)

    def _peak(self, nodes, kept):
        """Bytes of all tensors alive at the worst moment, computing the nodes in order.

        `kept` are the stored tensors that are needed afterwards.
        """
        last = {}
        for index, node in enumerate(nodes):
            last |= {self._stored(tensor): index for tensor in node.input_tensors}
        last |= {tensor: len(nodes) for tensor in kept}
        made = {id(tensor) for node in nodes for tensor in node.output_tensors}
        live = set(last) - made
        peak = self._bytes(live)
        for index, node in enumerate(nodes):
            own = {self._stored(t) for t in (*node.input_tensors, *node.output_tensors)}
            waiting = self._bytes(live - own)
            live = {tensor for tensor in live | own if last.get(tensor, -1) > index}
            call = self.calls[id(node)]
            if call.inside is None:
                peak = max(peak, waiting + self._bytes(own) + call.hidden)
            else:
                stay = [t for t in node.input_tensors if self._stored(t) in live]
                stay = {id(self.tensors[id(tensor)]) for tensor in stay}
                peak = max(peak, waiting + call.inside._peak_within(stay))
        return peak

    def _peak_within(self, stay):
        """The same of a nested model, given the ids of inputs' specifications that stay."""
        held = [tensor for tensor in self.inputs if id(self.tensors[tensor]) in stay]
        return self._peak(self.nodes, [*held, *(self._stored(t) for t in self.outputs)])


def _is_view(node, inputs, outputs):
    """Returns whether what a call puts out needs no memory of its own."""
    if len(inputs) != 1 or len(outputs) != 1 or _bytes(inputs[0]) != _bytes(outputs[0]):
        return False
    kind = type(node.operation)
    module = keras_internals.module_of(kind)
    if module.startswith("ops."):
        return kind.__name__ in VIEW_OPERATIONS
    always_random = node.arguments.kwargs.get("training")
    return bool(VIEW_LAYERS.match(module)) and not always_random


def one_image(model, input_shape=None):
    """Returns the specifications of a model's inputs for one image.

    Args and errors: as `graph.known_shapes`.
    """
    shapes = graph.known_shapes(model, input_shape)
    return [keras.KerasTensor((1, *s), t.dtype) for s, t in zip(shapes, model.inputs)]


def _width(dtype):
    """Bytes of one element."""
    bits = re.search(r"\d+", dtype)  # none in "bool"
    return max(1, int(bits[0]) // 8 if bits else 1)


def _bytes(tensor):
    return math.prod(tensor.shape) * _width(tensor.dtype)


def parameters(nodes):
    """Counts the parameters of the layers of some nodes, each once.

    Returns:
        A pair: those that training changes, also where layers are frozen, and the others
        (moving statistics).
    """
    trained, others = {}, {}
    operations = [node.operation for node in nodes]
    while operations:
        operation = operations.pop()
        if isinstance(operation, keras.Layer):
            for layer in keras_internals.flatten_layers(operation):
                for counts, own in zip((trained, others), keras_internals.own_variables(layer)):
                    counts |= {id(variable): math.prod(variable.shape) for variable in own}
        elif isinstance(operation, keras.Function):
            operations += operation.operations
    return sum(trained.values()), sum(others.values())
