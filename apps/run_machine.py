"""What a run says about the machine that it ran on."""

import keras
from benchmark_machine import machine


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
