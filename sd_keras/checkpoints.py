"""A run's checkpoints: written whole or not at all, and found again."""

import contextlib
import json
import math
import os
import pathlib
import re
import time
import warnings
import zipfile

import keras
import numpy as np

from sd_keras import distribute


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model after every epoch, or from time to time, and keeps the last few.

    Each file is written aside and renamed, so a run that is killed leaves whole files only.
    A restored `SelfDistillModel` goes on as if it had not stopped: weights, optimizer,
    schedules and random draws are in the file. Of several workers only the chief writes.

    Args:
        folder: where the files `epoch_00001.keras`, … go; created if missing.
        keep: how many of the newest files stay.
        minutes: how long to wait between two files; saved at the end of the first epoch behind
            it, of the last one, and of one at which a callback before this one ends the run.
    """

    def __init__(self, folder, keep=2, minutes=0):
        super().__init__()
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        if not minutes >= 0:
            raise ValueError(f"`minutes` must be at least 0. Received: minutes={minutes}")
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() < self.saved_at + self.seconds and not self._ends(epoch):
            return
        self._refuse_diverged(epoch, logs or {})
        self.saved_at = time.monotonic()
        if not distribute.is_chief(getattr(self.model, "distribute_strategy", None)):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"epoch_{epoch + 1:05d}.keras", self.model.save)
        for _, old in _files(self.folder)[: -self.keep]:
            old.unlink()

    def _ends(self, epoch):
        """Tells whether `fit` ends with this epoch."""
        return self.model.stop_training or epoch + 1 == self.params["epochs"]

    def _refuse_diverged(self, epoch, logs):
        """The loss of a step is taken before its update, so the last update goes unseen."""
        losses = [logs[name] for name in ("loss", "val_loss") if name in logs]
        weights = (keras.ops.convert_to_numpy(weight) for weight in self.model.weights)
        if not np.isfinite(losses).all() or not all(np.isfinite(w).all() for w in weights):
            raise FloatingPointError(
                f"weights or validation loss are not finite after epoch {epoch + 1}, so it is "
                f"not saved; the last good checkpoint stays in {self.folder}"
            )


def write_whole(path, write):
    """Writes a file so that it is there wholly or not at all, whenever the process ends.

    Args:
        path: `pathlib.Path` of the file; an older one is replaced.
        write: function of a path that writes the file there; `path.write_text`-like
            functions go in as `lambda p: p.write_text(text)`.
    """
    # Keras asks for the ending; the first letter keeps `restore` from seeing the file.
    aside = path.with_name(f".writing_{path.name}")
    try:
        write(aside)
        _to_disk(aside)
        os.replace(aside, path)
        with contextlib.suppress(OSError):  # some network file systems cannot
            _to_disk(path.parent)  # the new name
    finally:
        aside.unlink(missing_ok=True)


def _to_disk(path):
    """Waits until a file or a folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, content):
    """Writes `content` as JSON by `write_whole`."""
    text = json.dumps(content, indent=1)
    write_whole(path, lambda aside: aside.write_text(text))


def read_json(path, expected_type=dict):
    """Reads what `write_json` wrote.

    Args:
        path: path of the file.
        expected_type: the type of the outermost value, `dict` or `list`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds anything but JSON of that type with finite numbers.
    """
    try:
        content = json.loads(
            pathlib.Path(path).read_bytes().decode(),
            parse_float=_finite,
            parse_constant=_finite,
        )
        if not isinstance(content, expected_type):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`path` must be a JSON file that holds a {expected_type.__name__}: {error}. "
            f"Received: path={str(path)!r}"
        ) from None
    return content


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text}")
    return value


def refuse_other_settings(path, settings):
    """Raises ValueError where a run's folder was begun with other settings.

    Args:
        path: `pathlib.Path` of the JSON file with the settings of the run; need not exist.
        settings: a dict of what JSON can hold.
    """
    if not path.exists():
        return
    before = read_json(path)
    names = sorted(before.keys() | settings.keys())
    changed = [n for n in names if before.get(n) != settings.get(n)]
    if changed:
        changes = "; ".join(f"{n}: {before.get(n)} → {settings.get(n)}" for n in changed)
        raise ValueError(
            f"`workdir` holds a run with other flags ({changes}); "
            f"choose another by --workdir or delete it. Received: workdir={str(path.parent)!r}"
        )


def forget_epochs(path, epochs):
    """Drops from a CSVLogger's file the epochs that no checkpoint holds.

    A run killed between log and checkpoint would log that epoch twice.

    Args:
        path: `pathlib.Path` of the log; need not exist.
        epochs: how many epochs to keep.
    """
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)  # as text, line ends could change
        kept = [
            row for row in lines[1:] if row.endswith(b"\n") and int(row.split(b",")[0]) < epochs
        ]
        write_whole(path, lambda aside: aside.write_bytes(b"".join([*lines[:1], *kept])))


def restore(folder):
    """Loads the newest readable checkpoint of a folder.

    Args:
        folder: of `Checkpoint`; need not exist.

    Returns:
        The model and the number of epochs it was trained; `(None, 0)` without checkpoint.
        A file that cannot be read is passed over with a warning.

    Raises:
        ValueError: if there are checkpoints but none can be read.
    """
    files = _files(pathlib.Path(folder))
    for epoch, path in reversed(files):
        try:
            return keras.models.load_model(path), epoch
        except Exception as error:  # whatever a damaged zip or HDF5 file makes Keras raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"checkpoint {path} cannot be read and is passed over: {reason}", stacklevel=2
            )
    if files:
        raise ValueError(
            f"`folder` holds no readable checkpoint; delete it to start anew. "
            f"Received: folder={str(folder)!r} with {[path.name for _, path in files]}"
        )
    return None, 0


def _files(folder):
    """Returns (epochs trained, path) of each checkpoint, oldest first."""
    matches = [(re.fullmatch(r"epoch_(\d+)\.keras", p.name), p) for p in folder.glob("*.keras")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def load_network(path):
    """Loads a `.keras` file; of a SelfDistillModel's, its network.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is not whole.
    """
    if not pathlib.Path(path).is_file():
        is_there = "is no file" if pathlib.Path(path).exists() else "does not exist"
        raise FileNotFoundError(f"`network` {is_there}. Received: network={str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`network` must be a whole .keras file. Received: network={str(path)!r}")
    network = keras.models.load_model(path, compile=False)
    return getattr(network, "network", network)
