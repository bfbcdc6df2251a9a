"""Every network of `MODELS`: the papers' counts, and what each must be able to do."""

import functools
import math

import keras
import numpy as np
import pytest
from conftest import large_except
from keras import layers
from test_losses import numpy

from sd_keras import SelfDistillModel, analysis, attach_exits, exit_names, methods, models
from sd_keras import submodel as submodel_of
from sd_keras.distortions import CropFlip
from sd_keras.layers import BatchNormalization

# Trainable parameters at 100 classes, moving statistics, MACs in millions at 100 classes and
# 32x32 pixels, width of the features. From the papers' tables but where a comment says other.
COUNTS = {
    "resnet8": (81_140, 480, 12.2, 64),  # counted here, as 20, 44 and 56; no table has them
    "resnet20": (275_572, 1_376, 40.6, 64),
    "resnet32": (470_004, 2_272, 68.9, 64),
    "resnet44": (664_436, 3_168, 97.2, 64),
    "resnet56": (858_868, 4_064, 125.5, 64),
    "resnet110": (1_733_812, 8_096, 252.9, 64),
    "resnet18": (11_220_132, 9_600, 555.5, 512),
    "resnet34": (21_328_292, 17_024, 1159.4, 512),
    "resnet50": (23_705_252, 53_120, 1298.0, 2048),
    "resnet101": (42_697_380, 105_344, 2510.2, 2048),
    "resnet152": (58_341_028, 151_424, 3722.3, 2048),
    "preact_resnet18": (11_218_340, 7_808, 555.5, 512),
    "preact_resnet34": (21_326_500, 15_232, 1159.4, 512),
    "wide_resnet_16_8": (11_007_540, 7_200, 1548.2, 512),
    "wide_resnet_20_8": (17_204_276, 10_784, 2454.2, 512),
    "wide_resnet_28_10": (36_536_884, 17_952, 5243.4, 640),
    "wide_resnet_28_12": (52_587_060, 21_536, 7544.0, 768),
    "wide_resnet_40_4": (8_972_340, 10_784, 1298.6, 256),
    "wide_resnet_44_8": (41_991_220, 25_120, 6078.0, 512),
    "resnext29_8x64d": (34_518_948, 57_472, 5387.4, 1024),
    "pyramidnet101_240": (13_618_259, 91_924, 2325.3, 1024),
    "densenet40": (1_060_132, 18_096, 264.9, 448),
    "densenet100": (7_084_852, 117_216, 1769.6, 1168),
    # The DenseNet paper's table 2 has 0.8 M for DenseNet-BC-100 at 10 classes: 769,162.
    "densenet40_bc": (188_092, 5_088, None, 132),
    "densenet100_bc": (800_032, 23_988, None, 342),
    "vgg11_bn": (9_277_284, 5_504, None, 512),
    "vgg13_bn": (9_462_180, 5_888, None, 512),
    "vgg16_bn": (14_774_436, 8_448, None, 512),
    "vgg19_bn": (20_086_692, 11_008, 398.2, 512),
    "alexnet": (60_965_224 - 900 * 4097, 0, None, 4096),
}
# The same at 1000 classes and 224x224 pixels, AlexNet's 227x227.
IMAGENET = {
    "resnet18": (11_689_512, 9_600, 1814.1),
    "resnet50": (25_557_032, 53_120, 4089.2),
    "vgg19_bn": (143_678_248, 11_008, None),
    "alexnet": (60_965_224, 0, 724.4),
}
# Exits and sections of stages where they are not four.
EXITS = {"resnet8": 3}
# Of the first paper, with four exits and 100 classes: MACs in millions, plain; up to exits 1 to
# 3; of the heads; trainable, moving; acceleration of exits 1 to 3 and of the ensemble.
PAPERS = {
    "resnet18": (
        555.47,
        ((179.03, 296.47, 425.45), 40.00, 13_011_152, 14_208),
        (3.10, 1.87, 1.31, 0.933),
    ),
    "resnet34": (
        1159.45,
        ((254.53, 522.96, 953.93), 40.00, 23_119_312, 21_632),
        (4.56, 2.22, 1.22, 0.967),
    ),
    "resnet50": (
        1298.01,
        ((274.60, 580.79, 1047.40), 93.94, 26_732_752, 66_944),
        (4.73, 2.23, 1.24, 0.933),
    ),
    "resnet101": (
        2510.17,
        ((274.60, 580.79, 2259.56), 93.94, 45_724_880, 119_168),
        (9.14, 4.32, 1.11, 0.964),
    ),
    "resnet152": (
        3722.32,
        ((274.60, 866.00, 3471.71), 93.94, 61_368_528, 165_248),
        (13.56, 4.30, 1.07, 0.975),
    ),
}
# Be Your Own Teacher, table 5: accelerations of the exits and the ensemble.
TABLE_5 = {
    "resnet18": [3.11, 1.87, 1.30, 1, 0.93],
    "resnet50": [4.64, 2.20, 1.23, 1, 0.93],
    "resnet101": [9.00, 4.27, 1.11, 1, 0.96],
    "resnet152": [13.36, 4.29, 1.07, 1, 0.98],
}
# Blocks a stage of the networks with 6n + 2 layers.
CIFAR = {
    "resnet8": 1,
    "resnet20": 3,
    "resnet32": 5,
    "resnet44": 7,
    "resnet56": 9,
    "resnet110": 18,
}

# Tried with -m slow and -m large: the default run has small networks of the same builders.
DEEP = {"resnet101", "resnet152", "resnet110", "densenet100", "densenet100_bc"}
DEEP |= {"wide_resnet_20_8", "wide_resnet_28_10", "wide_resnet_28_12", "wide_resnet_44_8"}
DEEP |= {"pyramidnet101_240"}
SHAPE = (32, 32, 3)
GROUPS = {"groups": 8, "inner_width": 2, "split_last_stage": True}
SMALL_NETWORKS = {
    "bottleneck": lambda: models.resnet(SHAPE, "cifar", (1, 1, 1, 1), (8, 16, 24, 32), 4),
    "resnext": lambda: models.resnet(SHAPE, "cifar", (1, 1, 2), (8, 16, 32), 4, **GROUPS),
    "preact_resnet": lambda: models.preact_resnet(SHAPE, (1, 1, 1, 1), (8, 16, 24, 32), 8),
    "pyramidnet": lambda: models.pyramidnet(SHAPE, 1, 48),
    "densenet_bc": lambda: models.densenet(SHAPE, 16, bc=True),
}
# Of every builder one, and what else is built in a moment.
COUNTED_AT_ONCE = {"resnet8", "resnet20", "resnet18", "resnet50", "preact_resnet18", "densenet40"}
COUNTED_AT_ONCE |= {"resnext29_8x64d", "wide_resnet_40_4", "densenet40_bc", "vgg11_bn"}
SMALL = (8, 8, 3)


@functools.lru_cache(maxsize=1)  # tests of one network follow each other
def network_of(name):
    """A backbone and its network with the default exits and 100 classes."""
    keras.utils.set_random_seed(0)
    backbone = SMALL_NETWORKS[name]() if name in SMALL_NETWORKS else models.build(name)
    return backbone, attach_exits(backbone, 100)


@functools.cache
def costs_of(name):
    """Costs of the network with the default exits, and of the plain one, counted once."""
    backbone, network = network_of(name)
    return analysis.costs(network), analysis.costs(attach_exits(backbone, 100, at=[]))


def counted(cost):
    return cost["parameters"], cost["non_trainable"], cost["macs"]


def millions(macs, digits=2):
    return round(macs / 1e6, digits)


WIDTHS, SIZES = (16, 32, 64), (32, 16, 8)


def cifar_body(depths):
    """Trainable, moving and MAC of a ResNet with shortcut A on 32x32x3, by hand."""
    kernels, norms, macs = 3 * 3 * 3 * 16, 16, 32 * 32 * 3 * 3 * 3 * 16
    before = 16
    for depth, width, size in zip(depths, WIDTHS, SIZES):
        stage = 9 * before * width + (2 * depth - 1) * 9 * width * width
        kernels += stage
        macs += size * size * stage
        norms += 2 * depth * width
        before = width
    return np.array([kernels + 2 * norms, 2 * norms, macs])


def cifar_head(section, classes):
    """The same of the bottleneck and classifier behind one of the shallow sections."""
    width, size = (*WIDTHS, 64)[section - 1], (*SIZES, 8)[section - 1]
    pool = size // 8
    kernels = [width * 128, pool * pool * 128 * 128, 128 * 64]
    norms = 128 + 128 + 64
    trainable = sum(kernels) + norms + 2 * norms + 64 * classes + classes
    macs = size * size * kernels[0] + 8 * 8 * sum(kernels[1:]) + 64 * classes
    return np.array([trainable, 2 * norms, macs])


def classifier(classes):
    return np.array([64 * classes + classes, 0, 64 * classes])


def pictures(network, n, seed=0):
    shape = (n, *network.input_shape[1:])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def outputs_of(network, images):
    return {name: numpy(value) for name, value in network(images, training=False).items()}


def check_first_paper(name, costs, plain):
    macs, (exits, heads, total, moving), ratios = PAPERS[name]
    full, whole = plain["macs"], costs["ensemble"]
    assert millions(full) == macs
    assert tuple(millions(costs[f"exit_{i}"]["macs"]) for i in (1, 2, 3)) == exits
    assert counted(whole)[:2] == (total, moving)
    assert millions(whole["macs"] - full) == heads
    accelerations = tuple(round(full / costs[f"exit_{i}"]["macs"], 2) for i in (1, 2, 3))
    assert (*accelerations, round(full / whole["macs"], 3)) == ratios
    if name in TABLE_5:
        # Measured there, counted here: within 2 % everywhere.
        assert [full / row["macs"] for row in costs.values()] == pytest.approx(
            TABLE_5[name], rel=0.02
        )
    if name == "resnet18":
        cut = [costs[f"exit_{i}"]["parameters"] for i in (1, 2, 3, 4)]
        assert cut == [1_325_732, 1_073_060, 2_992_548, 11_220_132]


def check_second_paper(n, costs):
    """`n` blocks a stage, against a count by hand."""
    full = cifar_body((n, n, n)) + classifier(100)
    # Sections: stage 1, stage 2, ceil(n/2) blocks of stage 3, all of it; one block is not cut.
    sections = [(n,), (n, n), (n, n, math.ceil(n / 2))] if n > 1 else [(n,), (n, n)]
    heads = [cifar_head(section, 100) for section in range(1, len(sections) + 1)]
    for index, (depths, head) in enumerate(zip(sections, heads), start=1):
        assert counted(costs[f"exit_{index}"]) == tuple(cifar_body(depths) + head)
    assert counted(costs[f"exit_{len(heads) + 1}"]) == tuple(full)
    assert counted(costs["ensemble"]) == tuple(full + sum(heads))


def test_every_network_has_its_counts():
    assert set(COUNTS) == set(models.MODELS)


@pytest.mark.parametrize("name", large_except(COUNTS, COUNTED_AT_ONCE), scope="class")
class TestEveryNetwork:
    """All tests of one network follow each other, so each is built once."""

    def test_counts(self, name):
        network, (costs, plain) = network_of(name)[1], costs_of(name)
        trainable, moving, macs, width = COUNTS[name]
        assert list(plain) == ["exit_1", "ensemble"] and plain["exit_1"] == plain["ensemble"]
        assert counted(plain["exit_1"])[:2] == (trainable, moving)
        if macs:
            assert millions(plain["exit_1"]["macs"], 1) == macs
        names = exit_names(network)
        assert list(costs) == [*names, "ensemble"] and costs[names[-1]] == plain["exit_1"]
        # What another number of classes changes: rows of these.
        kernel, bias = network.get_layer(f"classifier_{len(names)}").weights
        assert kernel.shape == (width, 100) and bias.shape == (100,)
        if name in PAPERS:
            check_first_paper(name, costs, plain["exit_1"])
        if name in CIFAR:
            check_second_paper(CIFAR[name], costs)

    def test_exits_stand_where_the_papers_have_them(self, name):
        backbone, network = network_of(name)
        names = exit_names(network)
        assert len(names) == EXITS.get(name, 4)
        assert backbone.name == name and network.input.name == "image"
        stages = [backbone.get_layer(f"stage_{i}").output for i in range(1, len(names) + 1)]
        assert stages[-1] is backbone.output
        widths = {network.output[n.replace("exit", "features")].shape[-1] for n in names}
        assert widths == {COUNTS[name][3]}
        raw = name.startswith(("preact", "wide", "pyramid", "dense"))
        last_map = [t for t in stages if len(t.shape) == 4][-1].shape
        if name == "alexnet":
            last_map = backbone.get_layer("conv_5_pool").output.shape
        for index, tensor in enumerate(stages[:-1], start=1):
            head = network.get_layer(f"bottleneck_{index}")
            assert head.input is tensor and head.preactivation == raw
            assert head.pool == max(1, tensor.shape[1] // last_map[1])
            assert head.middle_filters == 128

    def test_traps_9_and_11(self, name):
        """The papers' normalisation; no strided convolution that pads like "same"."""
        _, network = network_of(name)
        parts = [part for layer in network.layers for part in getattr(layer, "blocks", [layer])]
        norms = [part for part in parts if isinstance(part, layers.BatchNormalization)]
        assert {(type(n), n.momentum, n.epsilon) for n in norms} == {
            (BatchNormalization, 0.9, 1e-5)
        }
        strided = [p for p in parts if isinstance(p, layers.Conv2D) and p.strides[0] > 1]
        assert strided and {part.padding for part in strided} == {"valid"}


AT_WORK = [pytest.param(n, marks=pytest.mark.slow) for n in COUNTS if n in DEEP]
AT_WORK += large_except([n for n in COUNTS if n not in DEEP], {"resnet8", "vgg11_bn"})
AT_WORK += SMALL_NETWORKS


@pytest.mark.parametrize("name", AT_WORK, scope="class")
class TestNetworksAtWork:
    def test_trains_one_step_with_both_methods(self, name):
        _, network = network_of(name)
        before = {v.path: numpy(v).copy() for v in network.trainable_variables}
        method = methods.be_your_own_teacher() + methods.data_distortion()
        model = SelfDistillModel(network, method, CropFlip(2, seed=0))
        model.compile("sgd", run_eagerly=True)
        history = model.fit(pictures(network, 2), np.arange(2), batch_size=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert set(model.term_names) <= set(history)
        still = [v.path for v in network.trainable_variables if (numpy(v) == before[v.path]).all()]
        # A bias in front of a normalisation has no gradient but rounding.
        assert not [path for path in still if not path.endswith("bias")]

    def test_cuts_with_equal_bits(self, name):
        backbone, network = network_of(name)
        images = pictures(network, 1)
        want = outputs_of(network, images)
        for index, exit_name in enumerate(exit_names(network), start=1):
            cut = submodel_of(network, exit_name)
            np.testing.assert_array_equal(numpy(cut(images, training=False)), want[exit_name])
            section = keras.Model(backbone.input, backbone.get_layer(f"stage_{index}").output)
            own = {layer.name for layer in cut.layers} - {layer.name for layer in section.layers}
            heads = {f"{part}_{index}" for part in ("bottleneck", "pool", "classifier")}
            assert own <= heads

    def test_loads_with_equal_bits(self, name, tmp_path):
        _, network = network_of(name)
        images = pictures(network, 1)
        want = outputs_of(network, images)
        assert all(np.isfinite(value).all() for value in want.values())
        network.save(tmp_path / "network.keras")
        for key, value in outputs_of(
            keras.models.load_model(tmp_path / "network.keras"), images
        ).items():
            np.testing.assert_array_equal(value, want[key])


@pytest.mark.parametrize("name", large_except(IMAGENET, {"resnet18"}))
def test_counts_on_imagenet(name):
    trainable, moving, macs = IMAGENET[name]
    shape = (227, 227, 3) if name == "alexnet" else (224, 224, 3)
    backbone = models.build(name, shape, "imagenet")
    network = attach_exits(backbone, 1000)
    costs, names = analysis.costs(network), exit_names(network)
    deepest = costs[names[-1]]
    assert len(names) == 4 and counted(deepest)[:2] == (trainable, moving)
    if macs:
        assert millions(deepest["macs"], 1) == macs
    if name == "resnet50":
        assert deepest["activations"] == pytest.approx(11.1e6, rel=0.01)
    if name.startswith("resnet"):
        assert backbone.output.shape[1:3] == (7, 7)


# Trainable at 10 classes, as the second paper's table has them.
AT_TEN_CLASSES = {
    "resnet32": 464_154,
    "resnet110": 1_727_962,
    "preact_resnet18": 11_172_170,
    "preact_resnet34": 21_280_330,
    "wide_resnet_40_4": 8_949_210,
    "wide_resnet_16_8": 10_961_370,
    "wide_resnet_28_10": 36_479_194,
    "densenet40": 1_019_722,
    "densenet100": 6_979_642,
    "densenet100_bc": 769_162,
}


@pytest.mark.parametrize("name", AT_TEN_CLASSES)
def test_counts_at_ten_classes(name):
    trainable, *_, width = COUNTS[name]
    assert trainable - 90 * (width + 1) == AT_TEN_CLASSES[name]


def test_arguments_left_out_are_the_networks_own():
    assert models.build("alexnet").input_shape == (None, 227, 227, 3)
    assert models.build("resnet8").input_shape == (None, 32, 32, 3)


@pytest.mark.parametrize(
    "name,arguments,message",
    [
        ("vgg19_bn", {"input_shape": (16, 16, 3)}, r"`input_shape` must be at least 32.*\(16, 16"),
        ("alexnet", {"input_shape": (32, 32, 3)}, r"`input_shape` must be at least 67.*\(32, 32"),
        ("resnet18", {"input_shape": (4, 8, 3)}, r"`input_shape` must be at least 8.*\(4, 8, 3"),
        ("resnet18", {"input_shape": (16, 16, 3), "stem": "imagenet"}, "must be at least 32"),
        ("densenet40", {"input_shape": (2, 9, 3)}, "`input_shape` must be at least 4"),
        ("resnet18", {"input_shape": (32, 32)}, r"`input_shape` must be \(height.*\(32, 32\)"),
        ("resnet18", {"input_shape": (None, None, 3)}, "`input_shape` must be.*None"),
        ("resnet18", {"input_shape": 32}, "`input_shape` must be.*32"),
        ("densenet40", {"stem": "imagenet"}, "`stem` must be 'cifar' for.*stem='imagenet'"),
        ("alexnet", {"stem": "cifar"}, "`stem` must be 'imagenet' for.*stem='cifar'"),
        ("vgg11_bn", {"stem": "mnist"}, "`stem` must be 'cifar' or 'imagenet'.*stem='mnist'"),
    ],
)
def test_what_a_network_cannot_take_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **arguments)


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: models.build(["resnet18"]), r"`name` must be one of .*name=\['resnet18'\]"),
        (lambda: models.build("resnet8", mean=None), "`mean` must be one number.*mean=None"),
        (lambda: models.build("resnet8", std="a"), "`std` must be one number.*std='a'"),
        (lambda: models.wide_resnet(SMALL, 1, 1.5, "wide"), "`factor` must be.*factor=1.5"),
        (lambda: models.pyramidnet(SMALL, 1, 9.5), "`widening` must be.*widening=9.5"),
        (lambda: models.pyramidnet(SMALL, 0, 9), "`blocks` must be.*blocks=0"),
        (lambda: models.densenet(SMALL, 40, 2.5), "`growth` must be.*growth=2.5"),
        (lambda: models.resnet(SMALL, "cifar", (1, 1, 1), (4, 8)), r"`depths` must be 2.*1, 1, 1"),
        (lambda: models.preact_resnet(SMALL, (1,), (4, 8), 4), r"`depths` must be 2.*\(1,\)"),
    ],
)
def test_what_a_builder_cannot_take_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_pixels_may_be_normalised_by_arrays():
    network = models.build("resnet8", mean=np.array(0.25), std=np.array([0.5, 0.25, 0.5]))
    layer = network.get_layer("normalize")
    np.testing.assert_allclose(numpy(layer(np.full((1, 1, 1, 3), 255.0)))[0, 0, 0], [1.5, 3, 1.5])


@pytest.mark.parametrize("depth,bc", [(41, False), (4, False), (43, True)])
def test_depths_that_a_densenet_cannot_have(depth, bc):
    with pytest.raises(ValueError, match=f"`depth` must be .n . 4. Received: depth={depth}"):
        models.densenet((32, 32, 3), depth, bc=bc)
