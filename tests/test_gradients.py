"""Gradients of variables and tensors: the same formulas hold on every backend."""

import importlib.util
import pathlib

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
