"""Data on the device: the same training as from batches, in blocks of steps."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import tiny_model

from sd_keras import methods, schedules
from sd_keras.data import Batches, OnDevice
from sd_keras.distortions import CropFlip
from sd_keras.optimizers import SGD
from sd_keras.trainer import resident

TESTS = pathlib.Path(__file__).parent


def test_blocks_hold_the_batches_of_every_epoch():
    images, labels = np.arange(23)[:, None].astype("uint8"), np.arange(23) % 4
    data = OnDevice(images, labels, 4, seed=3, steps=2)
    for epoch in (0, 1, 5):
        data.set_epoch(epoch)
        blocks = list(data.blocks())
        assert [block.shape for block in blocks] == [(2, 4), (2, 4), (1, 4), (1, 3)]
        assert blocks[0].dtype == np.int32
        batches = Batches(images, labels, 4, seed=3, initial_epoch=epoch)
        chosen = [order for block in blocks for order in block]
        for order, (expected, _) in zip(chosen, batches, strict=True):
            np.testing.assert_array_equal(images[order], expected)


@pytest.mark.parametrize(
    "count,steps,taken", [(48, 5, 4), (48, 100, 12), (44, 7, 7), (44, 6, 6), (3, 10, 10)]
)
def test_a_divisor_saves_a_compilation(count, steps, taken):
    data = OnDevice(np.zeros((count, 1), "uint8"), np.zeros(count, "int32"), 4, steps=steps)
    assert data.steps == taken


def test_the_remainder_may_be_dropped():
    data = OnDevice(np.zeros((10, 1)), np.zeros(10), 4, drop_remainder=True, steps=9)
    assert [block.shape for block in data.blocks()] == [(2, 4)]
    assert [block.shape for block in data.blocks(1)] == [(1, 4), (1, 4)]
    with pytest.raises(ValueError, match=r"`steps` must be an integer of at least 1"):
        OnDevice(np.zeros((10, 1)), np.zeros(10), 4, steps=0)


def trained(data, images, labels, epochs=3):
    """A fit with views drawn in the step; returns the model and its history."""
    keras.utils.set_random_seed(1)
    method = methods.be_your_own_teacher() + methods.data_distortion()
    rate = schedules.multi_step(0.05, [7, 13], 0.5)
    optimizer = SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model = tiny_model(method, CropFlip(1, seed=0), compile_with={"optimizer": optimizer})
    history = model.fit(
        data, epochs=epochs, shuffle=False, validation_data=(images, labels), verbose=0
    )
    return model, history.history


def test_a_fit_is_that_of_batches(images, labels, monkeypatch):
    # On JAX a loop is slow on a CPU and is not taken there, but it is what a GPU does.
    monkeypatch.setattr(resident, "steps_of", lambda data: data.steps)
    pairs = [
        trained(Batches(images, labels, 6, seed=2), images, labels),
        trained(OnDevice(images, labels, 6, seed=2, steps=2), images, labels),
    ]
    (plain, expected), (model, got) = pairs
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(plain.variables, model.variables):
        a, b = (keras.ops.convert_to_numpy(v) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert int(model.step.value) == int(model.optimizer.iterations) == 18
    assert model.resident is None
    # And from other images behind them, which no compiled program may still hold.
    before = model.evaluate(255 - images, labels, return_dict=True, verbose=0)["loss"]
    model.fit(OnDevice(255 - images, labels, 8, seed=2), epochs=8, verbose=0)
    assert model.evaluate(255 - images, labels, return_dict=True, verbose=0)["loss"] < before
    monkeypatch.undo()
    assert "exit_1_accuracy" in model.fit(images, labels, batch_size=8, verbose=0).history


def test_what_goes_wrong_is_named(images, labels):
    def message(data, **kwargs):
        model = tiny_model(methods.baseline(), at=[], compile_with=kwargs)
        with pytest.raises((ValueError, ArithmeticError)) as error:
            model.fit(data, verbose=0)
        assert model.resident is None
        return str(error.value)

    assert "`y` must hold class numbers 0…3" in message(OnDevice(images, labels + 1, 8))
    assert "`x` must be images of shape" in message(OnDevice(images[:, :4], labels, 8))
    two = message(OnDevice(images, labels, 8), steps_per_execution=2)
    assert "`steps_per_execution` must be 1" in two
    left_out = "`sample_weight` must be left out when `x` is a sd_keras.data.OnDevice"
    with pytest.raises(ValueError, match=left_out):
        model = tiny_model(methods.baseline(), at=[])
        model.fit(OnDevice(images, labels, 8), sample_weight=np.ones(32), verbose=0)


# TensorFlow need not be there: neither for `fit` nor for the app.
PROGRAM = """
import os, runpy, sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *args):
        hidden = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets")
        return None if hidden else self.finder.find_spec(name, *args)
    def __getattr__(self, name):
        return getattr(self.finder, name)
if os.environ["KERAS_BACKEND"] == "jax":
    sys.meta_path[:] = map(Hiding, sys.meta_path)
import pytest
app, workdir, *chosen = sys.argv[1:]
code = pytest.main(["-q", "-p", "no:cacheprovider", *chosen])
if code:
    sys.exit(code)
sys.path.insert(0, os.path.dirname(app))
sys.argv = [app, "--method=baseline", "--epochs=1", "--fraction=0.1", "--on_device"]
sys.argv += ["--precision=mixed_bfloat16", f"--workdir={workdir}"]
runpy.run_path(app, run_name="__main__")
"""


@pytest.mark.process
@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.torch)])
def test_the_same_on_another_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(TESTS)}
    tests = ["test_a_fit_is_that_of_batches", "test_what_goes_wrong_is_named"]
    chosen = [f"{__file__}::{name}" for name in tests]
    app = TESTS.parent / "apps/train_cifar.py"
    command = [sys.executable, "-c", PROGRAM, app, tmp_path, *chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2 passed" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["versions"]["backend"] == backend
    assert (tmp_path / "tensorboard").exists() == (backend != "jax")
