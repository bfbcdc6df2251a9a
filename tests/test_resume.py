"""Saving, loading and going on: bit-equal, and safe against damaged files."""

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


def test_resumed_run_equals_an_uninterrupted_one(images, labels, tmp_path):
    whole = full_model()
    history = fit(whole, images, labels, epochs=4)
    keras.utils.set_random_seed(0)
    fit(full_model(), images, labels, epochs=2, callbacks=[checkpoints.Checkpoint(tmp_path)])
    model, epoch = checkpoints.restore(tmp_path)
    rest = fit(model, images, labels, epochs=4, initial_epoch=epoch)
    assert epoch == 2
    assert rest["loss"] == history["loss"][2:]
    assert_same(model, whole)


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


def test_checkpoints_are_pruned_and_written_aside(images, labels, tmp_path):
    fit(full_model(), images, labels, epochs=4, callbacks=[checkpoints.Checkpoint(tmp_path, 2)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch_00003.keras", "epoch_00004.keras"]


@pytest.mark.parametrize("stops, epochs", [(None, [4]), (2, [3])])
def test_checkpoints_may_be_rare_but_never_miss_the_end(images, labels, tmp_path, stops, epochs):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == stops

    saving = checkpoints.Checkpoint(tmp_path, minutes=60)
    fit(full_model(), images, labels, epochs=4, callbacks=[Stop(), saving])
    assert [epoch for epoch, _ in checkpoints._files(tmp_path)] == epochs
    with pytest.raises(ValueError, match=r"`minutes` must be at least 0. Received: minutes=nan"):
        checkpoints.Checkpoint(tmp_path, minutes=float("nan"))


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_damaged_checkpoint_is_passed_over(images, labels, tmp_path, damage):
    fit(full_model(), images, labels, epochs=2, callbacks=[checkpoints.Checkpoint(tmp_path)])
    newest = tmp_path / "epoch_00002.keras"
    content = newest.read_bytes()
    broken = {"half": content[: len(content) // 2], "empty": b"", "text": b"not a zip"}[damage]
    newest.write_bytes(broken)
    with pytest.warns(UserWarning, match=r"epoch_00002\.keras cannot be read"):
        model, epoch = checkpoints.restore(tmp_path)
    assert epoch == 1
    assert int(model.step.value) == 4


def test_nothing_readable_is_an_error_not_a_new_start(tmp_path):
    assert checkpoints.restore(tmp_path / "none") == (None, 0)
    (tmp_path / "epoch_00001.keras").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(ValueError, match=r"`folder` holds no readable checkpoint"),
    ):
        checkpoints.restore(tmp_path)
    with pytest.raises(ValueError, match=r"`keep` must be at least 1. Received: keep=0"):
        checkpoints.Checkpoint(tmp_path, keep=0)


def test_a_failed_save_leaves_the_old_checkpoint(images, labels, tmp_path, monkeypatch):
    """A disk that fills up while the file is written costs nothing already there."""
    model = full_model()
    fit(model, images, labels, callbacks=[checkpoints.Checkpoint(tmp_path)])
    before = (tmp_path / "epoch_00001.keras").read_bytes()

    def full_disk(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save", full_disk)
    callback = checkpoints.Checkpoint(tmp_path)
    callback.set_model(model)
    with pytest.raises(OSError, match="No space left"):
        callback.on_epoch_end(1)
    assert (tmp_path / "epoch_00001.keras").read_bytes() == before
    monkeypatch.undo()
    assert checkpoints.restore(tmp_path)[1] == 1


def test_a_diverged_epoch_is_not_saved(images, labels, tmp_path):
    model = full_model()
    fit(model, images, labels, callbacks=[checkpoints.Checkpoint(tmp_path)])
    callback = checkpoints.Checkpoint(tmp_path, keep=1)
    callback.set_model(model)
    with pytest.raises(FloatingPointError, match="after epoch 2, so it is not saved"):
        callback.on_epoch_end(1, {"loss": 1.0, "val_loss": float("nan")})
    weight = model.trainable_weights[0]
    weight.assign(weight * float("inf"))
    with pytest.raises(FloatingPointError, match="after epoch 2, so it is not saved"):
        callback.on_epoch_end(1, {"loss": 1.0})
    assert checkpoints.restore(tmp_path)[1] == 1


def test_logged_epochs_without_checkpoint_are_forgotten(tmp_path):
    log = tmp_path / "log.csv"
    checkpoints.forget_epochs(log, 3)
    assert not log.exists()
    log.write_text("epoch,loss\n0,3.0\n1,2.5\n2,2.0\n3,1.")
    checkpoints.forget_epochs(log, 2)
    assert log.read_text() == "epoch,loss\n0,3.0\n1,2.5\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "delimiter"),
        (b"null", "it holds a NoneType"),
        (b"[1]", "it holds a list"),
        (b'{"fraction": NaN}', "it holds the number NaN"),
        (b'{"fraction": 1e999}', "it holds the number 1e999"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": ' + b"[" * 100_000, "maximum recursion depth"),
        (b'{"a": ' + b"1" * 5000 + b"}", "4300 digits"),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.read_json(path)
    assert str(error.value).endswith(f"Received: path={str(path)!r}")
    path.write_text('{"a": [1, 2.5]}')
    assert checkpoints.read_json(path) == {"a": [1, 2.5]}


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
