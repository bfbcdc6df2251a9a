"""Runs that stop anywhere and go on to the same bits; runs that diverge; disks that fail."""

import contextlib
import os
import signal

import keras
import numpy as np
import pytest
from conftest import image_folder, smallest_network, tiny_network
from keras import ops

import sd_keras
from sd_keras import data, methods
from sd_keras.callbacks import snapshot as snapshots
from sd_keras.callbacks.snapshot import Snapshot
from sd_keras.distortions import CropFlip

BOTH = methods.be_your_own_teacher() + methods.data_distortion()
BATCH = 8


class StopAt(keras.callbacks.Callback):
    """Ends a run by an error after a number of steps, as a crash would."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), train=43, val=13)


def streams(folder):
    train = data.stream(folder, BATCH, size=16, seed=3)
    return train, data.stream(folder, BATCH, "validation", size=16, protocol="center")


def model_of(seed=0, method=None, optimizer=None, **compile_with):
    keras.utils.set_random_seed(seed)
    network = tiny_network(input_shape=(16, 16, 3)) if method else smallest_network((16, 16, 3))
    model = sd_keras.SelfDistillModel(network, method, CropFlip(2, seed=4))
    optimizer = optimizer or sd_keras.optimizers.SGD(0.05, weight_decay=1e-3)
    model.compile(optimizer, metrics=["accuracy"], **compile_with)
    return model


def full_model(seed=0):
    """Both methods, moving averages of the weights, several steps together."""
    optimizer = keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.9)
    return model_of(seed, BOTH, optimizer, steps_per_execution=2)


def fit(model, folder, backup, epochs=3, callbacks=(), **kwargs):
    train, held = streams(folder)
    callbacks = [*callbacks, backup] if backup else list(callbacks)
    options = {"epochs": epochs, "verbose": 0, "validation_data": held, "callbacks": callbacks}
    return model.fit(train, **options | kwargs).history


def train(*args, **kwargs):
    """The same without validation, in less time."""
    return fit(*args, validation_data=None, **kwargs)


def state_of(model):
    return [
        np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)
    ]


def assert_same(model, other):
    for a, b in zip(state_of(model), state_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that was not stopped, and its history."""
    model = model_of()
    backup = sd_keras.Backup(tmp_path_factory.mktemp("whole"), 2)
    return model, fit(model, folder, backup)


def stopped_at(steps, folder, path, model=None, callbacks=()):
    """Leaves the backups of a run that crashed after so many steps."""
    backup = sd_keras.Backup(path, 2)
    with pytest.raises(InterruptedError):
        fit(model or model_of(), folder, backup, callbacks=[StopAt(steps), *callbacks])


@pytest.fixture(scope="module")
def full(folder, tmp_path_factory):
    """The same of everything at once."""
    model = full_model()
    backup = sd_keras.Backup(tmp_path_factory.mktemp("full"), 2)
    return model, fit(model, folder, backup, callbacks=[keras.callbacks.SwapEMAWeights()])


@pytest.mark.parametrize(
    "executions, place", [(2, (0, 2)), pytest.param(6, (1, 4), marks=pytest.mark.large)]
)
def test_a_stopped_run_goes_on_to_the_same_bits(full, folder, tmp_path, executions, place):
    """5 steps an epoch in 3 executions; a backup every 2 steps."""
    swap = keras.callbacks.SwapEMAWeights
    resumed, backup = full_model(seed=1), sd_keras.Backup(tmp_path / "b", 2)
    model, history = full
    # The crash comes in front of the backup of its step. Swapping rounds, so it swaps, too.
    stopped_at(executions, folder, tmp_path / "b", full_model(), callbacks=[swap()])
    rest = fit(resumed, folder, backup, callbacks=[swap()])
    assert backup.resumed_at == place
    assert_same(model, resumed)
    for name, values in rest.items():
        assert values == history[name][place[0] :], name


@pytest.mark.large
def test_a_finished_run_is_not_trained_again(whole, folder, tmp_path):
    path = tmp_path / "b"
    fit(model_of(), folder, sd_keras.Backup(path), epochs=1)
    model = model_of(seed=1)
    assert fit(model, folder, sd_keras.Backup(path), epochs=1) == {}
    again = fit(model, folder, sd_keras.Backup(path), epochs=3)
    assert again["loss"] == whole[1]["loss"][1:]
    assert_same(whole[0], model)


def test_sigterm_saves_and_ends_with_a_code(whole, folder, tmp_path):
    class Preempt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        fit(model_of(), folder, sd_keras.Backup(tmp_path, 4), callbacks=[Preempt()])
    assert left.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    model, backup = model_of(seed=1), sd_keras.Backup(tmp_path, 4)
    fit(model, folder, backup)
    assert backup.resumed_at == (1, 3)
    assert_same(whole[0], model)


@pytest.mark.large
def test_sigterm_in_validation_ends_without_waiting(whole, folder, tmp_path):
    class Preempt(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        fit(model_of(), folder, sd_keras.Backup(tmp_path), callbacks=[Preempt()])
    assert left.value.code == 75
    model, backup = model_of(seed=1), sd_keras.Backup(tmp_path)
    history = fit(model, folder, backup)
    assert backup.resumed_at == (0, 5)
    assert history == whole[1]
    assert_same(whole[0], model)


class Spoil(keras.callbacks.Callback):
    """Makes the loss NaN, or only huge, at one step."""

    def __init__(self, step, value):
        super().__init__()
        self.step, self.value = step, value

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.optimizer.iterations == self.step:
            bias = self.model.network.trainable_weights[-1]
            bias.assign(bias + np.float32(self.value) * np.arange(bias.shape[0]))


@pytest.mark.large
def test_the_backups_learning_rate_goes_on_with_a_warning(folder, tmp_path):
    stopped_at(7, folder, tmp_path)
    model = model_of(optimizer=sd_keras.optimizers.SGD(0.01, weight_decay=1e-3))
    with pytest.warns(UserWarning, match=r"learning rate 0\.05 is used, not 0\.01"):
        train(model, folder, sd_keras.Backup(tmp_path))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "value, limit, error",
    [("nan", None, sd_keras.NonFiniteLossError), (1e4, 50.0, sd_keras.LossBlowUpError)],
)
def test_divergence_stops_or_rolls_back(folder, tmp_path, value, limit, error):
    spoil = Spoil(7, value)
    with pytest.raises(error, match="at training step 8") as stopped:
        backup = sd_keras.Backup(tmp_path / "stop", 2, max_loss=limit)
        train(model_of(), folder, backup, callbacks=[spoil])
    assert stopped.value.step == 8
    model = model_of()
    backup = sd_keras.Backup(tmp_path / "b", 2, on_divergence="roll_back", max_loss=limit)
    with pytest.warns(UserWarning, match=r"training step 8.*epoch_00001_step_000002\.npz.*1 of 3"):
        history = train(model, folder, backup, epochs=2, callbacks=[spoil])
    assert backup.roll_backs == 1
    assert np.isfinite(history["loss"]).all() and max(history["loss"]) < 50
    assert int(model.optimizer.iterations.numpy()) == int(model.step.numpy()) == 10
    assert all(np.isfinite(value).all() for value in state_of(model))


def test_roll_backs_are_limited(folder, tmp_path):
    class Always(Spoil):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations >= 2:
                self.step = int(self.model.optimizer.iterations.numpy())
                super().on_train_batch_begin(batch)

    backup = sd_keras.Backup(tmp_path, 2, on_divergence="roll_back", max_roll_backs=2)
    with (
        pytest.warns(UserWarning, match=r"roll back [12] of 2"),
        pytest.raises(sd_keras.NonFiniteLossError, match=r"step 5.*2 roll backs are all that"),
    ):
        train(model_of(), folder, backup, callbacks=[Always(2, "nan")])


class Poison(keras.callbacks.Callback):
    """Gives weights at one step something finite that makes the loss of later steps NaN."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        bias = self.model.network.trainable_weights[-1]
        values = np.array(ops.convert_to_numpy(bias))
        if values[0] > 1e6:
            bias.assign(values * np.float32("nan"))
        if self.step is not None and self.model.optimizer.iterations == self.step:
            self.step = None
            bias.assign(values + np.float32(1e7))


@pytest.mark.parametrize("step, good", [(3, "00000_step_000002"), (4, "00000_step_000004")])
def test_a_backup_that_leads_to_divergence_again_is_passed_over(folder, tmp_path, step, good):
    backup = sd_keras.Backup(tmp_path, 2, on_divergence="roll_back")
    model = model_of()
    with pytest.warns(UserWarning) as warned:
        train(model, folder, backup, epochs=2, callbacks=[Poison(step)])
    texts = [str(each.message) for each in warned if "roll back" in str(each.message)]
    assert good in texts[-1] and "(roll back 2 of 3)" in texts[-1], texts
    assert all(np.isfinite(value).all() for value in state_of(model))
    assert abs(np.array(ops.convert_to_numpy(model.network.trainable_weights[-1]))).max() < 1


def unsized(images, labels):
    """A data set whose length Keras cannot know."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(8).filter(lambda *_: True)


class PoisonEpoch(Poison):
    """The same at the end of the third epoch, seen at the first two steps of the next."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch < 2:  # TensorFlow begins a step too many to find out that the data end
            super().on_train_batch_begin(batch)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            bias = self.model.network.trainable_weights[-1]
            bias.assign(np.full(bias.shape, 1e7))


def test_epochs_of_unknown_length_are_gone_back_over_one_by_one(tmp_path):
    images, labels = np.zeros((24, 16, 16, 3), "uint8"), np.arange(24) % 4
    backup = sd_keras.Backup(tmp_path, on_divergence="roll_back")
    options = {"epochs": 4, "verbose": 0, "callbacks": [PoisonEpoch(None), backup]}
    with pytest.warns(UserWarning) as warned:
        model_of().fit(unsized(images, labels), **options)
    texts = [str(each.message) for each in warned if "roll back" in str(each.message)]
    assert "epoch_00003" in texts[0] and "epoch_00002" in texts[1], texts


def test_where_none_is_older_the_oldest_readable_backup_is_taken(tmp_path):
    for place in ((0, 500), (0, 800), (1, 0)):
        metadata = {"epoch": place[0], "step": place[1], "variables": [], "num_metrics": 0}
        snapshots.write(tmp_path, Snapshot([], [], metadata), keep=9)

    def found(before):
        return snapshots.latest_readable(tmp_path, before=before)[1].place

    assert [found(before) for before in (None, (1, 0), (0, 800), (0, 500))] == [
        (1, 0),
        (0, 800),
        (0, 500),
        (0, 500),
    ]
    (tmp_path / "epoch_00000_step_000500.npz").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="a backup is skipped: .*step_000500.npz is damaged"):
        assert found((0, 800)) == (0, 800)


def test_the_last_execution_of_repeated_data_is_made_whole(tmp_path):
    """Of 21 steps, 2 together, Keras makes 22, whose losses are 2 and in the end 2.6."""
    import tensorflow as tf

    model = model_of(optimizer=sd_keras.optimizers.SGD(0.0), steps_per_execution=2)
    kernel, bias = model.network.trainable_weights[-2:]
    kernel.assign(np.zeros(kernel.shape))
    rest = np.log((1 - np.exp(-2.0) - np.exp(-2.6)) / 2)
    bias.assign(np.array([-2.0, -2.6, rest, rest], "float32"))
    labels = np.repeat([0, 1], [40, 4])
    data = tf.data.Dataset.from_tensor_slices((np.zeros((44, 16, 16, 3), "uint8"), labels))
    options = {"steps_per_epoch": 21, "verbose": 0}
    options["callbacks"] = [sd_keras.Backup(tmp_path, max_loss=2.8)]
    history = model.fit(data.batch(2).repeat(), **options).history
    np.testing.assert_allclose(history["loss"], [(20 * 2.0 + 2 * 2.6) / 22], rtol=1e-5)


def test_a_callback_list_is_taken(images, labels, tmp_path):
    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile("sgd")
    history, backup = keras.callbacks.History(), sd_keras.Backup(tmp_path)
    given = [history, backup]
    callbacks = keras.callbacks.CallbackList(given, model=model)
    model.fit(images, labels, epochs=2, verbose=0, callbacks=callbacks)
    assert history.epoch == [0, 1]
    assert callbacks.callbacks == given


@pytest.mark.large
def test_losses_behind_a_roll_back_and_a_resume_are_counted_by_what_metrics_saw(folder, tmp_path):
    """Of 5 steps an epoch the 3rd rolls back, the 5th blows up, in an epoch gone on with."""
    spoils = [Spoil(7, "nan"), Spoil(9, 1e4)]
    rolling = {"on_divergence": "roll_back", "max_loss": 50.0}
    with pytest.raises(InterruptedError), pytest.warns(UserWarning, match="roll back 1 of 3"):
        backup = sd_keras.Backup(tmp_path, 2, **rolling)
        train(model_of(), folder, backup, callbacks=[spoils[0], StopAt(10)])
    place, path = snapshots.files(tmp_path)[-1]
    assert place == (1, 4)
    metadata = Snapshot.read(path).metadata
    assert metadata["seen"] == 3 * BATCH  # 2 of the backup, none, 1
    model = model_of(seed=1)
    with pytest.raises(sd_keras.LossBlowUpError) as stopped:
        train(model, folder, sd_keras.Backup(tmp_path, max_loss=50.0), callbacks=[spoils[1]])
    shown = model.get_metrics_result()["loss"]
    mean = metadata["logs"]["loss"]
    assert stopped.value.loss == pytest.approx(4 * float(shown) - 3 * mean, rel=1e-5)


def test_the_last_batch_weighs_as_many_images_as_it_has(images, labels, tmp_path):
    """7 images of a loss near 0, then 1 of 20: their mean, by steps, would be 5.0."""
    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile(sd_keras.optimizers.SGD(0.0))
    kernel, bias = model.network.trainable_weights[-2:]
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.array([0.0, -20.0, -40.0, -40.0], "float32"))
    labels = np.array([0] * 7 + [1])
    options = {"batch_size": 7, "shuffle": False, "verbose": 0}
    with pytest.raises(sd_keras.LossBlowUpError) as stopped:
        backup = sd_keras.Backup(tmp_path, max_loss=10.0)
        model.fit(images[:8], labels, **options, callbacks=[backup])
    assert stopped.value.loss == pytest.approx(20.0, rel=1e-4)


def test_a_roll_back_leaves_a_learning_rate_that_a_callback_sets(folder, tmp_path):
    class Lower(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:
                self.model.optimizer.learning_rate = 0.01

    model = model_of()
    backup = sd_keras.Backup(tmp_path, on_divergence="roll_back")
    with pytest.warns(UserWarning, match=r"epoch_00001_step_000000\.npz.*1 of 3"):
        train(model, folder, backup, epochs=2, callbacks=[Lower(), Spoil(7, "nan")])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("step, place", [(7, (1, 3)), (4, (1, 0))])
def test_sigterm_and_an_epochs_end_save_also_what_was_rolled_back(folder, tmp_path, step, place):
    class Preempt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.step == 8:
                os.kill(os.getpid(), signal.SIGTERM)

    model, backup = model_of(), sd_keras.Backup(tmp_path, 2, on_divergence="roll_back")
    callbacks = [Spoil(step, "nan"), *([Preempt()] if step == 7 else [StopAt(6)])]
    with (
        pytest.raises((SystemExit, InterruptedError)),
        pytest.warns(UserWarning, match="1 of 3"),
    ):
        train(model, folder, backup, callbacks=callbacks)
    newest, path = snapshots.files(tmp_path)[-1]
    assert newest == place
    snapshot = Snapshot.read(path)
    assert snapshot.is_finite() and snapshot.metadata["roll_backs"] == 1


class BadState(keras.callbacks.Callback):
    """Makes a state from which, saved and put back, training diverges wherever it is."""

    def __init__(self, step, shown_from):
        super().__init__()
        self.step, self.shown_from, self.crash = step, shown_from, None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.crash:
            raise InterruptedError

    def on_train_batch_begin(self, batch, logs=None):
        if batch < self.model.position.skip_steps:
            return
        step, bias = int(self.model.step.numpy()), self.model.network.trainable_weights[-1]
        values = np.array(ops.convert_to_numpy(bias))
        if step == self.step:
            self.step = None
            bias.assign(values + np.float32(1e4))  # of every class: the loss stays
        elif values[0] > 1e3 and step >= self.shown_from:
            bias.assign(values * np.float32("nan"))


@pytest.mark.large
def test_weights_put_back_do_not_push_out_the_good_ones(folder, tmp_path):
    """What is saved at the end of epoch 2 is bad, which the last step of epoch 3 shows."""
    backup = sd_keras.Backup(tmp_path, on_divergence="roll_back")
    with pytest.warns(UserWarning) as warned:
        train(model_of(), folder, backup, epochs=4, callbacks=[BadState(9, shown_from=14)])
    texts = [str(each.message) for each in warned if "roll back" in str(each.message)]
    assert "epoch_00002_step_000000" in texts[0] and "epoch_00001" in texts[-1], texts
    assert backup.roll_backs == 2


@pytest.mark.large
def test_a_run_stopped_behind_a_roll_back_knows_what_to_pass_over(folder, tmp_path):
    """The state of step 4 is bad, which step 5, the last of the epoch, shows."""
    bad = BadState(3, shown_from=4)
    bad.crash = 1
    backup = sd_keras.Backup(tmp_path, 2, on_divergence="roll_back")
    with pytest.raises(InterruptedError), pytest.warns(UserWarning, match="1 of 3"):
        train(model_of(), folder, backup, epochs=2, callbacks=[bad])
    bad.crash = None
    with pytest.warns(UserWarning, match=r"epoch_00000_step_000002\.npz.*\(roll back 2 of 3\)"):
        train(model_of(seed=1), folder, backup, epochs=2, callbacks=[bad])


def test_an_evaluation_in_mid_epoch_is_no_blow_up(images, labels, tmp_path):
    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.evaluate(images[16:], labels[16:], verbose=0)

    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile(sd_keras.optimizers.SGD(0.0))
    kernel, bias = model.network.trainable_weights[-2:]
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.array([0.0, -4.0, -4.0, -4.0], "float32"))
    labels = np.repeat([0, 1], [16, 16])
    options = {"batch_size": 4, "shuffle": False, "verbose": 0}
    callbacks = [Evaluate(), sd_keras.Backup(tmp_path, max_loss=3.0)]
    history = model.fit(images[:16], labels[:16], **options, callbacks=callbacks)
    assert history.epoch == [0] and int(model.step.numpy()) == 4


def test_what_later_callbacks_change_is_saved_too(images, labels, tmp_path):
    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

    def run(epochs):
        model = sd_keras.SelfDistillModel(smallest_network())
        model.compile(sd_keras.optimizers.SGD(0.08))
        callbacks = [sd_keras.Backup(tmp_path), Halve()]
        model.fit(images, labels, epochs=epochs, verbose=0, callbacks=callbacks)
        return float(model.optimizer.learning_rate)

    assert run(1) == pytest.approx(0.04)
    assert run(2) == pytest.approx(0.02)


def test_a_run_that_a_callback_stopped_stays_stopped(images, labels, tmp_path):
    def run():
        model = sd_keras.SelfDistillModel(smallest_network())
        model.compile(sd_keras.optimizers.SGD(3.0))
        stop = keras.callbacks.EarlyStopping("loss", mode="max", restore_best_weights=True)
        callbacks = [sd_keras.Backup(tmp_path), stop]
        history = model.fit(images, labels, epochs=9, verbose=0, callbacks=callbacks)
        return model, history.epoch

    (model, epochs), (again, none) = run(), run()
    assert len(epochs) < 9 and none == []
    assert_same(model, again)


def test_weights_found_useless_at_an_epochs_end_are_not_saved(images, labels, tmp_path):
    class SpoilLast(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.step == 8:
                bias = self.model.network.trainable_weights[-1]
                bias.assign(bias * np.float32("nan"))

    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile(sd_keras.optimizers.SGD(0.05))
    backup = sd_keras.Backup(tmp_path, on_divergence="roll_back")
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, "callbacks": [SpoilLast(), backup]}
    with pytest.warns(UserWarning, match="not finite after training step 8.*epoch_00001"):
        model.fit(images, labels, **options)
    saved = [Snapshot.read(path) for _, path in snapshots.files(tmp_path)]
    assert len(saved) == 2 and all(snapshot.is_finite() for snapshot in saved)


@pytest.mark.large
def test_a_backup_begins_anew_with_another_fit(folder, tmp_path):
    backup = sd_keras.Backup(tmp_path / "a", on_divergence="roll_back", max_roll_backs=1)
    for name in ("a", "b"):
        backup.folder = tmp_path / name
        with pytest.warns(UserWarning, match="roll back 1 of 1"):
            train(model_of(), folder, backup, epochs=2, callbacks=[Spoil(7, "nan")])
        assert backup.resumed_at is None


def test_damaged_backups_are_passed_over(whole, folder, tmp_path):
    stopped_at(9, folder, tmp_path)
    paths = [path for _, path in snapshots.files(tmp_path)]
    assert [path.name for path in paths] == [
        "epoch_00000_step_000005.npz",
        "epoch_00001_step_000000.npz",
        "epoch_00001_step_000002.npz",
    ]
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    model, backup = model_of(seed=1), sd_keras.Backup(tmp_path, 2)
    with pytest.warns(UserWarning, match=r"is skipped: .*step_00000[02]\.npz is damaged: "):
        fit(model, folder, backup)
    assert backup.resumed_at == (0, 5)
    assert len(list(tmp_path.glob("damaged_epoch_00001_step_00000[02].npz"))) == 2
    assert_same(whole[0], model)
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(ValueError, match="`folder` holds no readable backup; delete it"),
    ):
        (tmp_path / "all").mkdir()
        (tmp_path / "all" / paths[0].name).write_bytes(b"")
        snapshots.latest_readable(tmp_path / "all", move_damaged=True)
    # Whoever starts it again is not left with a run from the beginning.
    assert [path.name for path in (tmp_path / "all").iterdir()] == [paths[0].name]


def test_a_full_disk_leaves_the_last_good_backup(folder, tmp_path, monkeypatch):
    stopped_at(4, folder, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        OSError, match=r"epoch_00000_step_000004\.npz could not be written: No space"
    ):
        train(model_of(), folder, sd_keras.Backup(tmp_path, 2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_refused_before_training(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`folder` must be one that can be written: Not a directory"):
        fit(model_of(), folder, sd_keras.Backup(tmp_path / "file" / "b"))


def test_what_does_not_fit_is_refused(folder, tmp_path):
    stopped_at(3, folder, tmp_path)
    with pytest.raises(
        ValueError, match="`folder` must hold the state of this network, method and"
    ):
        train(model_of(optimizer=keras.optimizers.Adam()), folder, sd_keras.Backup(tmp_path))
    arrays = np.zeros((8, 16, 16, 3), "uint8"), np.zeros(8, "int32")
    with pytest.raises(ValueError, match="`every_steps` must be None unless"):
        model_of().fit(*arrays, callbacks=[sd_keras.Backup(tmp_path / "new", 2)])
    with pytest.raises(ValueError, match="must be a sd_keras.data.Stream to resume in the middle"):
        model_of().fit(*arrays, callbacks=[sd_keras.Backup(tmp_path)])
    with pytest.raises(ValueError, match="`steps_per_execution` must divide 2"):
        train(model_of(steps_per_execution=5), folder, sd_keras.Backup(tmp_path))
    other = data.stream(folder, BATCH, size=16, seed=4)
    with pytest.raises(ValueError, match="`x` must be the stream that the backup was made with"):
        model_of().fit(other, epochs=2, verbose=0, callbacks=[sd_keras.Backup(tmp_path)])
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with pytest.raises(ValueError, match=r"must not hold SwapEMAWeights\(swap_on_epoch=True\)"):
        train(model_of(), folder, sd_keras.Backup(tmp_path), callbacks=[swap])
    with pytest.raises(ValueError, match="`class_weight` must be left out when `x` is a"):
        train(model_of(), folder, None, class_weight={0: 2.0})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"every_steps": 0}, "`every_steps` must be an integer of at least 1"),
        ({"keep": 0}, "`keep` must be an integer of at least 1. Received: keep=0"),
        ({"on_divergence": "ignore"}, "`on_divergence` must be 'stop' or 'roll_back'"),
        ({"max_loss": -1.0}, "`max_loss` must be above 0. Received: max_loss=-1.0"),
        ({"every_minutes": float("nan")}, "`every_minutes` must be above 0. Received: .*=nan"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        sd_keras.Backup(tmp_path, **arguments)


class Own(keras.metrics.Metric):
    """A metric whose variables Keras makes at the first batch."""

    def __init__(self, name="own", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign(self.total + 1.0)

    def result(self):
        return ops.add(self.total, 0.0)


@pytest.mark.large
def test_a_metric_of_ones_own_does_not_bar_the_way(whole, folder, tmp_path):
    def own_model(seed):
        model = model_of(seed)
        model.compile(sd_keras.optimizers.SGD(0.05, weight_decay=1e-3), metrics=[Own()])
        return model

    stopped_at(9, folder, tmp_path, own_model(0))
    model = own_model(1)
    warned = pytest.warns(UserWarning, match="metrics of epoch 2 count its steps from 2 on only")
    # On JAX Keras has made the metric's variables before the first batch.
    with contextlib.nullcontext() if keras.config.backend() == "jax" else warned:
        fit(model, folder, sd_keras.Backup(tmp_path, 2))
    assert_same(whole[0], model)


@pytest.mark.large
def test_nothing_of_a_backup_outlives_its_fit(folder, tmp_path):
    backup = sd_keras.Backup(tmp_path, on_divergence="roll_back", max_loss=1e6)
    model = model_of()
    train(model, folder, backup, epochs=1)
    assert model.position.recover is model.position.max_loss is None
    with pytest.raises(InterruptedError):
        train(model, folder, sd_keras.Backup(tmp_path), callbacks=[StopAt(6)])
    assert len(train(model, folder, None, epochs=1)["loss"]) == 1
    with pytest.raises(sd_keras.NonFiniteLossError):
        train(model, folder, None, epochs=1, callbacks=[Spoil(15, "nan"), Spoil(16, "nan")])


def small_fit(backup, x, seed=0, epochs=3, callbacks=(), full=False, **kwargs):
    """A fit of data in memory with a backup, or one in a folder; returns model, it and history."""
    keras.utils.set_random_seed(seed)
    network, method = (tiny_network(), BOTH) if full else (smallest_network(), None)
    model = sd_keras.SelfDistillModel(network, method, CropFlip(2, seed=4))
    model.compile(sd_keras.optimizers.SGD(0.05))
    if not isinstance(backup, sd_keras.Backup):
        backup = sd_keras.Backup(backup, **kwargs)
    arrays = x if isinstance(x, tuple) else (x,)
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}
    history = model.fit(*arrays, callbacks=[*callbacks, backup], **options)
    return model, backup, history.history


@pytest.mark.parametrize("kind", [data.Batches, data.OnDevice, None])
def test_epochs_of_data_in_memory_are_backed_up_too(images, labels, tmp_path, kind):
    """Batches come in an order of each epoch, arrays in the same one."""
    make = (lambda: kind(images, labels, 8, seed=3)) if kind else lambda: (images, labels)
    full = kind is data.Batches
    model, _, history = small_fit(tmp_path / "whole", make(), full=full)

    def crash(callback):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        small_fit(tmp_path / "b", make(), callbacks=[StopEpoch(1, crash)], full=full)
    resumed, backup, rest = small_fit(tmp_path / "b", make(), seed=1, full=full)
    assert backup.resumed_at == (1, 0)
    assert rest["loss"] == history["loss"][1:]
    assert_same(model, resumed)


class StopEpoch(keras.callbacks.Callback):
    """Stops a run at the end of an epoch, by a function of the callback."""

    def __init__(self, epoch, stop):
        super().__init__()
        self.epoch, self.stop = epoch, stop

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.stop(self)


def epochs_in(folder):
    return [place for place, _ in snapshots.files(folder)]


@pytest.mark.parametrize("minutes, kept", [(None, [(2, 0), (3, 0)]), (60, [(3, 0)])])
def test_backups_may_be_rare_but_never_miss_the_end(images, labels, tmp_path, minutes, kept):
    x = data.Batches(images, labels, 16, seed=3)
    small_fit(tmp_path / "whole", x, keep=2, every_minutes=minutes)
    assert epochs_in(tmp_path / "whole") == kept

    def stop(callback):
        callback.model.stop_training = True

    x.set_epoch(0)
    small_fit(tmp_path / "b", x, callbacks=[StopEpoch(1, stop)], every_minutes=60)
    assert epochs_in(tmp_path / "b") == [(2, 0)]


def test_minutes_count_within_an_epoch_of_a_stream(folder, tmp_path, monkeypatch):
    backup = sd_keras.Backup(tmp_path, every_minutes=60, keep=9)
    monkeypatch.setattr(backup, "_is_time", lambda: backup._done in (1, 3))
    train(model_of(), folder, backup, epochs=1)
    assert epochs_in(tmp_path) == [(0, 2), (0, 4), (1, 0)]


@pytest.mark.parametrize("by", ["sigterm", "request"])
def test_what_is_stopped_on_request_saves_the_last_whole_epoch(images, labels, tmp_path, by):
    """In the second step of the third epoch, long before the next backup is due."""

    class Preempt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if by == "sigterm" and self.model.optimizer.iterations == 9:
                os.kill(os.getpid(), signal.SIGTERM)

    def make():
        return data.Batches(images, labels, 8, seed=3)

    model, _, _ = small_fit(tmp_path / "whole", make())
    before, backup = signal.getsignal(signal.SIGTERM), sd_keras.Backup(tmp_path, every_minutes=60)
    request = StopEpoch(1, lambda callback: by == "request" and backup.request_stop())
    with pytest.raises(SystemExit) as left:
        small_fit(backup, make(), callbacks=[Preempt(), request])
    assert left.value.code == 75 and signal.getsignal(signal.SIGTERM) is before
    assert epochs_in(tmp_path) == [(2, 0)]
    resumed, backup, _ = small_fit(tmp_path, make(), seed=1)
    assert backup.resumed_at == (2, 0)
    assert_same(model, resumed)


def test_a_validation_loss_that_is_not_finite_is_not_saved(images, labels, tmp_path):
    class SpoilLogs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                logs["val_loss"] = float("nan")

    with pytest.raises(sd_keras.DivergenceError, match="loss is not finite after epoch 2"):
        small_fit(tmp_path, (images, labels), callbacks=[SpoilLogs()])
    assert epochs_in(tmp_path) == [(1, 0)]


@pytest.mark.large
def test_two_fits_do_not_share_a_folder(images, labels, tmp_path):
    def fit_again(callback):
        with pytest.raises(ValueError, match="`folder` must be used by one process at a time"):
            small_fit(tmp_path, (images, labels))

    small_fit(tmp_path, (images, labels), epochs=1, callbacks=[StopEpoch(0, fit_again)])
    small_fit(tmp_path, (images, labels), epochs=1)


def test_no_damaged_byte_is_read_as_good(tmp_path):
    """Each byte in turn; refused, or what it does not hold anything by."""
    arrays = [np.arange(40, dtype="float32"), np.float32(3), np.arange(6, dtype="int32")]
    specs = [["v", list(array.shape), str(array.dtype)] for array in arrays[:2]]
    metadata = {"epoch": 0, "step": 1, "variables": specs, "num_metrics": 1}
    path = tmp_path / "epoch_00000_step_000001.npz"
    Snapshot(arrays[:2], arrays[2:], metadata).write(path)
    content, refused = path.read_bytes(), 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= (1, 0x80, 0xFF)[place % 3]
        path.write_bytes(damaged)
        try:
            snapshot = Snapshot.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged: ")
            refused += 1
            continue
        assert snapshot.metadata == metadata and snapshot.place == (0, 1)
        for array, expected in zip(snapshot.variables + snapshot.metrics, arrays, strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
    assert refused > 0.8 * len(content)
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged"):
            Snapshot.read(path)
