"""What the frameworks say about the device that they work on.

Each is imported where it is asked: a process has one of them, and may lack the others.
"""

from benchmarks.turns import resident_set


def names(framework):
    """Returns the names of the accelerators that a framework sees."""
    return {"jax": _of_jax, "tensorflow": _of_tensorflow, "torch": _of_torch}[framework]()


def description(framework):
    """Returns the name of the device that is worked on, and whether it is an accelerator."""
    found = names(framework)
    return (found[0], True) if found else ("cpu", False)


def _of_jax():
    import jax

    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]


def _of_tensorflow():
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [details(gpu).get("device_name", gpu.name) for gpu in gpus]


def _of_torch():
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def peak_memory(framework):
    """Bytes taken at most so far: on the accelerator, on a CPU by the whole process.

    None where the device does not say.
    """
    _, is_accelerator = description(framework)
    if not is_accelerator:
        return resident_set()
    if framework == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    import torch

    return torch.cuda.max_memory_allocated()
