"""Gradients, and the analyses that need them, are the same on every backend."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import analysis_run
import gradients_run
import keras
import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
OTHERS = [
    pytest.param("jax", marks=pytest.mark.process),
    pytest.param("torch", marks=[pytest.mark.process, pytest.mark.torch]),
]


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


def test_gradients_equal_formulas():
    gradients_run.main()


@pytest.mark.parametrize("backend", OTHERS)
def test_gradients_equal_formulas_on_another_backend(backend):
    assert printed(backend, "gradients_run.py") == "fine"


@pytest.fixture(scope="module")
def found_here():
    keras.utils.set_random_seed(0)
    return analysis_run.main()


@pytest.mark.parametrize("backend", OTHERS)
def test_analyses_find_the_same_on_every_backend(backend, found_here):
    found = json.loads(printed(backend, "analysis_run.py"))
    for name, values in found_here.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-6, err_msg=name)
