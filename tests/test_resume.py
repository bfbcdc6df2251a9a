"""Models that are saved and loaded train on bit-equal; files are whole, and read with care."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import tiny_model
from keras import ops

from sd_keras import checkpoints, methods
from sd_keras.distortions import CropFlip
from sd_keras.schedules import WarmUp

BOTH = "be_your_own_teacher+data_distortion"


def full_model(**kwargs):
    method = methods.get(BOTH, data_distortion={"kl_weight": WarmUp(1.0, 6)})
    return tiny_model(method, CropFlip(2, seed=4), **kwargs)


def fit(model, images, labels, epochs=1, **kwargs):
    return model.fit(
        images, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **kwargs
    ).history


def assert_same(a, b):
    assert len(a.variables) == len(b.variables)
    for v, w in zip([*a.variables, *a.optimizer.variables], [*b.variables, *b.optimizer.variables]):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), ops.convert_to_numpy(w), v.path)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_loaded_model_goes_on_bit_equal(images, labels, tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    model = full_model()
    fit(model, images, labels)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(model, loaded)
    assert loaded.dtype_policy.name == policy
    first, second = (fit(m, images, labels, epochs=2) for m in (model, loaded))
    assert first == second
    assert_same(model, loaded)


def test_weights_alone_carry_step_and_draws(images, labels, tmp_path):
    model, other = full_model(), full_model()
    fit(model, images, labels)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert int(other.step.value) == 4
    np.testing.assert_array_equal(model.distortion(images), other.distortion(images))


def test_loading_into_another_distortion_is_refused(images, labels, tmp_path):
    model = full_model()
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="1 random states where the model has 0"):
        tiny_model(methods.two_branch()).load_weights(tmp_path / "model.weights.h5")


def test_files_are_written_wholly_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    checkpoints.write_json(path, {"a": 1})

    def fail(aside):
        aside.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.write_whole(path, fail)
    assert path.read_text() == '{\n "a": 1\n}'
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


HOLDER = """
import pathlib, sys, time
sys.path.insert(0, {root!r})
from sd_keras import checkpoints
lock = checkpoints.FolderLock(pathlib.Path({folder!r}))
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_is_used_by_one_process(tmp_path):
    root = str(pathlib.Path(checkpoints.__file__).parents[1])
    (tmp_path / ".writing_123_results.json").write_text("{")
    program = HOLDER.format(root=root, folder=str(tmp_path))
    # Keras's backend is not needed, and a process without it starts sooner.
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert holder.stdout.readline() == "held\n"
        message = f"`workdir` must be used by one process at a time, and process {holder.pid} on "
        with pytest.raises(ValueError, match=message):
            checkpoints.FolderLock(tmp_path, "workdir")
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / ".lock").exists(), "it was killed"
    lock = checkpoints.FolderLock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with pytest.raises(ValueError, match=f"and process {os.getpid()} on "):
        checkpoints.FolderLock(tmp_path)
    lock.release()
    lock.release()
    checkpoints.FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())
