"""What the frameworks say about the device that they work on.

Each is imported where it is asked: a process has one of them, and may lack the others.
"""

from benchmarks.turns import resident_set


def description(framework):
    """Returns the name of the device, and whether it is an accelerator."""
    return {"jax": _of_jax, "tensorflow": _of_tensorflow, "torch": _of_torch}[framework]()


def _of_jax():
    import jax

    device = jax.devices()[0]
    return device.device_kind, device.platform != "cpu"


def _of_tensorflow():
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return "cpu", False
    details = tf.config.experimental.get_device_details(devices[0])
    return details.get("device_name", "GPU"), True


def _of_torch():
    import torch

    if not torch.cuda.is_available():
        return "cpu", False
    return torch.cuda.get_device_name(), True


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
