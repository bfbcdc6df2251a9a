"""Runs that are killed twenty times end with the same bits as runs that are not."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import image_folder

TESTS = pathlib.Path(__file__).parent
DIGITS = ("--method=data_distortion", "--fraction=0.1", "--epochs=100", "--noexport")
IMAGES = ("--model=resnet8", "--stem=cifar", "--image_size=32", "--batch_size=8", "--epochs=100")


def run(kills, app, workdir, flags):
    done = subprocess.run(
        [sys.executable, TESTS / "kill_app.py", str(kills), app, f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_cifar", "train_imagenet"])
def test_twenty_kills_change_no_bit(tmp_path, name):
    flags = DIGITS
    if name == "train_imagenet":
        images = image_folder(tmp_path / "images", train=45, val=13)
        flags = (f"--dataset={images}", *IMAGES, "--backup_steps=2")
    app, whole, killed = TESTS.parent / f"apps/{name}.py", tmp_path / "whole", tmp_path / "killed"
    run(0, app, whole, flags)
    assert "resuming after epoch" in run(20, app, killed, flags)
    networks = [keras.models.load_model(path / "network.keras") for path in (whole, killed)]
    for a, b in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()
