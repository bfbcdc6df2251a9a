"""What the signatures of an export answer: encoded images, early exit, classes, the card."""

import json
import sys
import zlib

import keras
import numpy as np
import pytest
import serving_model
from conftest import bright_and_dark, smallest_network, tiny_network, with_mixed_answers

import sd_keras
from sd_keras import data, export, inference
from sd_keras.export.encoded_images import decoder
from sd_keras.export.signatures import SignatureFunctions

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export with early exit, its network and policy."""
    path = tmp_path_factory.mktemp("exported") / "my model/7"
    network = serving_model.network_of()
    policy = serving_model.policy_of(network)
    policy = inference.Policy(policy.rule, policy.thresholds, (1.0, 1.5, 0.8))
    about = {"data": "noise", "measured": None}
    names = serving_model.CLASS_NAMES
    weights = (0.2, 0.0, 0.8)
    export.saved_model(
        network, path, policy, ensemble_weights=weights, class_names=names, about=about
    )
    return path, network, policy


@pytest.fixture(scope="module")
def signatures(exported):
    import tensorflow as tf

    return tf.saved_model.load(str(exported[0])).signatures


@pytest.fixture(scope="module")
def pixels():
    """Raw images, as many leaving at each exit as the policy lets."""
    shape = (40, *serving_model.SHAPE)
    return np.random.default_rng(5).integers(0, 256, shape).astype("uint8")


def answers(signature, **inputs):
    import tensorflow as tf

    return {
        k: v.numpy() for k, v in signature(**{n: tf.constant(v) for n, v in inputs.items()}).items()
    }


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_early_exit_answers_as_the_policy_decides(exported, signatures, pixels):
    _, network, policy = exported
    outputs = {n: np.asarray(v) for n, v in network.predict(pixels, verbose=0).items()}
    logits = {name: outputs[name] for name in sd_keras.exit_names(network)}
    decided = inference.decide(logits, policy)
    assert set(decided.exit) == {1, 2, 3}
    found = answers(signatures["early_exit"], image=pixels)
    np.testing.assert_array_equal(found["exit"], decided.exit)
    np.testing.assert_allclose(found["confidence"], decided.confidence, atol=1e-4)
    for row, exit in enumerate(decided.exit):
        own = logits[f"exit_{exit}"][row]
        np.testing.assert_allclose(found["logits"][row], own, rtol=1e-4, atol=1e-4)
        scaled = softmax(own / policy.temperatures[exit - 1])
        np.testing.assert_allclose(found["probabilities"][row], scaled, atol=1e-4)


def test_thresholds_of_each_row_override_the_stored(signatures, pixels):
    thresholds = np.full((len(pixels), 2), np.inf, "float32")
    thresholds[::3] = 0.0
    thresholds[1::3, 1] = 0.0
    signature = signatures["early_exit_with_thresholds"]
    found = answers(signature, image=pixels, thresholds=thresholds)
    np.testing.assert_array_equal(found["exit"], np.resize([1, 2, 3], len(pixels)))
    deepest = answers(signatures["serving_default"], image=pixels)["logits"]
    np.testing.assert_allclose(found["logits"][2::3], deepest[2::3], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def mixed():
    """Images, the logits of a network of three exits, and its signatures' functions."""
    images = bright_and_dark(shape=serving_model.SHAPE)
    network = with_mixed_answers(serving_model.network_of(), images)
    outputs = network.predict(images, verbose=0)
    logits = {name: outputs[name] for name in sd_keras.exit_names(network)}
    parts = sd_keras.models.sections(network)
    functions = SignatureFunctions(parts, serving_model.SHAPE, "margin", [1, 1, 1], None)
    return images, logits, functions


@pytest.mark.parametrize("rule", inference.RULES)
def test_every_rule_decides_in_the_graph_as_outside(mixed, rule):
    import tensorflow as tf

    images, logits, functions = mixed
    functions.rule = inference.RULES[rule]
    thresholds = [2.0, 1.0]
    if rule != "agreement":
        thresholds = np.median(inference.confidences(logits, rule)[:-1], axis=1)
    decided = inference.decide(logits, inference.Policy(rule, thresholds)).exit
    assert len(set(decided)) > 1
    rows = np.tile(np.float32([thresholds]), (len(images), 1))
    found = tf.function(functions.early_exit, autograph=False)(images, rows)
    np.testing.assert_array_equal(found["exit"], decided)


@pytest.mark.parametrize("value", [np.nan, -np.inf, -0.5])
def test_thresholds_that_are_no_confidence_are_refused(signatures, pixels, value):
    import tensorflow as tf

    thresholds = np.full((3, 2), np.inf, "float32")
    thresholds[1, 1] = value
    for name, inputs in (
        ("early_exit_with_thresholds", {"image": pixels[:3]}),
        (
            "early_exit_with_thresholds_bytes",
            {"image_bytes": [tf.io.encode_png(pixels[0]).numpy()] * 3},
        ),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`thresholds` must be .* least 0"):
            answers(signatures[name], **inputs, thresholds=thresholds)


def test_logits_that_are_not_finite_let_no_image_out(exported, pixels):
    """In the file as it is loaded, whose graphs TensorFlow's optimizer rewrites."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported[0]))
    (bias,) = (v for v in loaded.network_variables if v.name.startswith("classifier_1/bias"))
    bias.assign([np.nan, 0.0, 0.0, 0.0])
    thresholds = np.zeros((len(pixels), 2), "float32")
    thresholds[::2, 1] = 2.0
    found = answers(
        loaded.signatures["early_exit_with_thresholds"], image=pixels, thresholds=thresholds
    )
    np.testing.assert_array_equal(found["exit"], np.resize([3, 2], len(pixels)))
    assert np.isfinite(found["logits"]).all() and np.isfinite(found["confidence"]).all()
    assert 1 not in answers(loaded.signatures["early_exit"], image=pixels)["exit"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_rule_is_sure_of_logits_that_are_not_finite(value):
    import tensorflow as tf

    network = tiny_network()
    network.get_layer("classifier_1").bias.assign([0.0, 0.0, value, 0.0])
    parts = sd_keras.models.sections(network)
    functions = SignatureFunctions(parts, (8, 8, 1), "margin", [1, 1], None)
    images, thresholds = np.zeros((3, 8, 8, 1), "uint8"), np.zeros((3, 1), "float32")
    for name, functions.rule in inference.RULES.items():
        found = tf.function(functions.early_exit, autograph=False)(images, thresholds)
        assert list(found["exit"].numpy()) == [2, 2, 2], name


def test_a_signature_computes_only_what_it_needs(exported, pixels):
    """Counted in the graphs that TensorFlow's session has made of them to run."""
    import tensorflow as tf

    path, network, _ = exported
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
        for name in (*sd_keras.exit_names(network), "ensemble"):
            signature = loaded.signature_def[name]
            fetches = [tensor.name for tensor in signature.outputs.values()]
            options = tf.compat.v1.RunOptions(output_partition_graphs=True)
            about = tf.compat.v1.RunMetadata()
            session.run(fetches, {signature.inputs["image"].name: pixels}, options, about)
            kinds = [node.op for graph in about.partition_graphs for node in graph.node]
            part = network if name == "ensemble" else sd_keras.submodel(network, name)
            # The ensemble has no use for exit 2, whose weight is 0.
            unused = 3 if name == "ensemble" else 0
            assert sum("Conv2D" in kind for kind in kinds) == convolutions(part) - unused, name
            assert not any("BatchNorm" in kind for kind in kinds)


def convolutions(model):
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Conv2D)]
    return len(layers)


def test_ensemble_and_probabilities_are_scaled(exported, signatures, pixels):
    _, network, policy = exported
    outputs = network.predict(pixels, verbose=0)
    scaled = [
        softmax(outputs[name] / temperature)
        for name, temperature in zip(sd_keras.exit_names(network), policy.temperatures)
    ]
    found = answers(signatures["ensemble"], image=pixels)
    np.testing.assert_allclose(found["probabilities"], 0.2 * scaled[0] + 0.8 * scaled[2], atol=1e-4)
    found = answers(signatures["exit_2"], image=pixels)
    np.testing.assert_allclose(found["logits"], outputs["exit_2"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], scaled[1], atol=1e-4)


def test_encoded_images_are_those_of_data_load(signatures, pixels):
    import tensorflow as tf

    for encode in (tf.io.encode_png, tf.image.encode_png):
        contents = [encode(image).numpy() for image in pixels[:3]]
        found = answers(signatures["exit_1_bytes"], image_bytes=contents)
        expected = answers(signatures["exit_1"], image=pixels[:3])
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
    photo = np.random.default_rng(0).integers(0, 256, (37, 21, 3)).astype("uint8")
    for content in (tf.io.encode_jpeg(photo).numpy(), tf.io.encode_png(photo[..., :1]).numpy()):
        decoded = tf.io.decode_image(content, 3, expand_animations=False)
        if content[:2] == b"\xff\xd8":
            decoded = tf.io.decode_jpeg(content, 3, dct_method="INTEGER_ACCURATE")
        resized = data.images.resize(decoded, serving_model.SHAPE[:2])
        found = answers(signatures["exit_1_bytes"], image_bytes=[content])
        expected = answers(signatures["exit_1"], image=np.asarray(resized)[None])
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)


@pytest.mark.large
def test_center_crop_answers_as_the_stream_that_measures(tmp_path):
    import tensorflow as tf

    generator = np.random.default_rng(0)
    for index, shape in enumerate([(300, 211, 3), (90, 120, 3), (600, 700, 3)]):
        (tmp_path / "i/class").mkdir(parents=True, exist_ok=True)
        content = tf.io.encode_jpeg(generator.integers(0, 256, shape).astype("uint8")).numpy()
        (tmp_path / f"i/class/{index}.jpg").write_bytes(content)
    network = smallest_network((64, 64, 3))
    export.saved_model(network, tmp_path / "1", preprocessing="center_crop")
    loaded = tf.saved_model.load(str(tmp_path / "1")).signatures
    stream = data.stream(f"folder:{tmp_path}/i", 3, size=64, protocol="center")
    ((images, *_),) = stream.dataset().as_numpy_iterator()
    files = [(tmp_path / f"i/class/{index}.jpg").read_bytes() for index in range(3)]
    expected = answers(loaded["exit_1"], image=images)["logits"]
    found = answers(loaded["exit_1_bytes"], image_bytes=files)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "early_exit" not in loaded and "early_exit_with_thresholds" not in loaded


def png_chunk(kind, content):
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp"])
def test_too_many_pixels_are_refused_unread(form):
    import tensorflow as tf

    image = np.zeros((20, 30, 3), "uint8")
    numbers = np.array([40, 30, 20], "<i4").tobytes()
    bitmap = b"BM" + bytes(12) + numbers + b"\1\0\x18\0" + bytes(24) + bytes(20 * 92)
    content = {
        "png": lambda: tf.io.encode_png(image).numpy(),
        "jpeg": lambda: tf.io.encode_jpeg(image).numpy(),
        "bmp": lambda: bitmap[:10] + b"\x36\0\0\0" + bitmap[14:],
    }[form]()
    few, enough = (decoder((8, 8, 3), "resize", limit) for limit in (599, 600))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 599 pixels"):
        few(tf.constant([content]))
    assert enough(tf.constant([content])).shape == (1, 8, 8, 3)


def test_sizes_are_not_forged_by_what_stands_in_front():
    import tensorflow as tf

    png = tf.io.encode_png(np.zeros((300, 300, 3), "uint8")).numpy()
    small = (1).to_bytes(4, "big") * 2
    forged = png[:8] + png_chunk(b"abCd", small) + png[8:]
    assert tf.io.decode_image(forged).shape == (300, 300, 3)  # TensorFlow reads it
    gif = b"GIF89a" + np.array([1, 1], "<u2").tobytes() + bytes(20)
    for preprocessing in ("resize", "center_crop"):
        decode = decoder((8, 8, 3), preprocessing, 1000)
        for content in (forged, gif, b"", b"\xff\xd8\xff", b"BM"):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode(tf.constant([content]))


def test_a_bitmap_of_few_colours_is_read_as_data_load_reads_it(tmp_path):
    import tensorflow as tf

    palette = np.random.default_rng(0).integers(0, 256, (256, 4)).astype("uint8")
    pixels = np.arange(64).astype("uint8")
    head = np.array([40, 8, 8], "<i4").tobytes() + b"\1\0\x08\0" + bytes(24)
    start = (14 + 40 + 1024).to_bytes(4, "little")
    content = b"BM" + bytes(8) + start + head + palette.tobytes() + pixels.tobytes()
    (tmp_path / "i.bmp").write_bytes(content)
    expected = data.images.read_image(tmp_path / "i.bmp", (8, 8))
    decoded = decoder((8, 8, 3), "resize", 1000)(tf.constant([content]))
    np.testing.assert_array_equal(decoded[0], expected)


def test_thresholds_near_one_are_compared_in_double_precision():
    """Chosen on probabilities that float32 cannot tell from 1, or from one another."""
    import tensorflow as tf

    network = smallest_network(serving_model.SHAPE)
    network = sd_keras.attach_exits(
        keras.Model(network.input, network.layers[3].output), 4, at=[network.layers[2].name]
    )
    for index in (1, 2):
        classifier = network.get_layer(f"classifier_{index}")
        classifier.kernel.assign(np.zeros(classifier.kernel.shape))
        classifier.bias.assign([30.0, 0.0, 0.0, 0.0])
    images = np.zeros((2, *serving_model.SHAPE), "uint8")
    sure = 1 - 3 * np.exp(-30.0)
    parts = sd_keras.models.sections(network)
    answers = SignatureFunctions(parts, serving_model.SHAPE, "max_probability", [1, 1], None)
    for threshold, exit in ((sure - 1e-14, 1), (sure + 1e-14, 2)):
        rows = np.full((2, 1), threshold)
        found = tf.function(answers.early_exit, autograph=False)(images, tf.constant(rows))
        assert list(found["exit"].numpy()) == [exit, exit]


def test_no_files_are_taken_for_images_of_other_channels(tmp_path):
    import tensorflow as tf

    export.saved_model(smallest_network((8, 8, 2)), tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    assert sorted(loaded.signatures) == ["ensemble", "exit_1", "serving_default"]


def test_an_export_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    network = tiny_network()
    other = lambda _: tiny_network()  # noqa: E731
    monkeypatch.setattr(sys.modules["sd_keras.export.saved_model"], "inference_form", other)
    with pytest.raises(RuntimeError, match="answers otherwise than the network at 'logits'"):
        export.saved_model(network, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


@keras.saving.register_keras_serializable(package="test_saved_model")
class OwnConvolution(keras.layers.Layer):
    """What nobody but its author can count or fold."""

    def build(self, shape):
        self.kernel = self.add_weight((3, 3, shape[-1], 4), "glorot_uniform", name="kernel")

    def call(self, inputs):
        import tensorflow as tf

        return tf.nn.conv2d(inputs, self.kernel, 2, "SAME")


def test_own_layers_are_exported_without_costs(tmp_path):
    image = keras.Input((8, 8, 3))
    backbone = keras.Model(image, keras.layers.ReLU()(OwnConvolution()(image)))
    network = sd_keras.attach_exits(backbone, 4, at=[])
    about = {"tags": ["a", "b"], "score": 0.5}
    export.saved_model(network, tmp_path / "1", about=about)
    card = json.loads((tmp_path / "1/assets.extra/model_card.json").read_text())
    assert card["costs"] is None and card["about"] == about
    assert "tags: a, b" in (tmp_path / "1/assets.extra/model_card.md").read_text()


def test_what_goes_with_an_export(exported):
    path, network, policy = exported
    extra = path / "assets.extra"
    card = json.loads((extra / "model_card.json").read_text())
    assert card["name"] == "my_model" and card["exits"] == ["exit_1", "exit_2", "exit_3"]
    assert inference.Policy.from_dict(card["early_exit"]) == policy
    assert card["costs"] == sd_keras.analysis.costs(network)
    assert card["about"] == {"data": "noise"}
    text = (extra / "model_card.md").read_text()
    assert "data: noise" in text and "Early exit by max_probability" in text
    assert (extra / "class_names.txt").read_text().split() == serving_model.CLASS_NAMES
    assert 'base_path: "/models/my_model"' in (extra / "models.config").read_text()
    assert (extra / "tf_serving_warmup_requests").stat().st_size > 0


def test_a_card_shows_what_was_measured(tmp_path, images, labels):
    network = tiny_network()
    measured = {"test": sd_keras.analysis.evaluate_exits(network, images, labels)}
    export.saved_model(network, tmp_path / "1", about={"measured": measured})
    text = (tmp_path / "1/assets.extra/model_card.md").read_text()
    shown = f"{100 * measured['test']['ensemble']['accuracy']:.2f}"
    assert "## test" in text and shown in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"policy": inference.Policy("margin", [0.5, 0.5])}, "`policy` must be .* for 2 exits"),
        ({"policy": "margin"}, "`policy` must be"),
        ({"temperatures": [1.0]}, "`temperatures` must be"),
        ({"temperatures": [0.0, 1.0]}, "`temperatures` must be"),
        ({"ensemble_weights": [1.0]}, "`weights` must be"),
        ({"class_names": ["a"]}, "`class_names` must be None or 4 names"),
        ({"preprocessing": "stretch"}, "`preprocessing` must be one of"),
        ({"preprocessing": "center_crop"}, "`preprocessing` can be 'center_crop' for square RGB"),
        ({"max_pixels": 0}, "`max_pixels` must be an integer of at least 1"),
        ({"about": {"share": np.float32(0.5)}}, "`about` must hold what JSON can"),
        *(
            ({"class_names": ["a", "b", "c", f"d{control}"]}, "without control characters")
            for control in "\n\r\0\x1b\x7f\x85\u2028\ud800"
        ),
        (
            {"policy": inference.Policy("margin", [0.5]), "temperatures": [2.0, 2.0]},
            "`temperatures` must be those of `policy`",
        ),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.saved_model(tiny_network(), tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []
