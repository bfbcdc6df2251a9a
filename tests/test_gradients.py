"""Gradients, and the analyses that need them, are the same on every backend."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from test_backends import run

PROGRAM = pathlib.Path(__file__).parent / "gradients_run.py"


@pytest.mark.parametrize(
    "backend", ["tensorflow", "jax", pytest.param("torch", marks=pytest.mark.torch)]
)
def test_gradients_equal_formulas(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = run(backend, PROGRAM)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "fine"


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.torch)])
def test_analyses_find_the_same_on_every_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = [run(each, PROGRAM.with_name("analysis_run.py")) for each in ("tensorflow", backend)]
    for each in done:
        assert each.returncode == 0, each.stderr[-3000:]
    expected, got = (json.loads(each.stdout.splitlines()[-1]) for each in done)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=2e-3, atol=1e-6, err_msg=name)
