"""The processor, the accelerators and the packages of this machine.

Each framework is imported only where it is asked for: a process may lack the others.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("keras", "tensorflow", "jax", "numpy", "torch")


def machine():
    """Describes the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    fields = dict(
        (word.strip() for word in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    supported = "avx512_bf16" in fields["flags"].split() if "flags" in fields else None
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "avx512_bf16": supported,
        "system": platform.platform(),
    }


def accelerators(framework):
    """Returns the names of the accelerators that jax, tensorflow or torch sees."""
    if framework == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    if framework == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        return [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def versions():
    """Returns the versions of Python and of the packages that speed depends on."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = None
    return result
