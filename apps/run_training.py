"""What the training apps share: how a run is claimed, resumed, ended, measured and written."""

import importlib.util
import pathlib
import shlex
import shutil
import signal
import statistics
import sys
import time

import app_start
import keras
from absl import flags, logging
from machine import accelerators, machine

from sd_keras import analysis, checkpoints, export, report
from sd_keras.callbacks import PREEMPTED

FLAGS = flags.FLAGS
STARTED = time.monotonic()


def run_app(argv, run):
    """Runs an app on its workdir; prints a sentence and sets the exit code where it fails.

    SIGTERM ends it with code 75, within `fit` after what `sd_keras.Backup` saves.
    """
    logging.set_verbosity(logging.ERROR)  # TensorFlow's notes on saving, file by file
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    try:
        app_start.run_app(
            argv, lambda: run(pathlib.Path(FLAGS.workdir)), ArithmeticError, resumable=True
        )
    except SystemExit as stop:
        if stop.code == PREEMPTED:
            print("stopped as requested; rerun the same command to resume", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def refuse_other_settings(path, settings, may_change=()):
    """Raises ValueError if a JSON file, which need not exist, holds other settings of the run.

    Settings named in `may_change` may differ.
    """
    before = checkpoints.read_json(path) if path.exists() else settings
    names = sorted((before.keys() | settings.keys()) - set(may_change))
    changed = [n for n in names if before.get(n) != settings.get(n)]
    if changed:
        changes = "; ".join(f"{n}: {before.get(n)} → {settings.get(n)}" for n in changed)
        raise ValueError(
            f"`workdir` holds a run with other flags ({changes}); "
            f"choose another by --workdir or delete it. Received: workdir={str(path.parent)!r}"
        )


class RunFolder(keras.callbacks.Callback):
    """Holds the folder of a run and writes what was asked for once `fit` finds nothing wrong.

    As a context it keeps other processes out until its end.

    Args:
        workdir: `pathlib.Path` of the folder, created when `fit` begins.
        files: dict from names of JSON files to their contents.
    """

    def __init__(self, workdir, files):
        super().__init__()
        self.workdir, self.files, self.lock = workdir, files, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def on_train_begin(self, logs=None):
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.lock = checkpoints.FolderLock(self.workdir, "workdir")
        for name, content in self.files.items():
            checkpoints.write_json(self.workdir / name, content)


class ResumableCSVLogger(keras.callbacks.CSVLogger):
    """A CSVLogger that keeps the epochs of `fit`'s `Backup`, and prints where a run resumes."""

    def __init__(self, path, backup):
        super().__init__(path)
        self.path, self.backup = path, backup

    def on_train_begin(self, logs=None):
        """Leaves the file alone until it is known where the run resumes."""
        self.csv_file = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.csv_file is not None:
            return
        epochs, step = self.backup.resumed_at or (0, 0)
        if epochs or step:
            steps = f" and {step} steps" if step else ""
            print(f"resuming after epoch {epochs}{steps} of {self.params['epochs']}", flush=True)
        forget_epochs(self.path, epochs)
        self.append = epochs > 0
        super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        if self.csv_file is not None:
            super().on_train_end(logs)


def forget_epochs(path, epochs):
    """Drops from a CSVLogger's file the epochs that no backup holds.

    A run killed between log and backup would log that epoch twice.
    """
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)  # as text, line ends could change
        ended = (row for row in lines[1:] if row.endswith(b"\n"))
        kept = [row for row in ended if row.split(b",")[0].isdigit()]
        kept = [row for row in kept if int(row.split(b",")[0]) < epochs]
        content = b"".join([*lines[:1], *kept])
        checkpoints.write_whole(path, lambda aside: aside.write_bytes(content))


class EpochSeconds(keras.callbacks.Callback):
    """Writes a JSON file with the seconds of each epoch, with validation and without backups."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.seconds = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.seconds is None:
            self.seconds = self.read()[:epoch]
            self.is_whole = len(self.seconds) == epoch
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(round(time.perf_counter() - self.start, 3))
        if self.is_whole:
            checkpoints.write_json(self.path, self.seconds)

    def read(self):
        """Returns the seconds of the epochs in the file."""
        return checkpoints.read_json(self.path, list) if self.path.exists() else []

    def total(self, epochs):
        """Returns the seconds of so many epochs, None unless all are known."""
        seconds = self.read()
        return round(sum(seconds), 1) if len(seconds) == epochs else None


class TimeLimit(keras.callbacks.Callback):
    """Stops a run when another epoch, as long as the last but for compiling, would be too late.

    Args:
        minutes: since this file was loaded, a few seconds after the start of the process; None
            for no limit.
        backup: the `sd_keras.Backup` of the same `fit`, which then ends the process.
    """

    def __init__(self, minutes, backup):
        super().__init__()
        self.end = None if minutes is None else STARTED + 60 * minutes
        self.backup = backup

    def on_epoch_begin(self, epoch, logs=None):
        self.steps, self.last = [], time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        self.steps.append(now - self.last)
        self.last = now

    def on_epoch_end(self, epoch, logs=None):
        now, epochs = time.monotonic(), self.params["epochs"]
        # The median, since the first steps of a process compile; and what comes after them.
        epoch_seconds = len(self.steps) * statistics.median(self.steps) + now - self.last
        if self.end is not None and now + epoch_seconds > self.end and epoch + 1 < epochs:
            print(f"time limit reached after epoch {epoch + 1} of {epochs}", flush=True)
            self.backup.request_stop()


def run_callbacks(workdir, backup, epochs, images):
    """Returns the backup with what logs a run: log.csv, a line an epoch, TensorBoard's files."""
    callbacks = [
        ResumableCSVLogger(workdir / "log.csv", backup),
        report.Progress(epochs, images),
        backup,
    ]
    if importlib.util.find_spec("tensorflow"):  # Keras writes these files through it
        callbacks.append(keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False))
    return callbacks


def finish(workdir, network, measure, about_run, card, exports=True, reload=False, **options):
    """Writes, measures and exports a trained network; returns what results.json holds.

    Args:
        workdir, network: `pathlib.Path` of the run, and its network.
        measure: function of the network; its result is `measured` in results.json.
        about_run, card: dicts of what else results.json and the model card hold.
        exports: whether to write saved_model/1.
        reload: whether to measure the network as loaded from its file, outside any strategy.
        **options: of `export.saved_model`.
    """
    checkpoints.write_whole(workdir / "network.keras", network.save)
    if reload:
        network = keras.models.load_model(workdir / "network.keras")
    results = {"costs": analysis.costs(network), "measured": measure(network)}
    if exports and keras.config.backend() == "tensorflow":
        folder = workdir / "saved_model/1"
        shutil.rmtree(folder, ignore_errors=True)
        about = card | {"measured": results["measured"]}
        export.saved_model(network, folder, about=about, **options)
    results |= about_run | {
        "versions": report.versions(),
        "hardware": hardware(),
        "command": shlex.join(["python", *sys.argv]),
    }
    checkpoints.write_json(workdir / "results.json", results)
    return results


def finished_results(workdir, settings):
    """Returns what `finish` wrote for a run of these settings, None if it has not yet."""
    path = workdir / "results.json"
    if not (path.exists() and (workdir / "network.keras").exists()):
        return None
    results = checkpoints.read_json(path)
    is_same = results.get("flags") == settings
    return results if is_same and {"costs", "measured"} <= results.keys() else None


def print_files(workdir):
    """Prints the names of what a run has written."""
    names = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
    print(f"\nwritten to {workdir}: " + ", ".join(names))


def hardware():
    """Returns the processor, its cores and the accelerators that the backend sees."""
    processor = {name: machine()[name] for name in ("processor", "cores")}
    return processor | {"accelerators": accelerators(keras.config.backend())}
