"""The SavedModel: every signature, loaded in a process that knows no Keras."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_network

import sd_keras
from sd_keras import export

CLIENT = """
import json, sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2]))
results = {}
for name, signature in loaded.signatures.items():
    if list(signature.structured_input_signature[1]) == ["image"]:
        answer = signature(image=images).items()
        results[name] = {key: value.numpy().tolist() for key, value in answer}
print("RESULT" + json.dumps(results))
assert "sd_keras" not in sys.modules
"""


@pytest.mark.process
def test_signatures_answer_as_the_network_in_a_fresh_process(tmp_path, images):
    network = tiny_network()
    export.saved_model(network, tmp_path / "model/1")
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(tmp_path / "model/1"), str(tmp_path / "images.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.partition("RESULT")[2])
    assert sorted(results) == ["ensemble", "exit_1", "exit_2", "serving_default"]
    del results["ensemble"]
    outputs = network(images)
    for name, answer in results.items():
        logits = np.array(outputs["exit_2" if name == "serving_default" else name])
        np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(np.sum(answer["probabilities"], -1), 1, atol=1e-5)


def test_variables_are_stored_once(tmp_path):
    network = tiny_network()
    export.saved_model(network, tmp_path / "1")
    data = sum(p.stat().st_size for p in (tmp_path / "1/variables").glob("*.data*"))
    weights = sum(4 * int(np.prod(w.shape)) for w in network.weights)
    # A normalisation's four numbers a channel become one bias.
    assert 0.95 * weights <= data < 1.05 * weights + 4096


def test_nothing_half_written_and_nothing_overwritten(tmp_path, monkeypatch):
    network = tiny_network()
    target = tmp_path / "model" / "1"

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full_disk)
        with pytest.raises(OSError, match="No space left"):
            export.saved_model(network, target)
    assert list(tmp_path.iterdir()) == []
    export.saved_model(network, target)
    with pytest.raises(FileExistsError, match=r"`path` must not exist yet.*model"):
        export.saved_model(network, target)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["1"]


def test_a_network_without_exits_is_refused(tmp_path):
    plain = sd_keras.models.resnet((8, 8, 1), "cifar", (1, 1), (4, 8))
    with pytest.raises(ValueError, match="`network` must be a functional model with outputs"):
        export.saved_model(plain, tmp_path / "1")
