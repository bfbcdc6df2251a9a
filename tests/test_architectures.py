"""Each architecture, section by section, against a NumPy forward pass written from its paper.

The transcriptions know no builder. They take weights by the name of their layer and compute in
float64; widths, depths, shapes and the ends of the sections are the papers' figures. Residual
networks without groups are in `test_models.py`.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from test_losses import numpy
from test_models import MEAN, STD, normalized, pictures, randomize, relu

from sd_keras import models

# The operations.


def windows(x, size, stride):
    """All windows, `(n, rows, columns, channels, size, size)`."""
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return found[:, ::stride, ::stride]


def max_pool(x, size, stride):
    return windows(x, size, stride).max((4, 5))


def average_pool(x, keep_rest=False):
    """Means of 2x2 pixels; of an odd map the rest is dropped, or is averaged by itself."""
    height, width = x.shape[1:3]
    if not keep_rest:
        height, width = height // 2 * 2, width // 2 * 2
    x = x[:, :height, :width]

    def sums(x):
        return np.add.reduceat(np.add.reduceat(x, range(0, height, 2), 1), range(0, width, 2), 2)

    return sums(x) / sums(np.ones_like(x))


def response_norm(x, alpha):
    """Krizhevsky et al. 2012, section 3.3: k = 1, n = 5, β = 0.75, n channels around each."""
    channels = x.shape[-1]
    near = [slice(max(0, c - 2), min(channels, c + 3)) for c in range(channels)]
    energy = np.stack([(x[..., part] ** 2).sum(-1) for part in near], -1)
    return x / (1 + alpha * energy) ** 0.75


class Network:
    """The weights of a network, and the operations that they belong to.

    Operations check that their weights have the shape of the paper, and are noted: no layer
    may be left over that the transcription lacks.
    """

    def __init__(self, network):
        layers = (layer for layer in network.layers if layer.weights)
        self.of = {
            layer.name: [w.astype("float64") for w in layer.get_weights()] for layer in layers
        }
        self.used = []

    def take(self, name):
        self.used.append(name)
        return self.of[name]

    def conv(self, x, name, filters, size, stride=1, groups=1, pad=None, bias=False):
        """Each group of channels with kernels of its own; zeros on all sides."""
        kernel, *offset = self.take(name)
        assert kernel.shape == (size, size, x.shape[-1] // groups, filters)
        assert len(offset) == bias
        pad = size // 2 if pad is None else pad
        x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        parts = zip(np.split(x, groups, -1), np.split(kernel, groups, -1))
        axes = ((3, 4, 5), (2, 0, 1))
        y = [np.tensordot(windows(part, size, stride), own, axes) for part, own in parts]
        return sum(offset, np.concatenate(y, -1))

    def norm(self, x, name):
        return normalized(x, self.take(name))

    def dense(self, x, name, units):
        kernel, bias = self.take(name)
        assert kernel.shape == (x.shape[-1], units)
        return x @ kernel + bias


# The architectures. Each yields the outputs of its sections.


def blocks(depths, widths):
    """Name, width and stride of each block: all stages but the first start by halving."""
    for stage, (depth, width) in enumerate(zip(depths, widths), start=1):
        for block in range(1, depth + 1):
            yield f"group_{stage}_block_{block}", width, 2 if stage > 1 and block == 1 else 1


def preact_resnet(net, x, stem, depths, widths, ends):
    """He et al. 2016b, figure 4e, and WRN's B(3, 3): the first BN and ReLU feed both paths
    where the shortcut is a projection, which is a plain 1x1 convolution."""
    x = net.conv(x, "stem_conv", stem, 3)
    for count, (name, width, stride) in enumerate(blocks(depths, widths), start=1):
        activated = relu(net.norm(x, f"{name}_1_norm"))
        if x.shape[-1] == width and stride == 1:
            shortcut = x
        else:
            shortcut = net.conv(activated, f"{name}_shortcut_conv", width, 1, stride)
        y = net.conv(activated, f"{name}_1_conv", width, 3, stride)
        y = relu(net.norm(y, f"{name}_2_norm"))
        x = shortcut + net.conv(y, f"{name}_2_conv", width, 3, 1)
        if count in ends:
            yield x
    yield relu(net.norm(x, "final_norm"))


def resnext(net, x, depths, widths, ends):
    """Xie et al. 2017, figure 3c, 8 x 64d: the 3x3 is in groups and strided, ReLU comes after
    the addition, projections are 1x1 convolutions with BN."""
    x = relu(net.norm(net.conv(x, "stem_conv", 64, 3), "stem_norm"))
    for count, (name, width, stride) in enumerate(blocks(depths, widths), start=1):
        inner, shortcut = 8 * width, x
        if x.shape[-1] != 4 * width or stride > 1:
            shortcut = net.conv(x, f"{name}_shortcut_conv", 4 * width, 1, stride)
            shortcut = net.norm(shortcut, f"{name}_shortcut_norm")
        y = net.conv(x, f"{name}_1_conv", inner, 1, 1)
        y = relu(net.norm(y, f"{name}_1_norm"))
        y = net.conv(y, f"{name}_2_conv", inner, 3, stride, groups=8)
        y = relu(net.norm(y, f"{name}_2_norm"))
        y = net.norm(net.conv(y, f"{name}_3_conv", 4 * width, 1), f"{name}_3_norm")
        x = relu(y + shortcut)
        if count in ends:
            yield x


def pyramidnet(net, x, ends):
    """Han et al. 2017, equation 2 (rounded once, not at every step) and figure 6d: no ReLU in
    front of the first convolution nor after the last BN; the shortcut averages 2x2 pixels and
    has zero channels behind its own."""
    x = net.conv(x, "stem_conv", 16, 3)
    x = net.norm(x, "stem_norm")
    for count, (name, _, stride) in enumerate(blocks((11, 11, 11), (None,) * 3), start=1):
        width = 16 + 240 * count // 33
        y = net.norm(x, f"{name}_1_norm")
        y = net.conv(y, f"{name}_1_conv", width, 1, 1)
        y = relu(net.norm(y, f"{name}_2_norm"))
        y = net.conv(y, f"{name}_2_conv", width, 3, stride)
        y = relu(net.norm(y, f"{name}_3_norm"))
        y = net.norm(net.conv(y, f"{name}_3_conv", 4 * width, 1), f"{name}_4_norm")
        shortcut = average_pool(x, keep_rest=True) if stride == 2 else x
        missing = y.shape[-1] - x.shape[-1]
        x = y + np.pad(shortcut, [(0, 0)] * 3 + [(0, missing)])
        if count in ends:
            yield x
    yield relu(net.norm(x, "final_norm"))


def densenet(net, x, depth, bc, ends):
    """Huang et al. 2017, section 3, k = 12: BN, ReLU, convolution; what a layer adds stands
    behind its input. BC: a 1x1 convolution to 4k channels first, and half the channels after
    each block."""
    convolutions = [(48, 1), (12, 3)] if bc else [(12, 3)]
    x = net.conv(x, "stem_conv", 24 if bc else 16, 3)
    for count in range(1, 3 * depth + 1):
        stage, layer = divmod(count - 1, depth)
        if stage > 0 and layer == 0:
            x = relu(net.norm(x, f"transition_{stage}_norm"))
            x = net.conv(x, f"transition_{stage}_conv", x.shape[-1] // (2 if bc else 1), 1)
            x = average_pool(x)
        name, y = f"group_{stage + 1}_layer_{layer + 1}", x
        for index, (filters, size) in enumerate(convolutions, start=1):
            y = relu(net.norm(y, f"{name}_{index}_norm"))
            y = net.conv(y, f"{name}_{index}_conv", filters, size)
        x = np.concatenate([x, y], -1)
        if count in ends:
            yield x
    yield relu(net.norm(x, "final_norm"))


def vgg19(net, x, hidden):
    """Simonyan and Zisserman 2015, table 1, column E, with BN between convolution and ReLU."""
    for block, (depth, width) in enumerate(zip((2, 2, 4, 4, 4), (64, 128, 256, 512, 512)), 1):
        for index in range(1, depth + 1):
            x = net.conv(x, f"block_{block}_{index}_conv", width, 3, bias=True)
            x = relu(net.norm(x, f"block_{block}_{index}_norm"))
        x = max_pool(x, 2, 2)
        if 2 <= block <= (4 if hidden else 5):
            yield x
    if hidden:
        x = x.reshape(len(x), -1)
        for index in (1, 2):
            x = relu(net.dense(x, f"hidden_{index}", 4096))
        yield x


def alexnet(net, x):
    """Krizhevsky et al. 2012, section 3.5, as Caffe has it: α divided by the 5 channels, 96
    kernels of 11x11 without padding first, two groups in layers 2, 4 and 5."""
    x = relu(net.conv(x, "conv_1", 96, 11, stride=4, pad=0, bias=True))
    x = max_pool(response_norm(x, 1e-4 / 5), 3, 2)
    yield x
    x = relu(net.conv(x, "conv_2", 256, 5, groups=2, bias=True))
    x = max_pool(response_norm(x, alpha=1e-4 / 5), 3, 2)
    yield x
    x = relu(net.conv(x, "conv_3", 384, 3, bias=True))
    x = relu(net.conv(x, "conv_4", 384, 3, groups=2, bias=True))
    yield x
    x = relu(net.conv(x, "conv_5", 256, 3, groups=2, bias=True))
    x = max_pool(x, 3, 2).reshape(len(x), -1)
    for index in (1, 2):
        x = relu(net.dense(x, f"hidden_{index}", 4096))
    yield x


# What a builder could get wrong: edits of the transcriptions, which the weights still fit.


def swapped(x, name):
    """ReLU in front of the BN called `name` instead of behind it."""
    return {f"relu(net.norm({x}, {name}))": f"net.norm(relu({x}), {name})"}


MISTAKES = {
    preact_resnet: [
        swapped("x", 'f"{name}_1_norm"'),
        swapped("y", 'f"{name}_2_norm"'),
        swapped("x", '"final_norm"'),
        {'activated, f"{name}_shortcut_conv"': 'x, f"{name}_shortcut_conv"'},
        {"shortcut = x\n": "shortcut = activated\n"},
        {"width, 3, stride)": "width, 3)", "width, 3, 1)": "width, 3, stride)"},
    ],
    resnext: [
        swapped("y", 'f"{name}_1_norm"'),
        swapped("y", 'f"{name}_2_norm"'),
        {"relu(y + shortcut)": "relu(y) + shortcut"},
        {"inner, 1, 1)": "inner, 1, stride)", "inner, 3, stride,": "inner, 3, 1,"},
        {'y, f"{name}_2_conv"': 'np.roll(y, 64, -1), f"{name}_2_conv"'},
    ],
    pyramidnet: [
        swapped("y", 'f"{name}_2_norm"'),
        swapped("y", 'f"{name}_3_norm"'),
        swapped("x", '"final_norm"'),
        {'net.norm(x, "stem_norm")': 'relu(net.norm(x, "stem_norm"))'},
        {'net.conv(y, f"{name}_1_conv"': 'net.conv(relu(y), f"{name}_1_conv"'},
        {"width, 1, 1)": "width, 1, stride)", "width, 3, stride)": "width, 3, 1)"},
        {"x = y + ": "x = relu(y) + "},
        {"(0, missing)": "(missing, 0)"},
        {"average_pool(x, keep_rest=True)": "x[:, ::2, ::2]"},
    ],
    densenet: [
        swapped("y", 'f"{name}_{index}_norm"'),
        swapped("x", 'f"transition_{stage}_norm"'),
        swapped("x", '"final_norm"'),
        {"[x, y]": "[y, x]"},
        {"average_pool(x)": "max_pool(x, 2, 2)"},
    ],
    vgg19: [
        swapped("x", 'f"block_{block}_{index}_norm"'),
        {"max_pool(x, 2, 2)": "average_pool(x)"},
    ],
    alexnet: [
        {"max_pool(response_norm(x, 1e-4 / 5), 3, 2)": "max_pool(x, 3, 2)"},
        {"max_pool(response_norm(x, 1e-4 / 5), 3, 2)": "response_norm(max_pool(x, 3, 2), 2e-5)"},
        {"alpha=1e-4 / 5": "alpha=1e-4"},
        {'x, "conv_5"': 'np.roll(x, 192, -1), "conv_5"'},
        {"reshape(": "swapaxes(1, 3).reshape("},
    ],
}


def mistaken(transcription, edits):
    """The transcription with a mistake, made in its source."""
    source = inspect.getsource(transcription)
    for old, new in edits.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    scope = dict(globals())
    exec(source, scope)
    return scope[transcription.__name__]


# The networks.


class Case(NamedTuple):
    """Height and width of the images, the transcription and what it is told, and the number
    of layers in front of the classifier, shortcuts not counted, as the networks' names count."""

    images: tuple
    transcription: Callable
    figures: dict
    layers: int


BASIC = {"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512), "stem": 64, "ends": (2, 4, 6)}
WIDE = {"depths": (2, 2, 2), "widths": (128, 256, 512), "stem": 16, "ends": (2, 4, 5)}
GROUPS = {"depths": (3, 3, 3), "widths": (64, 128, 256), "ends": (3, 6, 8, 9)}
CASES = {
    "preact_resnet18": Case((16, 12), preact_resnet, BASIC, 17),
    "wide_resnet_16_8": Case((10, 6), preact_resnet, WIDE, 13),
    "resnext29_8x64d": Case((8, 6), resnext, GROUPS, 28),
    "pyramidnet101_240": Case((9, 7), pyramidnet, {"ends": (11, 22, 28)}, 100),
    "densenet40": Case((9, 14), densenet, {"depth": 12, "bc": False, "ends": (12, 24, 30)}, 39),
    "densenet100_bc": Case((8, 6), densenet, {"depth": 16, "bc": True, "ends": (16, 32, 40)}, 99),
    "vgg19_bn cifar": Case((32, 40), vgg19, {"hidden": False}, 16),
    "vgg19_bn imagenet": Case((32, 64), vgg19, {"hidden": True}, 18),
    "alexnet": Case((67, 99), alexnet, {}, 7),
}
SECTIONS = {
    "preact_resnet18": [(16, 12, 64), (8, 6, 128), (4, 3, 256), (2, 2, 512)],
    "wide_resnet_16_8": [(10, 6, 128), (5, 3, 256), (3, 2, 512), (3, 2, 512)],
    "resnext29_8x64d": [(8, 6, 256), (4, 3, 512), (2, 2, 1024), (2, 2, 1024)],
    "pyramidnet101_240": [(9, 7, 384), (5, 4, 704), (3, 2, 876), (3, 2, 1024)],
    "densenet40": [(9, 14, 160), (4, 7, 304), (2, 3, 376), (2, 3, 448)],
    "densenet100_bc": [(8, 6, 216), (4, 3, 300), (2, 1, 246), (2, 1, 342)],
    "vgg19_bn cifar": [(8, 10, 128), (4, 5, 256), (2, 2, 512), (1, 1, 512)],
    "vgg19_bn imagenet": [(8, 16, 128), (4, 8, 256), (2, 4, 512), (4096,)],
    "alexnet": [(7, 11, 96), (3, 5, 256), (3, 5, 384), (4096,)],
}
# AlexNet's responses must be some hundreds for their normalisation to matter; PyramidNet's sum of
# 33 blocks must not grow so large that the final BN's offset is nothing beside it.
SCALES = {"alexnet": ("conv_1/kernel", 300), "pyramidnet101_240": ("_4_norm/gamma", 0.3)}


class Run(NamedTuple):
    """A network with random weights, normalised pixels, and its sections' outputs for them."""

    name: str
    network: Network
    pixels: np.ndarray
    outputs: list

    def sections(self, transcription):
        """Section by section, so that who needs only the first does not pay for the last."""
        return transcription(self.network, self.pixels, **CASES[self.name].figures)


@pytest.fixture(scope="module", params=CASES)
def run(request):
    name, _, stem = request.param.partition(" ")
    size = (*CASES[request.param].images, 3)
    backbone = models.build(name, size, stem or None, mean=MEAN, std=STD)
    randomize(backbone)
    ending, factor = SCALES.get(name, ((), 1))
    for weight in backbone.weights:
        if weight.path.endswith(ending):
            weight.assign(weight * factor)
    layers = [backbone.get_layer(f"stage_{i}") for i in (1, 2, 3, 4)]
    assert layers[-1].output is backbone.output
    images = pictures(2, *size)
    outputs = keras.Model(backbone.input, [x.output for x in layers])(images, training=False)
    pixels = (images / 255 - np.array(MEAN)) / np.array(STD)
    return Run(request.param, Network(backbone), pixels, [numpy(output) for output in outputs])


def error(got, want):
    """Greatest difference, relative to the greatest value."""
    return np.abs(got - want).max() / np.abs(want).max()


def test_sections_equal_the_paper(run):
    case, network = CASES[run.name], run.network
    network.used.clear()
    sections = list(run.sections(case.transcription))
    assert [section.shape[1:] for section in sections] == SECTIONS[run.name]
    for got, want in zip(run.outputs, sections, strict=True):
        assert got.shape == want.shape
        assert want.std() > 0.1 and (want != 0).mean() > 0.1
        assert error(got, want) < 1e-4
    assert sorted(network.used) == sorted(network.of)  # every layer, once
    kernels = [name for name in network.used if network.of[name][0].ndim > 1]
    assert len([name for name in kernels if "shortcut" not in name]) == case.layers


def test_mistakes_would_be_noticed(run):
    transcription = CASES[run.name].transcription
    for edits in MISTAKES[transcription]:
        sections = run.sections(mistaken(transcription, edits))
        errors = (error(got, want) for got, want in zip(run.outputs, sections))
        assert any(e > 1e-3 for e in errors), edits
