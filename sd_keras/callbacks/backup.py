"""Backups of a run under `fit`, from which it resumes as if it had never stopped."""

import math
import pathlib
import signal
import sys
import threading
import time
import warnings

import keras
import numpy as np

from sd_keras import checkpoints, distribute, keras_internals, replica_state
from sd_keras.callbacks import snapshot as snapshots
from sd_keras.callbacks.divergence import DivergenceError
from sd_keras.callbacks.snapshot import Snapshot
from sd_keras.data.batches import check_whole

PREEMPTED = 75  # the exit code of sysexits.h for "try again later"


class Backup(keras.callbacks.Callback):
    """Backs up a `SelfDistillModel` under `fit`; the same `fit` called again resumes from there.

        model.fit(train, epochs=90, callbacks=[sd_keras.Backup("runs/r50/backup", 500)])

    A file holds weights, optimizer, moving averages, step, random draws, metrics, and the place
    in the data. A resumed run is bit-equal to one that was not stopped, if the data are a
    `sd_keras.data.Stream`, or with `shuffle=False` `sd_keras.data.Batches` or one of their kinds
    (others are equal where each epoch is the same by itself). Files are written atomically. Of
    several workers the chief writes, and all must see the folder; one process at a time uses it.
    It saves after all other callbacks, wherever it stands among them; their own states are not
    kept. Once one of them has stopped the run, the same `fit` has nothing left to do.

    SIGTERM, by which machines announce that they will be taken away, ends the process with exit
    code 75 after the current step: with a Stream after a backup of that step, with other data
    after one of the last whole epoch. If one worker gets it, all end.

    Args:
        folder: where the files `epoch_00003_step_000500.npz` go; created if missing.
        every_steps: steps between backups within an epoch, for a Stream only; None for none.
            There is one at the end of every epoch, before and after its validation.
        keep: how many of the newest files stay.
        on_divergence: `"stop"` raises the `DivergenceError` of the step; `"roll_back"` puts the
            weights and the optimizer of the last backup in place and continues with the batches
            that follow, and the learning rate's schedule, too; if that diverges before there is
            another backup, those of the one before.
        max_loss: a loss of one step above it counts as divergence, as NaN does; None for NaN only.
        max_roll_backs: of the whole run; the next divergence stops it.
        every_minutes: None, or minutes between backups in place of one at the end of every epoch:
            at the first end of an epoch after them, or of a step where the data are a Stream and
            one process trains. `fit` ends with a backup in any case.

    Raises:
        ValueError: for arguments out of range; in `fit`, for backups of another model, of
            another Stream in the middle of an epoch, or others than another worker sees; or if
            another process is using the folder.
        DivergenceError: in `fit`, for a loss that is NaN or too high, as `on_divergence` says.
        OSError: in `fit`, if a file cannot be written; the last good ones stay.
        SystemExit: in `fit`, with code 75 after SIGTERM or `request_stop`.
    """

    def __init__(
        self,
        folder,
        every_steps=None,
        keep=3,
        on_divergence="stop",
        max_loss=None,
        max_roll_backs=3,
        every_minutes=None,
    ):
        super().__init__()
        check_whole("keep", keep, 1)
        check_whole("max_roll_backs", max_roll_backs, 0)
        if every_steps is not None:
            check_whole("every_steps", every_steps, 1)
        if on_divergence not in ("stop", "roll_back"):
            raise ValueError(
                "`on_divergence` must be 'stop' or 'roll_back'. "
                f"Received: on_divergence={on_divergence!r}"
            )
        for name, value in {"max_loss": max_loss, "every_minutes": every_minutes}.items():
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {name}={value!r}")
        self.folder = pathlib.Path(folder)
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.on_divergence = on_divergence
        self.max_loss = max_loss
        self.max_roll_backs = max_roll_backs
        self.roll_backs = 0
        self._resumed = self._place = self._lock = self._old_handler = None

    @property
    def resumed_at(self):
        """The epoch and the step from which `fit` resumed, or None."""
        return self._resumed and (self._resumed["epoch"], self._resumed["step"])

    @property
    def _unsynced_model(self):
        return keras_internals.model_of(self)

    def request_stop(self):
        """Ends the process as SIGTERM does. Called by other callbacks of the same `fit`."""
        self._place.stop_wanted = True

    def on_train_begin(self, logs=None):
        model = self.model
        self._place = getattr(model, "position", None)
        if self._place is None:
            raise ValueError(
                "`callbacks` can hold a Backup in `fit` of a SelfDistillModel only. "
                f"Received: a model of type {type(model).__name__}"
            )
        if self.every_steps and not self._place.is_seekable:
            raise ValueError(
                "`every_steps` must be None unless `fit` is given a sd_keras.data.Stream: other "
                f"data cannot be read from the middle. Received: every_steps={self.every_steps}"
            )
        strategy = getattr(model, "distribute_strategy", None)
        self._is_chief = distribute.is_chief(strategy)
        self._is_multi_worker = distribute.is_multi_worker(strategy)
        self._place.stop_agreed, self._place.max_loss = False, self.max_loss
        self._place.recover = self._roll_back if self.on_divergence == "roll_back" else None
        self._resumed, self.roll_backs, self._clean_steps, self._rolled_before = None, 0, 1, None
        self._metrics_of, self._unwritten, self._saved_at = None, None, time.monotonic()
        self._rates = [snapshots.learning_rate(each) for each in snapshots.optimizers_of(model)]
        if self._is_chief:
            self._open_folder()
        self._restore()
        if threading.current_thread() is threading.main_thread():
            self._old_handler = (signal.signal(signal.SIGTERM, self._on_sigterm),)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._done = epoch, 0
        metadata = self._resumed
        if metadata and epoch == metadata["epoch"] and metadata["step"]:
            self._place.check_together(metadata["step"], self.model.steps_per_execution)
            self._done = metadata["step"]
            self._place.begin_epoch(epoch, metadata["step"], metadata["logs"])
            if self._metrics_of.restore_metrics(self.model):
                self._place.count(metadata["seen"], metadata["logs"]["loss"])
            else:
                warnings.warn(
                    f"the metrics of epoch {epoch + 1} count its steps from {self._done} on only",
                    stacklevel=2,
                )
        self._metrics_of = None

    def after_batch(self, batch, logs=None):
        """Saves if it is time, after the other callbacks' `on_train_batch_end`."""
        # Not `self.model`, which on JAX would bring back the state from the device.
        done = min(batch + 1, self._place.num_steps or batch + 1)
        if done <= self._done:
            return  # made by an earlier process
        self._clean_steps += 1
        due = self.every_steps and done // self.every_steps > self._done // self.every_steps
        if self.every_minutes is None:
            due = due or done == self._place.num_steps
        elif not self._is_multi_worker:  # whose clocks differ
            due = due or self._is_time()
        self._done = done
        stop = self._must_stop()
        if self._place.is_seekable and (due or stop):
            self._save(self._epoch, done, logs, forced=stop)
        if stop:
            self._leave()

    def after_test_batch(self):
        """Ends the process if it must; the training steps of the epoch are saved."""
        if self._must_stop():
            self._leave()

    def after_epoch(self, epoch, logs=None):
        """Saves, after the other callbacks' `on_epoch_end`."""
        self._epoch = epoch
        due = self.every_minutes is None
        if not due:  # as the chief's clock says
            is_time = np.array([self._is_time()], "float32")
            due = bool(replica_state.gather(self._unsynced_model, is_time)[0, 0])
        problem = None
        if not np.isfinite((logs or {}).get("val_loss", 0.0)):
            problem = f"the validation loss is not finite after epoch {epoch + 1}"
        self._save(epoch + 1, 0, {}, forced=True, write=due, problem=problem)
        if self._must_stop():
            self._leave()

    def after_training(self):
        """Saves once more where a callback has stopped the run, and perhaps changed weights."""
        if self.model.stop_training:
            self._save(self._epoch + 1, 0, {}, forced=True, stopped=True)
        self._write_last()

    def release(self):
        """Ends what concerns one `fit`, which calls this also after errors."""
        if self._place is not None:
            self._place.recover = self._place.max_loss = None
            keras_internals.set_initial_epoch(self._unsynced_model, None)
            self._place.stop_wanted = False
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler[0])
        if self._lock is not None:
            self._lock.release()
        self._old_handler = self._lock = self._unwritten = None

    def _on_sigterm(self, number, frame):
        if self._place.stop_wanted:  # asked twice: do not wait for the step
            self.release()
            sys.exit(128 + number)
        self._place.stop_wanted = True

    def _must_stop(self):
        if self._place is None:  # an evaluation by itself
            return False
        return self._place.stop_agreed if self._is_multi_worker else self._place.stop_wanted

    def _leave(self):
        self._write_last()
        self._wait_for_chief()
        self.release()
        sys.exit(PREEMPTED)

    def _wait_for_chief(self):
        replica_state.gather(self._unsynced_model, np.zeros(1, "float32"))

    def _is_time(self):
        return time.monotonic() >= self._saved_at + 60 * self.every_minutes

    def _open_folder(self):
        """Locks the folder; raises OSError where hours of work could not be saved in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = checkpoints.FolderLock(self.folder)
        except OSError as error:
            raise OSError(
                f"`folder` must be one that can be written: {error.strerror or error}. "
                f"Received: folder={str(self.folder)!r}"
            ) from error

    def _restore(self):
        """Restores the newest readable backup, if there is one."""
        path, snapshot = snapshots.latest_common(
            self.model, self.folder, move_damaged=self._is_chief
        )
        if path is None:
            return
        metadata, received = snapshot.metadata, f"folder={str(self.folder)!r} with {path.name}"
        snapshot.check_fits(self.model, received)
        self._place.check_resumable(metadata["step"], metadata["data"], received)
        snapshot.restore(self.model)
        self._warn_of_rates(metadata["begun_rates"])
        self._resumed, self._metrics_of = metadata, snapshot
        self.roll_backs = metadata["roll_backs"]
        self._clean_steps, before = metadata["rolled_back"]
        self._rolled_before = before and tuple(before)
        epoch = sys.maxsize if metadata["stopped"] else metadata["epoch"]
        keras_internals.set_initial_epoch(self.model, epoch)
        if self._place.batches is not None:
            self._place.batches.set_epoch(metadata["epoch"])

    def _warn_of_rates(self, begun):
        """Warns where a learning rate is set that a restored model does not have.

        Args:
            begun: the rates with which the run began; since then a callback may have changed them.
        """
        rates = zip(self._rates, begun, snapshots.optimizers_of(self.model))
        for rate, first, optimizer in rates:
            restored = snapshots.learning_rate(optimizer)
            if rate not in (first, restored) and None not in (rate, restored):
                warnings.warn(
                    f"the backup's learning rate {restored:g} is used, not {rate:g}", stacklevel=4
                )
        self._rates = begun

    def _take(self, epoch, step, logs, stopped=False):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        place = {"epoch": epoch, "step": step, "data": self._place.data, "seen": self._place.seen}
        place |= {"logs": logs, "stopped": stopped, "begun_rates": self._rates}
        place |= {"roll_backs": self.roll_backs}
        place |= {"rolled_back": (self._clean_steps, self._rolled_before)}
        return Snapshot.take(self.model, **place)

    def _save(self, epoch, step, logs, forced, write=True, stopped=False, problem=None):
        """Copies the state and writes it now, or where that can wait by `_write_last`."""
        snapshot = self._take(epoch, step, logs, stopped)
        if problem is None and not snapshot.is_finite():
            # The loss of a step is taken before its update, so the last update goes unseen.
            made = int(self.model.step.numpy())
            problem = f"weights are not finite after training step {made}"
        if problem is not None:
            error = DivergenceError(int(self.model.step.numpy()), problem)
            if self.on_divergence != "roll_back" or not self._roll_back(error):
                raise error
            self._clean_steps = 0
            snapshot = self._take(epoch, step, logs and self.model.get_metrics_result())
        put_back = self._clean_steps < 1
        if put_back and not forced:
            return
        self._rolled_before = self._rolled_before if put_back else None
        # Weights just put back do not push out an older file.
        self._unwritten = (snapshot, None if put_back else self.keep)
        if write:
            self._write_last()

    def _write_last(self):
        """Writes the last copy of the state, if that is yet to be done."""
        if self._unwritten is not None and self._is_chief:
            snapshots.write(self.folder, *self._unwritten)
            self._saved_at = time.monotonic()
        self._unwritten = None

    def _roll_back(self, error):
        """Restores the weights of the last backup; returns whether it could."""
        # Twice from one backup, with no other in between: that one was on the way there already.
        before = self._rolled_before
        if self._unwritten is not None:
            self._write_last()
            self._wait_for_chief()
        path, snapshot = snapshots.latest_common(self._unsynced_model, self.folder, before=before)
        if path is None or self.roll_backs >= self.max_roll_backs:
            times = f"{self.roll_backs} roll backs are all that `max_roll_backs` allows"
            error.say_more(times if path else "there is no backup yet")
            return False
        self.roll_backs += 1
        self._clean_steps = -1  # the current step is yet to be counted
        metadata = snapshot.metadata
        self._rolled_before = snapshot.place
        if not metadata["step"]:  # what was saved before the validation is the same
            self._rolled_before = metadata["epoch"] - 1, self._place.num_steps or math.inf
        snapshot.restore(self._unsynced_model, counters=False)
        self._unsynced_model.reset_metrics()
        self._place.count(0, 0.0)
        is_same_epoch = metadata["epoch"] == self._epoch and metadata["step"]
        if is_same_epoch and snapshot.restore_metrics(self._unsynced_model):
            self._place.count(metadata["seen"], metadata["logs"]["loss"])
        warnings.warn(
            f"{error.what}: restored the weights of {path.name}; training continues with the "
            f"batches that follow (roll back {self.roll_backs} of {self.max_roll_backs})",
            stacklevel=2,
        )
        return True
