"""The SavedModel in TensorFlow's C++ loader, which servers use, without Python's TensorFlow."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "c_api_run.py"
pytestmark = pytest.mark.process


class Plan:
    """Runs to make, and the arrays they need."""

    def __init__(self, contract):
        from tensorflow.core.protobuf import saved_model_pb2

        self.contract, self.steps, self.arrays = contract, {}, {}
        text = (contract.path / "saved_model.pb").read_bytes()
        meta_graph = saved_model_pb2.SavedModel.FromString(text).meta_graphs[0]
        self.signatures = meta_graph.signature_def

    def add(self, name, signature, inputs, expected=None):
        """Adds a run; without `expected` an error is awaited."""
        definition = self.signatures[signature]
        outputs = definition.outputs
        step = {"feeds": {}, "fetches": {outputs[key].name: "" for key in expected or outputs}}
        for key, value in inputs.items():
            as_texts = isinstance(value, list)
            step["feeds"][definition.inputs[key].name] = f"{name}/in/{key}"
            self.arrays[f"{name}/in/{key}"] = np.array(value, object if as_texts else None)
        for key, value in (expected or {}).items():
            step["fetches"][outputs[key].name] = f"{name}/out/{key}"
            self.arrays[f"{name}/out/{key}"] = value
        self.steps[name] = step

    def run(self, folder):
        """Runs all in a fresh process."""
        (folder / "plan.json").write_text(json.dumps(self.steps))
        np.savez(folder / "arrays.npz", **self.arrays)
        files = [self.contract.path, folder / "plan.json", folder / "arrays.npz"]
        done = subprocess.run(
            [sys.executable, SCRIPT, *files],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.partition("RESULT")[2])


def test_every_signature_answers_in_the_cpp_runtime(contract, tmp_path):
    plan = Plan(contract)
    for signature in contract.signatures:
        for count in (1, 3):
            inputs = contract.example_inputs(signature, count)
            expected = contract.expected(signature, inputs)
            plan.add(f"{signature} {count}", signature, inputs, expected)
    results = plan.run(tmp_path)
    assert len(results) == 2 * len(contract.signatures) >= 20
    for name, result in results.items():
        assert result.get("difference", 1) < 1e-5, (name, result)


def test_what_no_python_checks_is_refused_by_the_graph(contract, tmp_path):
    """The runtime itself checks types only: shapes must be checked by the graph."""
    plan = Plan(contract)
    height, width, channels = contract.shape
    shapes = {
        "size": (2, height + 1, width, channels),
        "channels": (2, height, width, channels + 1),
        "no batch": contract.shape,
        "scalar": (),
    }
    for name, shape in shapes.items():
        plan.add(name, "serving_default", {"image": np.zeros(shape, "uint8")})
    plan.add("type", "serving_default", {"image": np.zeros((1, *contract.shape), "float32")})
    plan.add("no image", "serving_default_bytes", {"image_bytes": [b"nothing of the kind"]})
    plan.add("empty bytes", "serving_default_bytes", {"image_bytes": [b""]})
    plan.add("cut off", "serving_default_bytes", {"image_bytes": [contract.encoded()[0][:40]]})
    plan.add("no example", "classify", {"inputs": [b"\xff\xff"]})
    plan.add("no feature", "classify", {"inputs": [b""]})
    thresholds = np.zeros((2, contract.exits), "float32")
    inputs = {"image": contract.images(2), "thresholds": thresholds}
    plan.add("thresholds", "early_exit_with_thresholds", inputs)
    results = plan.run(tmp_path)
    assert len(results) == 11
    for name, result in results.items():
        assert result.get("code") == 3, (name, result)
