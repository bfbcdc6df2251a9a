"""Exits on models that are not ours: keras.applications, KerasHub, KerasCV, hand-written ones.

Taps, the layers behind which exits stand, are written down by name where the name is stable.
"""

import itertools
import re

import keras
import numpy as np
import pytest
from conftest import large_except
from keras import applications, layers
from test_losses import close, numpy
from test_models import pictures, randomize

from sd_keras import SelfDistillModel, attach_exits, exit_names, methods, models, submodel

HEAD = re.compile(r"(map|token|bottleneck|pool|classifier)_\d+(_of_exit)*")


def entrances(network):
    """For each shallow exit the tensor that its head starts from."""
    found = []
    for index in range(1, len(exit_names(network))):
        for kind in ("token", "map", "bottleneck"):
            named = [each for each in network.layers if each.name == f"{kind}_{index}"]
            if named:
                found.append(named[0].input)
                break
    return found


def taps(network):
    """The names of the layers behind which the shallow exits stand."""
    return [tensor._keras_history.operation.name for tensor in entrances(network)]


def pooled(backbone, images, mean_axes=None):
    """Global average pooling of the backbone's own output."""
    output = backbone(images, training=False)
    if len(output.shape) == 3:
        output = keras.ops.expand_dims(output, 2)
    return numpy(layers.GlobalAveragePooling2D(data_format="channels_last")(output))


def check(backbone, network, images):
    """What holds for every network: shared variables, equal features, submodels cut behind."""
    assert {id(v) for v in backbone.variables} <= {id(v) for v in network.variables}
    names, outputs = exit_names(network), network(images, training=False)
    np.testing.assert_array_equal(
        numpy(outputs[f"features_{len(names)}"]), pooled(backbone, images)
    )
    tensors = [*entrances(network), network.output[f"features_{len(names)}"]]
    heads = {id(each) for each in network.operations if HEAD.fullmatch(each.name)}
    assert len(tensors) == len(names)
    for name, tensor in zip(names, tensors):
        cut = submodel(network, name)
        np.testing.assert_array_equal(numpy(cut(images, training=False)), numpy(outputs[name]))
        before = {id(each) for each in keras.Model(network.input, tensor).operations}
        assert {id(each) for each in cut.operations} - heads == before - heads
        assert np.isfinite(numpy(outputs[name])).all()


# keras.applications: one model a family.

FAMILIES = {
    "ResNet50": (32, ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out"]),
    "ResNet50V2": (32, ["conv2_block2_out", "conv3_block3_out", "conv4_block5_out"]),
    "VGG16": (32, ["block2_pool", "block3_pool", "block4_pool"]),
    "MobileNet": (32, ["conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu"]),
    "MobileNetV2": (32, ["block_2_add", "block_5_add", "block_12_add"]),
    "MobileNetV3Small": (32, [r"re_lu(_\d+)?", "expanded_conv_2_add", "expanded_conv_7_add"]),
    "EfficientNetB0": (32, ["block2b_add", "block3b_add", "block5c_add"]),
    "EfficientNetV2B0": (32, ["block2b_add", "block3b_add", "block5e_add"]),
    "ConvNeXtTiny": (32, [rf"convnext_tiny_downsampling_layernorm_{i}" for i in range(3)]),
    "DenseNet121": (32, ["pool2_relu", "pool3_relu", "pool4_relu"]),
    "InceptionV3": (75, [r"max_pooling2d(_\d+)?", "mixed2", "mixed7"]),
    "Xception": (71, [r"add(_\d+)?"] * 3),
    "NASNetMobile": (32, ["reduction_concat_stem_1", "normal_concat_3", "normal_concat_8"]),
}


def application(name, size):
    keywords = {"weights": None, "include_top": False, "input_shape": (size, size, 3)}
    return getattr(applications, name)(**keywords)


@pytest.mark.parametrize("name", large_except(FAMILIES, {"VGG16", "MobileNetV2", "ConvNeXtTiny"}))
def test_applications(name):
    size, expected = FAMILIES[name]
    backbone = application(name, size)
    network = attach_exits(backbone, 5)
    assert exit_names(network) == ["exit_1", "exit_2", "exit_3", "exit_4"]
    found = taps(network)
    assert all(re.fullmatch(*pair) for pair in zip(expected, found)), found
    sizes = [tensor.shape[1] for tensor in entrances(network)]
    assert sizes == sorted(set(sizes), reverse=True) or name == "InceptionV3"
    check(backbone, network, pictures(1, size, size, 3).astype("float32"))


@pytest.mark.large
def test_the_hidden_layers_of_vgg16():
    whole = applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=7)
    backbone = keras.Model(whole.input, whole.get_layer("fc2").output)
    network = attach_exits(backbone, 5)
    assert taps(network) == ["block2_pool", "block3_pool", "block4_pool"]
    assert {network.output[f"features_{i}"].shape for i in (1, 2, 3, 4)} == {(None, 4096)}
    images = pictures(1, 32, 32, 3).astype("float32")
    got = network(images, training=False)["features_4"]
    np.testing.assert_array_equal(numpy(got), numpy(backbone(images, training=False)))
    for name in ("flatten", "fc1"):
        with pytest.raises(ValueError, match=rf"`at`.*give a feature map; '{name}' is none.*at="):
            attach_exits(backbone, 5, at=[name])


# KerasHub and KerasCV.

SHAPE = (64, 64, 3)
FIVE = {
    "stackwise_kernel_sizes": [3] * 5,
    "stackwise_num_repeats": [1, 2, 2, 2, 2],
    "stackwise_input_filters": [8, 8, 8, 16, 24],
    "stackwise_output_filters": [8, 8, 16, 24, 32],
    "stackwise_expansion_ratios": [1, 2, 2, 2, 2],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 2],
}
KINDS = ["fused"] * 2 + ["unfused"] * 3


def hub_mobilenet(hub, shape):
    blocks = [2, 3, 3]
    return hub.MobileNetBackbone(
        stackwise_expansion=[[16, 24], [24, 32, 32], [48, 48, 48]],
        stackwise_num_blocks=blocks,
        stackwise_num_filters=[[8] * 2, [16] * 3, [24] * 3],
        stackwise_kernel_size=[[3] * n for n in blocks],
        stackwise_num_strides=[[2, 1], [2, 1, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None] * 2, [0.25] * 3, [0.25] * 3],
        stackwise_activation=[["relu"] * 2, ["hard_swish"] * 3, ["hard_swish"] * 3],
        stackwise_padding=[[1] * n for n in blocks],
        output_num_filters=32,
        input_num_filters=8,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=32,
        image_shape=shape,
    )


def hub_efficientnet(hub, shape):
    return hub.EfficientNetBackbone(
        **FIVE,
        stackwise_block_types=KINDS,
        stackwise_width_coefficients=[1.0] * 5,
        stackwise_depth_coefficients=[1.0] * 5,
        stackwise_force_input_filters=[0] * 5,
        stackwise_nores_option=[False] * 5,
        num_features=64,
        input_shape=shape,
    )


def hub_resnet(hub, shape, **keywords):
    stages = ([64, 16, 24, 32], [1, 1, 2, 1], [1, 2, 2, 2])
    return hub.ResNetBackbone([8], [3], *stages, "bottleneck_block", image_shape=shape, **keywords)


def hub_xception(hub, shape):
    filters = [[8, 12], [16, 16], [24, 24], [24, 24, 24], [24, 32], [32, 32]]
    return hub.XceptionBackbone(filters, [False, True, True, False, True, False], image_shape=shape)


def hub_mit(hub, shape):
    return hub.MiTBackbone(
        layerwise_depths=[1] * 4,
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[4, 2, 1, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[8, 8, 16, 16],
        image_shape=shape,
    )


def hub_swin(hub, shape):
    return hub.SwinTransformerBackbone(shape, 8, (1, 1, 2), (1, 2, 2), window_size=4, patch_size=2)


def hub_vit(hub, shape=(32, 32, 3), **keywords):
    """Patch 8: 16 patches and the class token, width 32, six blocks."""
    return hub.ViTBackbone(shape, (8, 8), 6, 2, 32, 64, **keywords)


HUB = {
    "ResNet": (hub_resnet, ["stack0_block0_out", "stack1_block0_out", "stack2_block1_out"]),
    "DenseNet": (
        lambda hub, shape: hub.DenseNetBackbone([2] * 4, image_shape=shape, growth_rate=8),
        ["stack1_block2_concat", "stack2_block2_concat", "stack3_block2_concat"],
    ),
    "EfficientNet": (hub_efficientnet, ["block2b_", "block3b_", "block4b_"]),
    "MobileNet": (hub_mobilenet, ["block_0_0", "block_1_1", "block_2_2"]),
    "VGG": (
        lambda hub, shape: hub.VGGBackbone([1, 1, 2, 2, 2], [4, 8, 8, 16, 16], image_shape=shape),
        ["block2_pool", "block3_pool", "block4_pool"],
    ),
    "Xception": (hub_xception, ["block1_conv2_act", "block2_residual_add", "block4_residual_add"]),
    "MiT": (hub_mit, ["output_level_0", "output_level_1", "output_level_2"]),
    "Swin": (hub_swin, ["stage_0", "stage_1"]),
    "ViT": (hub_vit, ["transformer_block_1", "transformer_block_3", "transformer_block_4"]),
}


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub", reason="KerasHub is not installed").models


@pytest.mark.large
@pytest.mark.parametrize("family", HUB)
def test_keras_hub(family, hub):
    build, expected = HUB[family]
    backbone = build(hub, (32, 32, 3) if family == "ViT" else SHAPE)
    network = attach_exits(backbone, 5)
    assert taps(network) == expected
    check(backbone, network, pictures(2, *backbone.input_shape[1:]).astype("float32"))


@pytest.mark.large
def test_keras_hub_without_a_size(hub):
    """The pyramid of a backbone for images of any size, on a size that is no square."""
    backbone = hub_resnet(hub, (None, None, 3))
    network = attach_exits(backbone, 5, input_shape=(64, 96, 3))
    assert taps(network) == ["stack0_block0_out", "stack1_block0_out", "stack2_block1_out"]
    assert [t.shape[1:3] for t in entrances(network)] == [(16, 24), (8, 12), (4, 6)]
    check(backbone, network, pictures(2, 64, 96, 3).astype("float32"))
    assert backbone(np.zeros((1, 32, 32, 3))).shape == (1, 1, 1, 128)
    with pytest.raises(ValueError, match="`input_shape` must be given.*Received: input_shape=None"):
        attach_exits(backbone, 5)


def hgnet(hub):
    return hub.HGNetV2Backbone(
        depths=[1, 1, 2],
        embedding_size=8,
        hidden_sizes=[16, 24, 32],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[(8, 4, 16, 1, 1, 3), (16, 8, 24, 1, 1, 3), (24, 8, 32, 2, 1, 3)],
        apply_downsample=[False, True, True],
        use_lightweight_conv_block=[False] * 3,
        image_shape=SHAPE,
    )


@pytest.mark.large
def test_keras_hub_with_several_outputs(hub):
    """HGNetV2 puts out a dict of stages: the last of them makes a backbone."""
    whole = hgnet(hub)
    with pytest.raises(ValueError, match="`backbone` must.*HGNetV2Backbone with .* output {'stem'"):
        attach_exits(whole, 5)
    backbone = keras.Model(whole.input, whole.output["stage3"])
    network = attach_exits(backbone, 5)
    assert [t.shape[1] for t in entrances(network)] == [16, 8]  # no map of 32 is visible
    check(backbone, network, pictures(2, *SHAPE).astype("float32"))


@pytest.mark.large
def test_keras_hub_layers_that_cannot_be_followed(hub):
    """DeiT's blocks give (tokens, None): no graph of tensors holds them."""
    backbone = hub.DeiTBackbone((32, 32, 3), (8, 8), 2, 2, 32, 64)
    for at in (None, 2, ["transformer_block_1"]):
        with pytest.raises(ValueError, match="^`backbone` must.*Received: backbone 'dei_t"):
            attach_exits(backbone, 5, at=at)
    network = attach_exits(backbone, 5, at=[], pooling="token")
    assert network.output["features_1"].shape == (None, 32)


@pytest.mark.parametrize(
    "pooling,at,blocks",
    [
        ("token", ["transformer_block_2", "transformer_block_5"], [2, 5]),
        *(
            pytest.param(*case, marks=pytest.mark.large)
            for case in [
                ("average", ["transformer_block_2", "transformer_block_5"], [2, 5]),
                ("token", None, [1, 3, 4]),
                ("average", [0.5], [3]),
                ("average", 3, [2, 4]),
            ]
        ),
    ],
)
def test_the_blocks_of_a_vit(pooling, at, blocks, hub, tmp_path):
    """Its encoder is one layer, which is laid open; names and weights are the blocks' own."""
    backbone = hub_vit(hub)
    network = attach_exits(backbone, 5, at=at, pooling=pooling)
    assert taps(network) == [f"transformer_block_{block}" for block in blocks]
    randomize(network)
    images = pictures(2, 32, 32, 3).astype("float32")
    got, tokens = network(images, training=False), numpy(backbone(images, training=False))
    deepest = numpy(got[exit_names(network)[-1].replace("exit", "features")])
    close(deepest, tokens[:, 0] if pooling == "token" else tokens.mean(1), 1e-4, 1e-4)
    assert {id(v) for v in backbone.variables} <= {id(v) for v in network.variables}
    for name, depth in zip(exit_names(network), [*blocks, 6]):
        cut = submodel(network, name)
        np.testing.assert_array_equal(numpy(cut(images, training=False)), numpy(got[name]))
        names = {each.name for each in cut.operations}
        assert len(names & {f"transformer_block_{i}" for i in range(1, 7)}) == depth
    network.save_weights(tmp_path / "exits.weights.h5")
    other = attach_exits(hub_vit(hub), 5, at=at, pooling=pooling)
    other.load_weights(tmp_path / "exits.weights.h5")
    close(other(images, training=False)["exit_1"], numpy(got["exit_1"]), 1e-5, 1e-5)


def test_a_vit_within_another_model(hub):
    backbone = hub_vit(hub, use_class_token=False)
    outer = around(backbone)
    network = attach_exits(outer, 5, at=["transformer_block_2"])
    assert taps(network) == ["transformer_block_2"]
    check(outer, network, pictures(2, 32, 32, 3))


def cv_mobilenet(cv, shape):
    return cv.MobileNetV3Backbone(
        stackwise_expansion=[1, 2, 2, 2, 2, 2],
        stackwise_filters=[8, 8, 16, 16, 24, 24],
        stackwise_kernel_size=[3] * 6,
        stackwise_stride=[2, 2, 2, 1, 2, 1],
        stackwise_se_ratio=[0.25, None, 0.25, 0.25, 0.25, 0.25],
        stackwise_activation=["relu"] * 3 + ["hard_swish"] * 3,
        include_rescaling=True,
        input_shape=shape,
    )


def cv_resnet(cv, shape):
    return cv.ResNetBackbone(
        stackwise_filters=[8, 16, 24, 32],
        stackwise_blocks=[1, 1, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        input_shape=shape,
    )


def cv_darknet(cv, shape):
    return cv.CSPDarkNetBackbone(
        stackwise_channels=[8, 16, 24, 32],
        stackwise_depth=[1] * 4,
        include_rescaling=True,
        input_shape=shape,
    )


def cv_efficientnet(cv, shape):
    return cv.EfficientNetV2Backbone(
        **FIVE,
        stackwise_conv_types=KINDS,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        include_rescaling=True,
        input_shape=shape,
    )


CV = {
    "MobileNetV3": (
        cv_mobilenet,
        [f"expanded_conv_{i}" for i in ("project_BatchNorm", "1_project_BatchNorm", "3_Add")],
    ),
    "ResNet": (cv_resnet, [f"v2_stack_{i}_out" for i in ("0_block1", "1_block1", "2_block2")]),
    "CSPDarkNet": (cv_darknet, ["dark2_csp", "dark3_csp", "dark4_csp"]),
    "EfficientNetV2": (cv_efficientnet, ["block2b_", "block3b_", "block4b_"]),
}


@pytest.mark.large
@pytest.mark.parametrize("family,known", [*((family, True) for family in CV), ("ResNet", False)])
def test_keras_cv(family, known):
    cv = pytest.importorskip("keras_cv", reason="KerasCV is not installed").models
    build, expected = CV[family]
    backbone = build(cv, SHAPE if known else (None, None, 3))
    network = attach_exits(backbone, 5, input_shape=SHAPE)
    assert taps(network) == expected
    check(backbone, network, pictures(2, *SHAPE).astype("float32"))


# Hand-written models.


def plain(size=16, channels=3, data_format="channels_last", name="plain"):
    """Four convolutions at 16, 8, 4 and 2 pixels, each a quarter of the cost."""
    first = data_format == "channels_first"
    x = image = keras.Input((channels, size, size) if first else (size, size, channels))
    for index, filters in enumerate((4, 12, 16, 48), start=1):
        options = {"padding": "same", "data_format": data_format, "name": f"conv_{index}"}
        x = layers.Conv2D(filters, 3, **options)(x)
        x = layers.BatchNormalization(axis=1 if first else -1, name=f"norm_{index}")(x)
        x = layers.ReLU(name=f"relu_{index}")(x)
        if index < 4:
            x = layers.MaxPooling2D(2, data_format=data_format, name=f"shrink_{index}")(x)
    return keras.Model(image, x, name=name)


def around(backbone, name="outer"):
    """The backbone as one layer behind preprocessing."""
    image = keras.Input(backbone.input_shape[1:], name=f"{name}_image")
    x = layers.Rescaling(1 / 255, name=f"{name}_scale")(image)
    return keras.Model(image, backbone(x), name=name)


SHRINKS = ["shrink_1", "shrink_2", "shrink_3"]


def vit(tokens="token"):
    """A small transformer written with functions only."""
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 4, strides=4, name="patches")(image)
    x = layers.Reshape((16, 16), name="tokens")(x)
    for block in range(1, 5):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        y = layers.MultiHeadAttention(2, 8, name=f"attention_{block}")(y, y)
        x = layers.Add(name=f"sum_{block}")([x, y])
        y = layers.Dense(32, "gelu", name=f"wide_{block}")(x)
        y = layers.Dense(16, name=f"narrow_{block}")(y)
        x = layers.Add(name=f"block_{block}")([x, y])
    return keras.Model(image, layers.LayerNormalization(name="norm")(x), name="vit")


@pytest.mark.parametrize(
    "at,expected",
    [
        (None, ["sum_1", "block_2", "block_3"]),
        (2, ["block_2"]),
        ([0.4], ["sum_2"]),
        (["block_3"], ["block_3"]),
    ],
)
def test_a_transformer_written_by_hand(at, expected):
    backbone = vit()
    network = attach_exits(backbone, 5, at=at)
    assert taps(network) == expected
    assert all(network.get_layer(f"bottleneck_{i + 1}").preactivation for i in range(len(expected)))
    check(backbone, network, pictures(2, 16, 16, 3).astype("float32"))


def cells():
    """Each cell reads the two before, as in NASNet: two tensors live at every cut."""
    image = keras.Input((16, 16, 3))
    before = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    last = layers.Conv2D(4, 3, padding="same", name="stem_2")(before)
    for index in range(1, 7):
        if index in (3, 5):
            shrink = {"strides": 2, "padding": "same"}
            before = layers.Conv2D(4, 1, **shrink, name=f"cell_{index}_before")(before)
            last = layers.Conv2D(4, 3, **shrink, name=f"cell_{index}_last")(last)
        a = layers.Conv2D(4, 3, padding="same", name=f"cell_{index}_a")(last)
        b = layers.Conv2D(4, 3, padding="same", name=f"cell_{index}_b")(before)
        c = layers.Add(name=f"cell_{index}_sum")([a, b])
        d = layers.Conv2D(4, 3, padding="same", name=f"cell_{index}_d")(a)
        before, last = last, layers.Concatenate(name=f"cell_{index}")([c, d])
    return keras.Model(image, last)


@pytest.mark.parametrize("at,expected", [(None, ["cell_2", "cell_4"]), (3, ["cell_1", "cell_2"])])
def test_two_tensors_alive_at_every_cut(at, expected):
    backbone = cells()
    network = attach_exits(backbone, 5, at=at)
    assert taps(network) == expected
    check(backbone, network, pictures(2, 16, 16, 3).astype("float32"))


def test_a_decoder_has_exits_at_the_other_resolutions():
    image = keras.Input((16, 16, 3))
    options = {"padding": "same", "activation": "relu"}
    a = layers.Conv2D(4, 3, **options, name="down_1")(image)
    b = layers.Conv2D(4, 3, strides=2, **options, name="down_2")(a)
    c = layers.Conv2D(4, 3, strides=2, **options, name="down_3")(b)
    d = layers.Concatenate(name="up_2")([layers.UpSampling2D()(c), b])
    d = layers.Conv2D(4, 3, **options, name="up_2_conv")(d)
    e = layers.Concatenate(name="up_1")([layers.UpSampling2D()(d), a])
    backbone = keras.Model(image, layers.Conv2D(4, 3, **options, name="up_1_conv")(e))
    assert taps(attach_exits(backbone, 5)) == ["up_2"]


@pytest.fixture
def image_data_format():
    """Sets Keras's own format, and puts it back."""
    yield keras.config.set_image_data_format
    keras.config.set_image_data_format("channels_last")


FORMATS = list(itertools.product((None, [], ["relu_2"]), (False, True), ("last", "first")))
QUICK_FORMATS = [(None, True, "first"), (["relu_2"], False, "last")]


@pytest.mark.parametrize(
    "at,nested,everywhere",
    [
        pytest.param(*case, marks=() if case in QUICK_FORMATS else pytest.mark.large)
        for case in FORMATS
    ],
)
def test_channels_first(at, nested, everywhere, image_data_format):
    """The same numbers as the channels_last model with the same weights."""
    import tensorflow as tf

    first, last = plain(data_format="channels_first"), plain()
    randomize(last)
    first.set_weights(last.get_weights())
    image_data_format(f"channels_{everywhere}")
    networks = [attach_exits(around(b) if nested else b, 5, at=at) for b in (first, last)]
    assert taps(networks[0]) == taps(networks[1])
    networks[0].set_weights(networks[1].get_weights())
    images = pictures(2, 16, 16, 3).astype("float32") / 255
    # TensorFlow convolves channels_first maps on a CPU only where XLA compiles.
    compiled = tf.function(networks[0], jit_compile=True)
    got = compiled(images.transpose(0, 3, 1, 2), training=False)
    want = networks[1](images, training=False)
    for name in want:
        assert got[name].shape == want[name].shape
        close(got[name], numpy(want[name]), 1e-4, 1e-4)


def test_a_file_is_read_the_same_whatever_the_format(image_data_format, tmp_path):
    network, images = attach_exits(plain(), 5), pictures(2, 16, 16, 3).astype("float32")
    network.save(tmp_path / "network.keras")
    image_data_format("channels_first")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    want, got = network(images, training=False), loaded(images, training=False)
    for name in want:
        np.testing.assert_array_equal(numpy(got[name]), numpy(want[name]))


# Where exits stand.


def levels(names):
    """A backbone of convolutions with these names, the strides such that there is one size."""
    x = image = keras.Input((8, 8, 3))
    for name in names:
        x = layers.Conv2D(4, 3, padding="same", name=name)(x)
    return keras.Model(image, x)


def test_stages_go_by_depth_and_the_last_must_cost_less_than_all():
    assert taps(attach_exits(levels(["stage_2", "stage_1", "last"]), 5)) == ["stage_2", "stage_1"]
    # Nothing but a normalisation behind the last stage: an exit there would be the deepest.
    backbone = levels(["stage_0", "stage_1"])
    normalised = layers.BatchNormalization()(backbone.output)
    assert taps(attach_exits(keras.Model(backbone.input, normalised), 5)) == ["stage_0"]


def test_names_of_stages_that_are_no_feature_maps():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="map")(image)
    gate = layers.Dense(4, name="stage_1")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply(name="stage_2")([x, layers.Reshape((1, 1, 4))(gate)])
    backbone = keras.Model(image, layers.Conv2D(4, 3, name="last")(x))
    assert taps(attach_exits(backbone, 5)) == ["stage_2"]


@pytest.mark.parametrize(
    "at,expected",
    [
        (1, []),
        ([], []),
        ((), []),
        (2, ["shrink_2"]),
        (4, SHRINKS),
        ([0.5], ["shrink_2"]),
        ([0.01, 0.99], ["shrink_1", "shrink_3"]),
        (("shrink_1",), ["shrink_1"]),
        (np.int64(2), ["shrink_2"]),
        ([np.float64(0.5)], ["shrink_2"]),
    ],
)
def test_places_by_number_share_and_name(at, expected):
    network = attach_exits(plain(), 5, at=at)
    assert taps(network) == expected and len(exit_names(network)) == len(expected) + 1


def test_a_number_of_exits_takes_as_many_places():
    """All places lie in the first 6 % of the cost; each takes one exit."""
    x = image = keras.Input((8, 8, 3))
    for index, filters in enumerate((4, 4, 4, 4, 256), start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv_{index}")(x)
    backbone = keras.Model(image, x)
    assert taps(attach_exits(backbone, 5, at=4)) == ["conv_2", "conv_3", "conv_4"]
    assert taps(attach_exits(backbone, 5, at=5)) == ["conv_1", "conv_2", "conv_3", "conv_4"]
    for at in (6, [0.9, 0.95]):
        with pytest.raises(ValueError, match=r"`at`.*cut at 4 places, after.*Received: at="):
            attach_exits(backbone, 5, at=at)


@pytest.mark.parametrize("name", ["pool_1", "classifier_1", "bottleneck_1"])
def test_names_of_the_heads_give_way_to_the_inputs(name):
    image = keras.Input((8, 8, 3), name=name)
    backbone = keras.Model(image, plain(8)(image))
    network = attach_exits(backbone, 5, at=["relu_1"])
    assert network.get_layer(f"{name}_of_exit") in network.layers


def test_names_of_the_heads_give_way():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, name="bottleneck_1")(image)
    x = layers.Conv2D(4, 3, strides=2, name="classifier_2")(x)
    network = attach_exits(keras.Model(image, x, name="exit_1"), 5, at=["bottleneck_1"])
    assert (
        network.get_layer("bottleneck_1_of_exit").input is network.get_layer("bottleneck_1").output
    )
    assert submodel(network, "exit_2").output_shape == (None, 5)


def test_exits_on_exits():
    """What attach_exits made gives a backbone again."""
    once = attach_exits(plain(), 5)
    backbone = keras.Model(once.input, once.get_layer("relu_4").output)
    assert taps(attach_exits(backbone, 7)) == SHRINKS


# Training and files.


def states(model):
    return [np.array(numpy(v)) for v in model.variables]


@pytest.mark.parametrize("nested", [False, True])
def test_frozen_backbones_keep_weights_and_moving_statistics(nested):
    backbone = around(plain()) if nested else plain()
    network = attach_exits(backbone, 5, freeze=True)
    assert not backbone.trainable_variables and network.trainable_variables
    images, labels = pictures(8, 16, 16, 3), np.arange(8) % 5

    def step():
        before = states(backbone), states(network.get_layer("bottleneck_1"))
        model = SelfDistillModel(network, methods.be_your_own_teacher())
        model.compile("sgd", run_eagerly=True)
        model.fit(images, labels, batch_size=8, verbose=0)
        after = states(backbone), states(network.get_layer("bottleneck_1"))
        return [[(a != b).any() for a, b in zip(*pair)] for pair in zip(before, after)]

    kept, trained = step()
    assert not any(kept) and sum(trained) > len(trained) / 2
    backbone.trainable = True
    assert all(step()[0])


def test_bad_arguments_freeze_nothing():
    backbone = plain()
    with pytest.raises(ValueError, match="`at`"):
        attach_exits(backbone, 5, at=["none"], freeze=True)
    assert backbone.trainable


def test_a_number_of_classes_from_numpy_is_saved(tmp_path):
    attach_exits(plain(), np.int64(5), at=np.int64(2)).save(tmp_path / "network.keras")
    assert exit_names(keras.saving.load_model(tmp_path / "network.keras")) == ["exit_1", "exit_2"]


@pytest.mark.parametrize("kind", ["plain", "nested", "sequential", "frozen", "vit"])
def test_pretrained_weights_survive_the_file(kind, tmp_path):
    inner = vit() if kind == "vit" else plain()
    randomize(inner)
    kept = states(inner)
    backbone = around(inner) if kind == "nested" else inner
    if kind == "sequential":
        backbone = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(0.1), inner])
    network = attach_exits(backbone, 5, freeze=kind == "frozen")
    for a, b in zip(kept, states(inner)):
        np.testing.assert_array_equal(a, b)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert taps(loaded) == taps(network)
    images = pictures(2, 16, 16, 3).astype("float32")
    want, got = network(images, training=False), loaded(images, training=False)
    for name in want:
        np.testing.assert_array_equal(numpy(got[name]), numpy(want[name]))
    assert len(loaded.trainable_variables) == len(network.trainable_variables)


# Bad input.


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def with_classifier(activation="softmax"):
    backbone = plain()
    x = layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.input, layers.Dense(9, activation)(x))


def with_two_inputs():
    images = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(images, layers.Conv2D(4, 3)(layers.Add()(images)))


def with_dict_output():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, {"map": layers.Conv2D(4, 3)(image)})


class Scaled(keras.Model):
    """A functional model that does more than its graph."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def ends_of(model):
    return model.input, model.output


class OnData(layers.Layer):
    """A layer that takes no symbolic tensors."""

    def call(self, inputs):
        return inputs

    def compute_output_spec(self, *args, **kwargs):
        raise NotImplementedError


def built_on_data():
    model = keras.Sequential([OnData()])
    model(np.zeros((2, 8, 8, 3), "float32"))
    assert model.built
    return model


def without_a_map():
    image = keras.Input((8,))
    return keras.Model(image, layers.Dense(4, "relu")(image))


@pytest.mark.parametrize(
    "build,received",
    [
        (Subclassed, "Subclassed"),
        (lambda: keras.Sequential([layers.Conv2D(4, 3)]), "Sequential with inputs None"),
        (lambda: layers.Conv2D(4, 3), "Conv2D"),
        (with_classifier, r"output of shape \(None, 9\)"),
        (lambda: with_classifier("sigmoid"), r"output of shape \(None, 9\)"),
        (lambda: around(with_classifier("sigmoid")), r"output of shape \(None, 9\)"),
        (built_on_data, "Sequential with inputs None"),
        (lambda: keras.Sequential([plain(), layers.GlobalMaxPooling2D()]), r"\(None, 48\)"),
        (without_a_map, r"output of shape \(None, 4\)"),
        (with_two_inputs, r"Functional with inputs \[.*8, 8, 3.*8, 8, 3"),
        (lambda: Scaled(*ends_of(plain())), "Scaled with"),
        (with_dict_output, "output {'map'"),
    ],
)
def test_backbones_that_take_no_exits(build, received):
    with pytest.raises(ValueError, match=rf"`backbone` must (?s:.)*Received: .*{received}"):
        attach_exits(build(), 5)


def test_maps_of_unknown_size_in_the_middle():
    """They are no places for exits, and named where the cost is asked for."""

    class Unknown(layers.Layer):
        def call(self, inputs):
            return inputs

        def compute_output_shape(self, shape):
            return (shape[0], None, None, shape[-1])

    image = keras.Input((8, 8, 3))
    x = Unknown(name="unknown")(layers.Conv2D(4, 3, name="first")(image))
    backbone = keras.Model(image, layers.Resizing(4, 4, name="last")(x))
    assert taps(attach_exits(backbone, 5, at=["first"])) == ["first"]
    with pytest.raises(ValueError, match=r"`at` must .*'unknown' is none"):
        attach_exits(backbone, 5, at=["unknown"])
    with pytest.raises(ValueError, match=r"`(backbone|at)` must .*"):
        attach_exits(backbone, 5)


@pytest.mark.parametrize("stages", [["only"], ["one", "two"]])
def test_one_resolution_needs_at(stages):
    with pytest.raises(ValueError, match=r"`at` must tell where.*Received: at=None"):
        attach_exits(levels(stages), 5)


def test_shared_layers():
    image = keras.Input((16, 16, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.MaxPooling2D(name="shrink")(shared(shared(image)))
    backbone = keras.Model(image, layers.Conv2D(4, 3, name="last")(shared(x)))
    with pytest.raises(ValueError, match=r"`at`.*'shared' is called 3 times.*Received: at="):
        attach_exits(backbone, 5, at=["shared"])
    network = attach_exits(backbone, 5)
    assert taps(network) == ["shrink"]
    check(backbone, network, pictures(2, 16, 16, 4).astype("float32"))


@pytest.mark.parametrize(
    "at",
    [
        *(0, -1, True, 2.0, 0.5, "relu_1", {"relu_1": 1}),
        *([1, 2], [1], [0.5, "relu_1"], ["relu_1", 0.5], [["relu_1"]], [None]),
        *([0.0], [1.0], [-0.5], [1.5], [0.5, 0.25], [0.5, 0.5], [float("nan")]),
        *(["relu_2", "relu_1"], ["relu_1", "relu_1"], ["relu_1", "relu_4"], ["relu_9"], [""]),
        *([0.2, 0.21, 0.22], [0.1, 0.2, 0.5, 0.7, 0.9], 5, 50),
    ],
)
def test_bad_places_are_named(at):
    with pytest.raises(ValueError, match=rf"^`at` must .*Received: at={re.escape(repr(at))}"):
        attach_exits(plain(), 5, at=at)


@pytest.mark.parametrize(
    "argument,value",
    [
        *(("num_classes", value) for value in (1, 0, True, 2.5, "5", None)),
        *(("pooling", value) for value in ("max", None, "token")),
        ("bottleneck", "wide"),
        *(("input_shape", value) for value in (224, "224", (16, 16), (16, 16, 1), (8, 8, 3))),
    ],
)
def test_bad_arguments_are_named(argument, value):
    arguments = {"num_classes": 5} | {argument: value}
    received = rf"^`{argument}` .*Received: {argument}={re.escape(repr(value))}"
    with pytest.raises(ValueError, match=received):
        attach_exits(plain(), **arguments)


@pytest.mark.parametrize(
    "shape", [(0, -2, 3), (None, 16, 3), (2, 2, 3), (16, 16, 4), (16.0, 16, 3)]
)
def test_sizes_that_do_not_fit_are_named(shape):
    image = keras.Input((None, None, 3))
    backbone = keras.Model(image, layers.Conv2D(4, 7)(image))
    with pytest.raises(ValueError, match=rf"input_shape={re.escape(repr(shape))}"):
        attach_exits(backbone, 5, at=[], input_shape=shape)
    assert attach_exits(backbone, 5, at=[], input_shape=[16, 16, 3]).input_shape[1:] == (16, 16, 3)


@pytest.mark.parametrize(
    "name,shape,stem,argument",
    [
        ("alexnet", (32, 32, 3), None, "input_shape"),
        ("vgg19_bn", (16, 16, 3), None, "input_shape"),
        ("resnet18", (4, 4, 3), None, "input_shape"),
        ("resnet18", (16, 16, 3), "imagenet", "input_shape"),
        ("resnet20", (32, 32), None, "input_shape"),
        ("resnet20", 32, None, "input_shape"),
        ("resnet20", (32.0, 32, 3), None, "input_shape"),
        ("densenet40", None, "imagenet", "stem"),
        ("alexnet", None, "cifar", "stem"),
        ("wide_resnet_28_10", None, "imagenet", "stem"),
        ("resnet18", None, "tiny", "stem"),
    ],
)
def test_builders_name_sizes_and_stems_that_do_not_fit(name, shape, stem, argument):
    value = stem if argument == "stem" else shape
    received = rf"^`{argument}` must .*Received: {argument}={re.escape(repr(value))}"
    with pytest.raises(ValueError, match=received):
        models.build(name, shape, stem)
