"""Costs against hand counts, published figures, TensorFlow's profiler and a simulated memory."""

import collections
import math
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import sd_keras
from sd_keras import analysis, models

KERNEL = np.ones((6, 5), "float32")


def network_of(call, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs, call(*inputs))


def costs_of(call, *shapes):
    return analysis.costs(network_of(call, *shapes))["network"]


# Layers of users.


class Chain(layers.Layer):
    """Chains two layers, of which one is called twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6)
        self.second = layers.Dense(3)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((*input_shape[:-1], 6))

    def call(self, inputs):
        return self.second(ops.relu(self.first(self.first(inputs))))


class OwnMatrix(layers.Layer):
    """Multiplies by a kernel of its own."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 5))

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)


class OwnOperator(OwnMatrix):
    def call(self, inputs):
        return inputs @ self.kernel


class OwnEinsum(OwnMatrix):
    def call(self, inputs):
        return ops.einsum("...i,ij->...j", inputs, self.kernel)


class OwnConvolution(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(3, 3, input_shape[-1], 5))
        self.depthwise = self.add_weight(shape=(3, 3, 5, 2))
        self.back = self.add_weight(shape=(2, 2, 7, 10))

    def call(self, inputs):
        outputs = ops.conv(inputs, self.kernel, strides=2, padding="same")
        outputs = ops.depthwise_conv(outputs, self.depthwise, padding="same")
        return ops.conv_transpose(outputs, self.back, strides=2)


class RawTensorFlow(OwnMatrix):
    def call(self, inputs):
        import tensorflow as tf

        return tf.linalg.matmul(inputs, tf.convert_to_tensor(self.kernel))


class GateThatHidesADense(layers.Multiply):
    """Looks like a layer without a kernel."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape[0])
        super().build(input_shape)

    def call(self, inputs):
        return super().call([self.dense(inputs[0]), inputs[1]])


class StandardizedConvolution(layers.Conv2D):
    """Keras's hook for other kernels; multiplies no more than its parent."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel))


class ConvolutionThatMultipliesTwice(layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs) + super().call(2 * inputs)


class Renamed(layers.Conv2D):
    """Changes nothing about the call."""

    def __init__(self, **kwargs):
        super().__init__(4, 3, **kwargs)

    def get_config(self):
        return {}


class OwnOperation(keras.Operation):
    """Neither a layer nor of `keras.ops`."""

    def call(self, x):
        return ops.matmul(x, KERNEL)

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 5))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


def nested(shape, *inner):
    return keras.Sequential([keras.Input(shape), *inner])


def windows(*shape):
    """Moves windows of an 8x8x3 map to the first axis."""
    return lambda x: ops.reshape(x, (-1, *shape))


def both_inputs(layer):
    return lambda *inputs: layer(list(inputs))


def twice(layer):
    return lambda x: layer(layer(x))


def to_itself(layer, before=lambda x: x):
    return lambda x: (lambda y: layer(y, y))(before(x))


def reversed_embedding(x):
    layer = layers.ReversibleEmbedding(10, 8)
    return layer(layer(x), reverse=True)


def function_of(shape, layer):
    image = keras.Input(shape)
    return keras.Function(image, layer(image))


# Attention of 6 queries of width 8 to 5 keys of width 7: two heads, 4 and 3 wide.
SELF = 4 * 6 * 8 * 8 + 2 * (6 * 6 * 4 + 6 * 6 * 4)
CROSS = 6 * 8 * 8 + 5 * 7 * 8 + 5 * 7 * 6 + 6 * 6 * 8 + 2 * (6 * 5 * 4 + 6 * 5 * 3)
# Name: call, shapes of its inputs, multiply-accumulates, activations (None: not counted here).
COUNTED = {
    # Convolutions: output positions x kernel x input channels of a group x filters.
    "Conv1D": (layers.Conv1D(4, 3), [(8, 2)], 6 * 3 * 2 * 4, 6 * 4),
    "Conv1D causal": (layers.Conv1D(4, 3, padding="causal"), [(8, 2)], 8 * 3 * 2 * 4, 8 * 4),
    "Conv2D": (layers.Conv2D(4, 3), [(6, 6, 2)], 4 * 4 * 9 * 2 * 4, 4 * 4 * 4),
    "Conv2D (1, 3)": (layers.Conv2D(6, (1, 3)), [(6, 6, 4)], 6 * 4 * 3 * 4 * 6, 6 * 4 * 6),
    "Conv3D": (layers.Conv3D(4, 2), [(4, 5, 6, 2)], 3 * 4 * 5 * 8 * 2 * 4, 3 * 4 * 5 * 4),
    "Conv2D dilated": (layers.Conv2D(4, 3, dilation_rate=2), [(7, 7, 2)], 3 * 3 * 9 * 2 * 4, 36),
    "Conv2D strided": (
        layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
        [(6, 6, 4)],
        3 * 3 * 9 * 4 * 6,
        3 * 3 * 6,
    ),
    "Conv2D grouped": (layers.Conv2D(4, 3, groups=2), [(6, 6, 4)], 4 * 4 * 9 * 2 * 4, 4 * 4 * 4),
    "Conv2D channels_first": (
        layers.Conv2D(4, 3, data_format="channels_first"),
        [(2, 6, 5)],
        4 * 3 * 9 * 2 * 4,
        4 * 3 * 4,
    ),
    "DepthwiseConv1D": (layers.DepthwiseConv1D(3, depth_multiplier=2), [(8, 5)], 6 * 3 * 10, 60),
    "DepthwiseConv2D": (
        layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
        [(9, 9, 5)],
        4 * 4 * 9 * 5 * 2,
        4 * 4 * 10,
    ),
    "DepthwiseConv2D channels_first": (
        layers.DepthwiseConv2D(3, data_format="channels_first"),
        [(5, 6, 7)],
        4 * 5 * 9 * 5,
        4 * 5 * 5,
    ),
    # Both convolutions of a separable one put something out.
    "SeparableConv1D": (
        layers.SeparableConv1D(4, 3, depth_multiplier=2),
        [(8, 5)],
        6 * 3 * 10 + 6 * 10 * 4,
        6 * 10 + 6 * 4,
    ),
    "SeparableConv2D": (
        layers.SeparableConv2D(4, 3, strides=2, padding="same"),
        [(7, 7, 5)],
        4 * 4 * 9 * 5 + 4 * 4 * 5 * 4,
        4 * 4 * (5 + 4),
    ),
    # Transposed: input positions x kernel.
    "Conv1DTranspose": (layers.Conv1DTranspose(4, 3, strides=2), [(8, 2)], 8 * 3 * 2 * 4, 17 * 4),
    "Conv2DTranspose": (layers.Conv2DTranspose(4, 3), [(6, 6, 2)], 6 * 6 * 9 * 2 * 4, 8 * 8 * 4),
    "Conv2DTranspose same": (
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        [(6, 5, 2)],
        6 * 5 * 9 * 2 * 4,
        12 * 10 * 4,
    ),
    "Conv2DTranspose channels_first": (
        layers.Conv2DTranspose(4, 3, strides=2, data_format="channels_first"),
        [(2, 6, 5)],
        6 * 5 * 9 * 2 * 4,
        4 * 13 * 11,
    ),
    "Conv3DTranspose": (layers.Conv3DTranspose(4, 2), [(2, 3, 4, 5)], 24 * 8 * 5 * 4, 60 * 4),
    # Matrix products.
    "Dense": (layers.Dense(5), [(6,)], 6 * 5, 5),
    "Dense on a map": (layers.Dense(5), [(6, 6, 4)], 6 * 6 * 4 * 5, 6 * 6 * 5),
    "EinsumDense": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        [(6, 8)],
        6 * 8 * 2 * 3,
        6 * 2 * 3,
    ),
    "EinsumDense ...": (
        layers.EinsumDense("...x,xy->...y", 5),
        [(3, 6, 8)],
        3 * 6 * 8 * 5,
        3 * 6 * 5,
    ),
    # Axes that only the input has are added up, not multiplied.
    "EinsumDense sum": (layers.EinsumDense("abc,cd->ad", 5), [(6, 8)], 8 * 5, 5),
    "Dot": (both_inputs(layers.Dot((2, 1))), [(6, 8), (8, 5)], 6 * 8 * 5, 6 * 5),
    "Dot of vectors": (both_inputs(layers.Dot(-1, normalize=True)), [(8,), (8,)], 8, 1),
    "ops.matmul": (ops.matmul, [(6, 8), (8, 5)], 6 * 8 * 5, 6 * 5),
    "@": (lambda x, y: x @ y, [(3, 6, 8), (3, 8, 5)], 3 * 6 * 8 * 5, 3 * 6 * 5),
    "ops.dot": (lambda x: ops.dot(x, KERNEL), [(4, 6)], 4 * 6 * 5, 4 * 5),
    "ops.tensordot": (lambda x: ops.tensordot(x, KERNEL, 1), [(4, 6)], 4 * 6 * 5, 4 * 5),
    "ops.tensordot axes": (
        lambda x: ops.tensordot(x, KERNEL, [[1], [0]]),
        [(6, 4)],
        6 * 4 * 5,
        4 * 5,
    ),
    "ops.einsum": (
        lambda x, y: ops.einsum("bhqd,bhkd->bhqk", x, y),
        [(2, 6, 8), (2, 5, 8)],
        2 * 6 * 5 * 8,
        2 * 6 * 5,
    ),
    "ops.einsum ...": (
        lambda x, y: ops.einsum("...ij,...jk->...ik", x, y),
        [(3, 4, 8), (3, 8, 6)],
        3 * 4 * 8 * 6,
        3 * 4 * 6,
    ),
    "ops.einsum implicit": (
        lambda x, y: ops.einsum("bij,bjk", x, y),
        [(4, 8), (8, 6)],
        4 * 8 * 6,
        4 * 6,
    ),
    "ops.einsum of one": (lambda x: ops.einsum("bij->bji", x), [(4, 8)], 0, 0),
    # Attention: projections, and scores and their product with the values.
    "MultiHeadAttention": (
        to_itself(layers.MultiHeadAttention(2, 4)),
        [(6, 8)],
        SELF,
        3 * 6 * 8 + 2 * 6 * 6 + 6 * 8 + 6 * 8,
    ),
    # With dropout Keras multiplies by einsum, without by one operation.
    "MultiHeadAttention dropout": (
        to_itself(layers.MultiHeadAttention(2, 4, dropout=0.1)),
        [(6, 8)],
        SELF,
        3 * 6 * 8 + 2 * 6 * 6 + 6 * 8 + 6 * 8,
    ),
    "MultiHeadAttention cross": (
        layers.MultiHeadAttention(2, 4, value_dim=3),
        [(6, 8), (5, 7)],
        CROSS,
        6 * 8 + 5 * 8 + 5 * 6 + 2 * 6 * 5 + 6 * 6 + 6 * 8,
    ),
    "MultiHeadAttention cross dropout": (
        layers.MultiHeadAttention(2, 4, value_dim=3, dropout=0.1),
        [(6, 8), (5, 7)],
        CROSS,
        6 * 8 + 5 * 8 + 5 * 6 + 2 * 6 * 5 + 6 * 6 + 6 * 8,
    ),
    # 4 query heads, 2 key heads, 4 wide; scores and values for each query head.
    "GroupQueryAttention": (
        to_itself(layers.GroupQueryAttention(4, 4, 2)),
        [(6, 8)],
        6 * 8 * 16 + 2 * 6 * 8 * 8 + 4 * 2 * 6 * 6 * 4 + 6 * 16 * 8,
        6 * 16 + 2 * 6 * 8 + 4 * 6 * 6 + 6 * 16 + 6 * 8,
    ),
    "Attention": (
        both_inputs(layers.Attention()),
        [(6, 8), (5, 8)],
        2 * 6 * 5 * 8,
        6 * 5 + 6 * 8,
    ),
    "Attention with scores": (
        lambda *inputs: layers.Attention()(list(inputs), return_attention_scores=True),
        [(6, 8), (5, 8)],
        2 * 6 * 5 * 8,
        6 * 5 + 6 * 8,
    ),
    # Additive scores are sums of tanh: the values are the only product of matrices.
    "AdditiveAttention": (
        both_inputs(layers.AdditiveAttention()),
        [(6, 8), (5, 8)],
        6 * 5 * 8,
        6 * 8,
    ),
    "Attention concat": (
        both_inputs(layers.Attention(score_mode="concat")),
        [(6, 8), (5, 8)],
        6 * 5 * 8,
        6 * 8,
    ),
    # No kernel.
    "BatchNormalization": (layers.BatchNormalization(), [(6, 6, 4)], 0, 0),
    "LayerNormalization": (layers.LayerNormalization(), [(6, 4)], 0, 0),
    "GroupNormalization": (layers.GroupNormalization(2), [(6, 6, 4)], 0, 0),
    "PReLU": (layers.PReLU(), [(6, 6, 4)], 0, 0),
    "Activation": (layers.Activation("relu"), [(6, 6, 4)], 0, 0),
    "activation of Keras": (layers.Dense(5, activation="gelu"), [(6,)], 30, 5),
    "own activation": (layers.Dense(5, activation=lambda x: x * ops.tanh(x)), [(6,)], 30, 5),
    "activation that multiplies": (
        layers.Dense(6, activation=lambda x: ops.matmul(x, KERNEL)),
        [(6,)],
        36 + 30,
        6 + 5,
    ),
    "layer as activation": (layers.Activation(layers.Dense(6)), [(6,)], 36, 6),
    "Softmax": (layers.Softmax(), [(6,)], 0, 0),
    "MaxPooling2D": (layers.MaxPooling2D(2), [(6, 6, 4)], 0, 0),
    "GlobalAveragePooling2D": (layers.GlobalAveragePooling2D(), [(6, 6, 4)], 0, 0),
    "UpSampling2D": (layers.UpSampling2D(interpolation="bilinear"), [(6, 6, 4)], 0, 0),
    "ZeroPadding2D": (layers.ZeroPadding2D(1), [(6, 6, 4)], 0, 0),
    "Rescaling": (layers.Rescaling(2.0), [(6, 6, 4)], 0, 0),
    "Dropout": (layers.Dropout(0.5), [(6, 6, 4)], 0, 0),
    "Concatenate": (both_inputs(layers.Concatenate()), [(6, 4), (6, 3)], 0, 0),
    "arithmetic": (lambda x, y: ops.sqrt(x * y) + 2, [(6, 4), (6, 4)], 0, 0),
    "Embedding": (layers.Embedding(10, 4), [(6,)], 0, 0),
    "LocalResponseNormalization": (
        sd_keras.layers.LocalResponseNormalization(),
        [(4, 4, 8)],
        0,
        0,
    ),
    "IdentityShortcut": (sd_keras.layers.IdentityShortcut(8, 2), [(4, 4, 4)], 0, 0),
    # Looks like Embedding, and multiplies by its matrix on the way back.
    "ReversibleEmbedding": (reversed_embedding, [(6,)], 6 * 8 * 10, 6 * 10),
    # Ours.
    "Bottleneck": (
        sd_keras.layers.Bottleneck(7, 2, 4, preactivation=True),
        [(6, 6, 3)],
        6 * 6 * 3 * 4 + 3 * 3 * 4 * 4 * 4 + 3 * 3 * 4 * 7,
        6 * 6 * 4 + 3 * 3 * 4 + 3 * 3 * 7,
    ),
    "PatchConv2D": (sd_keras.layers.PatchConv2D(4, 3), [(7, 6, 2)], 4 * 9 * 2 * 4, 4 * 4),
    "GroupConv2D": (sd_keras.layers.GroupConv2D(6, 3, groups=3), [(6, 6, 3)], 16 * 9 * 6, 96),
    # Wrappers.
    "TimeDistributed": (
        layers.TimeDistributed(layers.Conv2D(4, 3)),
        [(3, 6, 6, 2)],
        3 * 4 * 4 * 9 * 2 * 4,
        3 * 4 * 4 * 4,
    ),
    "SpectralNormalization": (layers.SpectralNormalization(layers.Dense(4)), [(6,)], 24, 4),
    "Pipeline": (layers.Pipeline([layers.Dense(4)]), [(6,)], 24, 4),
    # A user's.
    "chain": (Chain(), [(6,)], 2 * 6 * 6 + 6 * 3, 6 + 6 + 3),
    "own matrix": (OwnMatrix(), [(4, 6)], 4 * 6 * 5, 4 * 5),
    "own matrix by operator": (OwnOperator(), [(4, 6)], 4 * 6 * 5, 4 * 5),
    "own matrix by einsum": (OwnEinsum(), [(4, 6)], 4 * 6 * 5, 4 * 5),
    "own convolutions": (
        OwnConvolution(),
        [(6, 6, 2)],
        3 * 3 * 9 * 2 * 5 + 3 * 3 * 9 * 10 + 3 * 3 * 4 * 7 * 10,
        3 * 3 * 5 + 3 * 3 * 10 + 6 * 6 * 7,
    ),
    "gate that hides a Dense": (both_inputs(GateThatHidesADense()), [(4,), (4,)], 16, 4),
    "standardized": (StandardizedConvolution(4, 3), [(6, 6, 2)], 1152, 64),
    "multiplies twice": (ConvolutionThatMultipliesTwice(4, 3), [(6, 6, 2)], 2 * 1152, 128),
    "renamed": (Renamed(), [(6, 6, 2)], 1152, 64),
    "Lambda": (layers.Lambda(lambda x: ops.matmul(x, KERNEL)), [(6,)], 30, 5),
    # Several calls, nesting.
    "called twice": (twice(layers.Dense(6)), [(6,)], 2 * 36, 12),
    "Sequential": (nested((6,), layers.Dense(5), layers.Dense(4)), [(6,)], 30 + 20, 9),
    "nested twice": (
        nested((6,), nested((6,), layers.Dense(5)), layers.Dense(4)),
        [(6,)],
        30 + 20,
        9,
    ),
    "nested called twice": (twice(nested((6,), layers.Dense(6))), [(6,)], 2 * 36, 12),
    "Function": (function_of((6,), layers.Dense(5)), [(6,)], 30, 5),
    # Windows in the first axis: 4 windows of 16 pixels.
    "windows, Dense": (
        lambda x: layers.Dense(7)(windows(16, 3)(x)),
        [(8, 8, 3)],
        64 * 3 * 7,
        64 * 7,
    ),
    "windows, Conv2D": (
        lambda x: layers.Conv2D(7, 3, padding="same")(windows(4, 4, 3)(x)),
        [(8, 8, 3)],
        64 * 9 * 3 * 7,
        64 * 7,
    ),
    "windows, DepthwiseConv2D channels_first": (
        lambda x: layers.DepthwiseConv2D(3, data_format="channels_first")(windows(3, 4, 4)(x)),
        [(3, 8, 8)],
        4 * 2 * 2 * 9 * 3,
        4 * 2 * 2 * 3,
    ),
    "windows, Conv2DTranspose": (
        lambda x: layers.Conv2DTranspose(7, 2, strides=2)(windows(4, 4, 3)(x)),
        [(8, 8, 3)],
        64 * 4 * 3 * 7,
        256 * 7,
    ),
    "windows, SeparableConv2D": (
        lambda x: layers.SeparableConv2D(7, 3, padding="same")(windows(4, 4, 3)(x)),
        [(8, 8, 3)],
        64 * (9 * 3 + 3 * 7),
        64 * (3 + 7),
    ),
    "windows, Attention": (
        lambda x: layers.Attention()([windows(16, 3)(x)] * 2),
        [(8, 8, 3)],
        4 * 2 * 16 * 16 * 3,
        4 * (16 * 16 + 16 * 3),
    ),
    "windows, MultiHeadAttention": (
        to_itself(layers.MultiHeadAttention(2, 4), windows(16, 3)),
        [(8, 8, 3)],
        4 * (4 * 16 * 3 * 8 + 2 * 2 * 16 * 16 * 4),
        4 * (3 * 16 * 8 + 2 * 16 * 16 + 16 * 8 + 16 * 3),
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_layers_equal_a_hand_count(name):
    call, shapes, macs, activations = COUNTED[name]
    got = costs_of(call, *shapes)
    assert got["macs"] == macs and got["flops"] == 2 * macs
    assert got["activations"] == activations
    if isinstance(call, layers.Layer):
        assert got["parameters"] + got["non_trainable"] == call.count_params()


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="a function of TensorFlow")
def test_an_activation_of_tensorflow_multiplies_by_nothing():
    import tensorflow as tf

    for activation in (tf.nn.relu, tf.nn.swish):
        assert costs_of(layers.Dense(5, activation=activation), (6,))["macs"] == 30


def test_flash_attention_multiplies_the_same():
    call, shapes, macs, activations = COUNTED["MultiHeadAttention"]
    got = costs_of(to_itself(layers.MultiHeadAttention(2, 4, flash_attention=True)), *shapes)
    assert (got["macs"], got["activations"]) == (macs, activations)


# What cannot be counted is named, and counts never zero.

RECURRENT = [
    layers.LSTM(4, name="odd"),
    layers.LSTM(4, unroll=True, name="odd"),
    layers.GRU(4, name="odd"),
    layers.SimpleRNN(4, name="odd"),
    layers.RNN(layers.LSTMCell(4), name="odd"),
    layers.Bidirectional(layers.LSTM(4), name="odd"),
]
NAMED = {
    **{f"{type(layer).__name__} {i}": (layer, (3, 6)) for i, layer in enumerate(RECURRENT)},
    "ConvLSTM2D": (layers.ConvLSTM2D(4, 3, name="odd"), (3, 6, 6, 2)),
    "MelSpectrogram": (layers.MelSpectrogram(16, 8, num_mel_bins=4, name="odd"), (64,)),
    "raw TensorFlow": (RawTensorFlow(name="odd"), (6,)),
    "Lambda of raw TensorFlow": (
        layers.Lambda(lambda x: sys.modules["tensorflow"].linalg.matmul(x, KERNEL), name="odd"),
        (6,),
    ),
    "own operation": (OwnOperation(name="odd"), (6,)),
    "vectorized_map": (
        layers.Lambda(lambda x: ops.vectorized_map(lambda r: r[None] @ KERNEL, x), name="odd"),
        (6,),
    ),
    "while_loop": (
        layers.Lambda(
            lambda x: ops.fori_loop(0, 3, lambda i, r: ops.matmul(r, ops.ones((6, 6))), x),
            name="odd",
        ),
        (6,),
    ),
    "outer": (layers.Lambda(lambda x: ops.outer(x, KERNEL), name="odd"), (6,)),
    "einsum of three": (
        layers.Lambda(lambda x: ops.einsum("bi,ij,ik->bjk", x, KERNEL, KERNEL), name="odd"),
        (6,),
    ),
    "inverse": (layers.Lambda(ops.inv, name="odd"), (4, 4)),
    "fft": (layers.Lambda(lambda x: ops.rfft(x)[0], name="odd"), (8,)),
}


@pytest.mark.parametrize("name", NAMED)
def test_layers_that_cannot_be_counted_are_named(name):
    if "TensorFlow" in name and keras.config.backend() != "tensorflow":
        pytest.skip("only TensorFlow runs it")
    layer, shape = NAMED[name]
    message = f"`network`.*Received: .*layer odd of type {type(layer).__name__}"
    with pytest.raises(ValueError, match=message):
        costs_of(layer, shape)


def test_a_layer_inside_others_is_named_with_them():
    inner = nested((3, 6), layers.Dense(6), layers.LSTM(4, name="odd"))
    inner.name = "outer"
    with pytest.raises(ValueError, match="layer odd of type LSTM, inside layer outer of type Seq"):
        costs_of(inner, (3, 6))


@pytest.mark.parametrize(
    "network",
    [Subclassed(), keras.Sequential([layers.Dense(3)]), "resnet8"],
    ids=["subclassed", "unbuilt", "name"],
)
def test_a_model_without_graph(network):
    with pytest.raises(ValueError, match="`network` must be a functional.*Received: network of"):
        analysis.costs(network)


def test_a_nested_subclassed_model_is_followed():
    assert costs_of(Subclassed(), (6,))["macs"] == 24


def test_input_of_unknown_size():
    network = network_of(layers.Conv2D(4, 3), (None, None, 2))
    with pytest.raises(ValueError, match="`input_shape` must be given.*Received: input_shape=None"):
        analysis.costs(network)
    assert analysis.costs(network, (6, 5, 2))["network"]["macs"] == 4 * 3 * 9 * 2 * 4
    for wrong in ((6, 5, 3), (6, 5), (6, 5, 2, 1)):
        with pytest.raises(ValueError, match=r"`input_shape` must fit.*Received: input_shape=\("):
            analysis.costs(network, wrong)
    with pytest.raises(ValueError, match=r"`input_shape` must be given.*Received: input_shape=\("):
        analysis.costs(network, (None, 5, 2))
    two = network_of(lambda x, y: layers.Dense(3)(x + y), (6,), (6,))
    with pytest.raises(ValueError, match="`input_shape` must fit"):
        analysis.costs(two, (6,))
    fixed = network_of(layers.Conv2D(4, 3), (6, 6, 2))
    with pytest.raises(ValueError, match="`input_shape` must fit"):
        analysis.costs(fixed, (8, 8, 2))


def test_an_image_that_is_too_small_names_the_layer():
    network = network_of(
        lambda x: layers.Conv2D(4, 3, name="odd")(layers.Conv2D(4, 3)(x)), (None, None, 2)
    )
    message = r"layer odd of type Conv2D for inputs of shape \[\(1, 2, 2, 4\)\]"
    with pytest.raises(ValueError, match=message):
        analysis.costs(network, (4, 4, 2))


def test_a_layer_that_wants_another_batch_is_named():
    call = layers.Lambda(lambda x: ops.reshape(x, (8, 16, 3)), name="odd")
    with pytest.raises(ValueError, match="image of this size.*layer odd of type Lambda"):
        costs_of(call, (8, 8, 3))


# Published figures.


@pytest.mark.parametrize(
    "build,macs,activations",
    [
        # Sandler et al. 2018 give 300 M; the exact count is 300.8 M.
        (keras.applications.MobileNetV2, 300.8e6, 6.7e6),
        # Tan and Le 2019 round to 0.39 G.
        pytest.param(keras.applications.EfficientNetB0, 385.8e6, 6.7e6, marks=pytest.mark.large),
        pytest.param(keras.applications.VGG16, 15.47e9, 13.56e6, marks=pytest.mark.large),
        # Liu et al. 2022: 4.5 G; timm 4.46 G and 13.4 M.
        pytest.param(keras.applications.ConvNeXtTiny, 4.46e9, 13.4e6, marks=pytest.mark.large),
    ],
)
def test_published_costs(build, macs, activations):
    network = build(weights=None)
    got = analysis.costs(network, None if network.input_shape[1] else (224, 224, 3))
    (row,) = (got[name] for name in got if name != "ensemble")
    assert row["macs"] == pytest.approx(macs, rel=0.01)
    assert row["activations"] == pytest.approx(activations, rel=0.01)
    assert row["parameters"] + row["non_trainable"] == network.count_params()


# TensorFlow's profiler.

# What is counted here; the profiler also has additions of biases, means and the like.
PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul")


def profiled(network):
    """FLOPs by type of operation, of the network's graph for one image."""
    tf = pytest.importorskip("tensorflow")
    function = tf.function(lambda image: network(image, training=False))
    graph = function.get_concrete_function(tf.TensorSpec((1, *network.input_shape[1:]))).graph
    types = {operation.name: operation.type for operation in graph.get_operations()}
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    pending = [profiler.profile(graph, cmd="scope", options=options.with_empty_output().build())]
    found = collections.Counter()
    while pending:
        part = pending.pop()
        pending += part.children
        found[types.get(part.name)] += part.float_ops
    return {kind: found[kind] for kind in PRODUCTS if found[kind]}


def transposed_and_separable():
    """Transposed convolutions that pad: of others the profiler divides the output's positions
    by the strides and counts too many. Groups in `GroupConv2D`, because Keras compiles its
    own, which hides them."""
    return nested(
        (12, 12, 3),
        layers.Conv2D(4, 3, dilation_rate=2),
        layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        layers.SeparableConv2D(6, 3, depth_multiplier=2, strides=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
        sd_keras.layers.GroupConv2D(6, 3, groups=3, strides=2, padding="same"),
        layers.Flatten(),
        layers.Dense(3),
    )


def mobile_net():
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's profiler")
@pytest.mark.parametrize("build", [mobile_net, transposed_and_separable])
def test_flops_equal_tensorflows_profiler(build):
    network = build()
    found = profiled(network)
    assert sum(found.values()) == analysis.costs(network)["network"]["flops"]
    assert {"Conv2D", "DepthwiseConv2dNative", "MatMul"} <= set(found)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's profiler")
@pytest.mark.parametrize("name", ["resnet8", "preact_resnet18"])
def test_flops_of_each_exit_equal_tensorflows_profiler(name):
    network = sd_keras.attach_exits(models.build(name), 10)
    rows = analysis.costs(network)
    for exit_name in sd_keras.exit_names(network):
        part = sd_keras.submodel(network, exit_name)
        assert sum(profiled(part).values()) == rows[exit_name]["flops"]
        assert analysis.costs(part) == {"network": rows[exit_name]}
    assert sum(profiled(network).values()) == rows["ensemble"]["flops"]


# Memory.

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "uint8": 1, "bool": 1}
VIEWS = (layers.Dropout, layers.Flatten, layers.Reshape, layers.Identity)


def simulated_peak(network):
    """Runs a flat network layer by layer and weighs the tensors that are still needed."""
    steps = []

    def recorded(operation):
        def call(*args, **kwargs):
            outputs = operation(*args, **kwargs)
            taken = [t for t in tree.flatten((args, kwargs)) if keras.ops.is_tensor(t)]
            steps.append((operation, taken, tree.flatten(outputs)))
            return outputs

        return call

    inputs = [ops.zeros((1, *t.shape[1:]), dtype=t.dtype) for t in network.inputs]
    results = tree.flatten(network._run_through_graph(inputs, operation_fn=recorded))
    buffer = {id(t): t for t in inputs}
    for operation, taken, made in steps:
        for tensor in made:
            same = isinstance(operation, VIEWS) and tensor.dtype == taken[0].dtype
            buffer[id(tensor)] = buffer[id(taken[0])] if same else tensor
    users = [[buffer[id(t)] for t in (*taken, *made)] for _, taken, made in steps]
    users.append([buffer[id(t)] for t in results])
    born = {id(t): 0 for t in inputs}
    for index, used in enumerate(users):
        for tensor in used:
            born.setdefault(id(tensor), index)
    peaks = []
    for index in range(len(users)):
        alive = {id(t): t for used in users[index:] for t in used if born[id(t)] <= index}
        peaks.append(sum(weigh(tensor) for tensor in alive.values()))
    return max(peaks)


def weigh(tensor):
    return math.prod(tensor.shape) * BYTES[keras.backend.standardize_dtype(tensor.dtype)]


def chain(x):
    return layers.Dense(2)(layers.Dense(9)(layers.Dense(7)(x)))


def residual(x):
    x = layers.Dense(6)(x)
    return layers.Add()([x, layers.Dense(6)(layers.Dense(9)(x))])


def branches(x):
    left = layers.Dense(3)(layers.Dense(8)(x))
    return layers.Concatenate()([left, layers.Dense(5)(x), x])


def views(x):
    x = layers.Reshape((5, 2))(layers.Dropout(0.5)(layers.Dense(10)(x)))
    return layers.Dense(2)(layers.Flatten()(x))


# Elements at the worst moment, from an input of 4.
PEAKS = {
    chain: 7 + 9,
    residual: 6 + 6 + 9,
    # Input, left and its 8 wide predecessor; at the end input, 3, 5 and their 12.
    branches: 4 + 3 + 5 + 12,
    views: 4 + 10,
    lambda x: layers.Add()([(y := layers.Dense(9)(x)), y]): 9 + 9,
    lambda x: layers.Flatten()(layers.Dense(9)(x)): 4 + 9,
    # A dropout that always draws makes a tensor.
    lambda x: layers.Dropout(0.5)(layers.Dense(9)(x), training=True): 9 + 9,
    lambda x: ops.reshape(layers.Dense(9)(x), (-1, 3, 3)): 4 + 9,
    # Two outputs: the first stays.
    lambda x: [(y := layers.Dense(20)(x)), layers.Dense(3)(layers.Dense(9)(y))]: 20 + 9 + 3,
    # Between two convolutions of one layer lies a tensor.
    lambda x: layers.SeparableConv1D(2, 1, depth_multiplier=5)(layers.Reshape((2, 2))(x)): 4
    + 20
    + 4,
}


@pytest.mark.parametrize("call", PEAKS)
def test_peak_equals_a_hand_count(call):
    assert costs_of(call, (4,))["peak_activation_bytes"] == 4 * PEAKS[call]


def random_network(generator):
    """A graph of vectors that branches and meets."""
    tensors = [keras.Input((4,))]
    for _ in range(10):
        x = tensors[generator.integers(max(0, len(tensors) - 4), len(tensors))]
        y = tensors[generator.integers(len(tensors))]
        kind = generator.integers(6)
        if kind == 0:
            x = layers.Add()([x, y if x.shape == y.shape else x])
        elif kind == 1 and x is not y:
            x = layers.Concatenate()([x, y])
        elif kind == 2:
            x = layers.Flatten()(layers.Dropout(0.5)(x))
        elif kind == 3:
            x = layers.ReLU()(x)
        else:
            x = layers.Dense(int(generator.integers(1, 12)))(x)
        tensors.append(x)
    return keras.Model(tensors[0], [tensors[-1], tensors[generator.integers(1, 10)]])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_peak_equals_a_simulation(policy):
    keras.config.set_dtype_policy(policy)
    generator = np.random.default_rng(0)
    calls = [chain, residual, branches, views]
    networks = [network_of(call, (4,)) for call in calls]
    networks += [random_network(generator) for _ in range(12)]
    networks.append(models.resnet((8, 8, 3), "cifar", (1, 1), (4, 8)))
    for network in networks:
        got = analysis.costs(network)["network"]["peak_activation_bytes"]
        assert got == simulated_peak(network)


def test_peak_in_16_bits():
    """The image is float32, Flatten casts it, the classifier is float32 again."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    call = nested((4,), layers.Flatten(), layers.Dense(9), layers.Dense(7, dtype="float32"))
    assert costs_of(call, (4,))["peak_activation_bytes"] == 2 * 9 + 4 * 7
    keras.config.set_dtype_policy("float32")
    image = network_of(lambda x: layers.Rescaling(2.0)(x), (4,), dtype="uint8")
    assert analysis.costs(image)["network"]["peak_activation_bytes"] == 4 + 4 * 4


def test_nesting_changes_no_cost():
    """What a nested model takes stays alive where it is needed afterwards."""

    def inner(x):
        return layers.Dense(6)(layers.Dense(3)(layers.Dense(9)(x)))

    def whole(part):
        def call(x):
            x = layers.Dense(6)(x)
            return layers.Dense(1)(layers.Add()([x, part(x)]))

        return call

    flat = costs_of(whole(inner), (4,))
    assert flat["peak_activation_bytes"] == 4 * (6 + 9 + 3)
    assert costs_of(whole(network_of(inner, (6,))), (4,)) == flat
    deeper = network_of(network_of(inner, (6,)), (6,))
    assert costs_of(whole(deeper), (4,)) == flat


def test_self_attention_stores_its_input_once():
    """At the scores of one image: queries, keys, values, scores and the result, alone."""
    attention = layers.MultiHeadAttention(2, 4)
    got = costs_of(to_itself(attention), (6, 8))["peak_activation_bytes"]
    assert got == 4 * (3 * 6 * 8 + 2 * 6 * 6 + 6 * 8)


def test_a_model_called_with_a_dict_gets_each_input_by_name():
    """Keras hands inputs over by name, though the model lists them in another order."""
    wide, narrow = keras.Input((9,), name="b"), keras.Input((4,), name="a")
    inner = keras.Model([wide, narrow], layers.Dense(3)(wide) + layers.Dense(3)(narrow))
    got = costs_of(lambda x, y: inner({"b": x, "a": y}), (9,), (4,))
    assert got["macs"] == 9 * 3 + 4 * 3


# Parameters, and what counting leaves behind.


def test_parameters_are_counted_once_and_frozen_ones_too():
    dense, normalization = layers.Dense(6), layers.BatchNormalization()
    dense.trainable = normalization.trainable = False
    network = network_of(lambda x: normalization(dense(dense(x))), (6,))
    for trainable in (True, False):
        network.trainable = trainable
        row = analysis.costs(network)["network"]
        assert (row["parameters"], row["non_trainable"]) == (6 * 6 + 6 + 12, 12)
    assert costs_of(function_of((6,), layers.Dense(5)), (6,))["parameters"] == 35


def test_a_part_costs_what_the_whole_does_not_need():
    """A layer behind the first exit costs the first exit nothing."""
    network = sd_keras.attach_exits(models.build("resnet8", (8, 8, 1)), 3)
    rows = analysis.costs(network)
    trained = sum(math.prod(v.shape) for v in network.trainable_variables)
    assert rows["ensemble"]["parameters"] == trained
    assert rows["exit_1"]["parameters"] < trained
    frozen = sd_keras.attach_exits(models.build("resnet8", (8, 8, 1)), 3, freeze=True)
    assert analysis.costs(frozen) == rows


def test_counting_leaves_the_model_as_it_is():
    shared = layers.Dense(6, name="shared")

    class Reuses(layers.Layer):
        """Holds a layer of the network."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = shared

        def call(self, inputs):
            return self.inner(inputs)

    def call(x):
        x = Chain(name="chain")(shared(x))
        return layers.Dense(2)(nested((6,), layers.Dense(6))(Reuses()(layers.Dense(6)(x))))

    network = network_of(call, (6,))
    every = list(network._flatten_layers())
    attended = network_of(to_itself(layers.MultiHeadAttention(2, 4)), (6, 8))
    every += attended._flatten_layers()
    outputs = {layer.name: layer.output for layer in network.layers}

    def calls():
        return [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in every]

    before = calls()
    first = analysis.costs(network), analysis.costs(attended)
    assert calls() == before
    assert (analysis.costs(network), analysis.costs(attended)) == first
    assert all(layer.output is outputs[layer.name] for layer in network.layers)
    # The layers can be cut and called as before.
    part = keras.Model(network.input, network.get_layer("chain").output)
    assert part([np.ones((2, 6))]).shape == (2, 3)
    assert keras.Model.from_config(part.get_config(), {"Chain": Chain}).count_params() > 0
