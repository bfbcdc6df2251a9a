"""Gradients, and the analyses that need them, are the same on every backend."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
TORCH = pytest.param("torch", marks=pytest.mark.torch)


def printed(backend, program):
    """The last line that a program in this folder prints on a backend."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(TESTS / program)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("backend", ["tensorflow", "jax", TORCH])
def test_gradients_equal_formulas(backend):
    assert printed(backend, "gradients_run.py") == "fine"


@pytest.fixture(scope="module")
def on_tensorflow():
    return json.loads(printed("tensorflow", "analysis_run.py"))


@pytest.mark.parametrize("backend", ["jax", TORCH])
def test_analyses_find_the_same_on_every_backend(backend, on_tensorflow):
    found = json.loads(printed(backend, "analysis_run.py"))
    for name, values in on_tensorflow.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-6, err_msg=name)
