"""Multiply-accumulates of one call of a layer or operation, by its type."""

import itertools
import math
import re

import keras
from keras import layers

from sd_keras import keras_internals

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
    """Tells whether a layer's activation is a user's function or a layer: it may multiply."""
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
