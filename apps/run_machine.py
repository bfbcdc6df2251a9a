"""What a run says about the machine that it ran on, and how long it took there."""

import json
import time

import keras
from machine import accelerators, machine

from sd_keras import checkpoints


class EpochSeconds(keras.callbacks.Callback):
    """Writes how long each epoch took, its validation included and checkpoints left out.

    Stands before the checkpoints, so that a resumed run finds the time of every epoch that
    is in one.

    Args:
        path: `pathlib.Path` of a JSON file, a list of seconds by epoch.
        epoch: after which the run goes on.
    """

    def __init__(self, path, epoch):
        super().__init__()
        self.path = path
        self.seconds = json.loads(path.read_text())[:epoch] if path.exists() else []
        self.is_whole = len(self.seconds) == epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(round(time.perf_counter() - self.start, 3))
        if self.is_whole:
            checkpoints.write_json(self.path, self.seconds)


def training_seconds(path, epochs):
    """Returns the time of all epochs; None where that of one is not known."""
    seconds = json.loads(path.read_text()) if path.exists() else []
    return round(sum(seconds), 1) if len(seconds) == epochs else None


def hardware():
    """Returns the processor, its cores and the accelerators that the backend sees."""
    processor = {name: machine()[name] for name in ("processor", "cores")}
    return processor | {"accelerators": accelerators(keras.config.backend())}
