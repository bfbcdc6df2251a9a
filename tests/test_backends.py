"""The same fit on tensorflow, jax and torch, each in a process of its own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
pytestmark = pytest.mark.process


def run(backend, *arguments):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(TESTS)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def tensorflow_run(tmp_path_factory):
    """Weights all backends start from, and what tensorflow makes of them."""
    folder = tmp_path_factory.mktemp("backends")
    return folder, train("tensorflow", folder)


def train(backend, folder):
    output = folder / f"{backend}.json"
    done = run(backend, TESTS / "backend_fit.py", folder / "start.weights.h5", output)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.torch)])
def test_same_losses_from_the_same_weights(backend, tensorflow_run):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    folder, expected = tensorflow_run
    got = train(backend, folder)
    assert got["history"].keys() == expected["history"].keys()
    for name, values in expected["history"].items():
        np.testing.assert_allclose(got["history"][name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    for name, logits in expected["logits"].items():
        np.testing.assert_allclose(got["logits"][name], logits, atol=1e-3)
    for case, history in expected["beside"].items():
        for name, values in history.items():
            found = got["beside"][case][name]
            np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-3, err_msg=case + name)
    check_own(got)


def test_tensorflow_itself(tensorflow_run):
    check_own(tensorflow_run[1])


def check_own(got):
    """What each backend must do by itself: go on after loading, refuse labels."""
    drawn = got["drawn"]
    assert drawn["losses"][0] == drawn["losses"][1]
    assert drawn["states"][0] != drawn["states"][1]
    assert drawn["steps"] == 6
    assert "class numbers 0…3" in got["bad_labels"]
    assert "from 0 to 9" in got["bad_labels"]


def test_import_under_jax_brings_no_tensorflow():
    """`import sd_keras` itself, with TensorFlow forbidden."""
    pytest.importorskip("jax")
    program = (
        "import sys\n"
        "class Forbid:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'tensorflow_datasets'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Forbid())\n"
        "import sd_keras\n"
        "network = sd_keras.attach_exits(sd_keras.models.resnet8((8, 8, 1)), 10)\n"
        "print(sorted(network.output), 'tensorflow' in sys.modules)\n"
    )
    done = run("jax", "-c", program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'exit_3'" in done.stdout
    assert "False" in done.stdout


@pytest.mark.parametrize(
    "backend", ["tensorflow", "jax", pytest.param("torch", marks=pytest.mark.torch)]
)
def test_early_exit_answers_as_the_whole_network(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = run(backend, TESTS / "early_exit_run.py")
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["reached"] == [3, 1]
    for result in got["results"]:
        for name in ("whole", "parts"):
            assert result[name]["exits"] == 0
            assert result[name]["logits"] < 1e-5 and result[name]["confidence"] < 1e-5
        assert min(result["left"]) > 2 and result["empty"] == [0, 4]
