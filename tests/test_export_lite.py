"""LiteRT files: every precision and signature against Keras, and what is refused."""

import sys

import keras
import numpy as np
import pytest
from conftest import bright_and_dark, smallest_network, tiny_network, with_mixed_answers

import sd_keras
from sd_keras import checkpoints
from sd_keras.export import lite, lite_file
from sd_keras.export import parts as export_parts

NEEDS_LITE = "needs ai-edge-litert: pip install 'sd_keras[lite]'"
litert = pytest.importorskip("ai_edge_litert.interpreter", reason=NEEDS_LITE)

# Largest error of a probability. The classifiers of these networks amplify 50 times what
# little the untrained layers before them tell apart, and their rounding with it.
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "dynamic": 4e-2, "int8": 1e-1}


@pytest.fixture(scope="module")
def pixels():
    return bright_and_dark()


@pytest.fixture(scope="module")
def network(pixels):
    keras.utils.set_random_seed(0)
    return with_mixed_answers(tiny_network(), pixels)


@pytest.fixture(scope="module")
def files(network, pixels, tmp_path_factory):
    """One multi-signature file per precision."""
    folder = tmp_path_factory.mktemp("lite")
    for precision in TOLERANCES:
        images = pixels if precision == "int8" else None
        lite(network, folder / f"{precision}.tflite", None, precision, images)
    return folder


def expected(network, pixels):
    """Probabilities by signature."""
    outputs = network(pixels.astype("float32"), training=False)
    names = sd_keras.exit_names(network)
    found = {name: np.array(keras.ops.softmax(outputs[name])) for name in names}
    return found | {"ensemble": np.mean(list(found.values()), axis=0)}


def run(path, signature, images):
    runner = litert.Interpreter(str(path), num_threads=1).get_signature_runner(signature)
    kind = runner.get_input_details()["image"]["dtype"]
    return runner(image=images.astype(kind))


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_signature_answers_as_keras(network, files, pixels, precision):
    path = files / f"{precision}.tflite"
    wanted = expected(network, pixels)
    interpreter = litert.Interpreter(str(path))
    assert sorted(interpreter.get_signature_list()) == ["ensemble", "exit_1", "exit_2"]
    for name, probabilities in wanted.items():
        assert probabilities.std(axis=0).min() > 0.05  # else anything would fit
        answer = run(path, name, pixels)  # 32 at once; the file's own batch is 1
        error = np.abs(answer["probabilities"] - probabilities).max()
        assert error <= TOLERANCES[precision]
        agree = answer["probabilities"].argmax(axis=1) == probabilities.argmax(axis=1)
        assert agree.mean() >= (0.85 if precision in ("dynamic", "int8") else 1)
        # The ensemble's logits go through logarithms, which int8 rounds more coarsely.
        of_logits = np.array(keras.ops.softmax(answer["logits"]))
        assert np.abs(of_logits - probabilities).max() <= 2 * TOLERANCES[precision]
        assert {value.dtype.name for value in answer.values()} == {"float32"}


def test_without_a_name_the_ensemble_answers(files, pixels):
    """As docs/edge.md says; a file of one exit has nothing else to answer."""
    path = files / "float32.tflite"
    interpreter, image = litert.Interpreter(str(path)), pixels[:1].astype("float32")
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]
    wanted = run(path, "ensemble", image)["probabilities"]
    assert any(np.allclose(each, wanted, atol=1e-6) for each in found)


def test_int8_takes_pixels_as_they_are(files):
    runner = litert.Interpreter(str(files / "int8.tflite")).get_signature_runner("exit_2")
    detail = runner.get_input_details()["image"]
    assert detail["dtype"] is np.uint8
    assert detail["quantization"] == (1.0, 0)


def test_signatures_share_the_weights(network, files):
    weights = sum(4 * int(np.prod(w.shape)) for w in network.weights)
    sizes = {name: (files / f"{name}.tflite").stat().st_size for name in TOLERANCES}
    assert sizes["float32"] <= 1.1 * weights
    assert sizes["float16"] <= 0.6 * weights
    assert sizes["dynamic"] <= 0.4 * weights
    assert sizes["int8"] <= 0.45 * weights


def test_one_exit_holds_nothing_deeper(network, pixels, tmp_path):
    path = tmp_path / "new/exit_2.tflite"
    lite(network, path, "exit_2", batch=3)
    answer = run(path, "exit_2", pixels[:3])
    np.testing.assert_allclose(
        answer["probabilities"], expected(network, pixels[:3])["exit_2"], atol=1e-5
    )
    # The bottleneck of exit 1 holds nearly all weights.
    assert path.stat().st_size < 40_000
    interpreter = litert.Interpreter(str(path))
    assert list(interpreter.get_input_details()[0]["shape_signature"]) == [3, 8, 8, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.lite"}, r"`path` must end in .tflite. Received: path='.*a.lite'"),
        ({"exit": "exit_3"}, r"`exit` must be None or one of .*'ensemble'.*exit='exit_3'"),
        ({"precision": "int4"}, r"`precision` must be one of .* Received: precision='int4'"),
        ({"batch": 0}, r"`batch` must be None or a positive integer. Received: batch=0"),
        ({"precision": "int8"}, r"`representative` must be raw images \(n, 8, 8, 1\)"),
        ({"representative": np.ones((2, 8, 8, 1))}, r"`representative` images serve precision"),
        (
            {"precision": "int8", "representative": np.ones((2, 4, 4, 1))},
            r"`representative` must be raw .* Received: representative of shape \(2, 4, 4, 1\)",
        ),
        (
            {"precision": "int8", "representative": np.ones((2, 8, 8, 1))},
            r"`representative` must hold raw pixels, 0…255. .* from 1 to 1",
        ),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, arguments, message):
    arguments = {"path": "a.tflite"} | arguments
    path = tmp_path / arguments.pop("path")
    with pytest.raises(ValueError, match=message):
        lite(tiny_network(), path, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_stays(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"`path` must not exist yet. Received: path='.*a.t"):
        lite(tiny_network(), path)
    assert path.read_text() == "mine"


def test_nothing_half_written_nor_wrong(tmp_path, monkeypatch):
    network = smallest_network()

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            lite(network, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())
    broken = dict.fromkeys(lite_file.TOLERANCES, -1.0)
    monkeypatch.setattr(lite_file, "TOLERANCES", broken)
    with pytest.raises(RuntimeError, match="answers otherwise than the network at 'logits'"):
        lite(network, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_or_the_backend(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ai_edge_litert", None)
        with pytest.raises(ImportError, match=r"pip install 'sd_keras\[lite\]'"):
            lite(smallest_network(), tmp_path / "a.tflite")
    monkeypatch.setattr(export_parts.keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="`lite` needs the tensorflow backend"):
        lite(None, tmp_path / "a.tflite")
