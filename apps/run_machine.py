"""What a run says about the machine that it ran on, and how long it took there."""

import json
import time

import keras
from benchmarks.machine import machine

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
    found = machine()
    return {"processor": found["processor"], "cores": found["cores"], "accelerators": _devices()}


def _devices():
    """Returns the names of accelerators."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        return [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
