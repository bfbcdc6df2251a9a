"""What the processor can do: oneDNN for TensorFlow, and where bfloat16 is slow.

Imported first, because TensorFlow reads its environment when it loads.
"""

import functools
import os
import pathlib
import platform
import sys
import warnings

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# TensorFlow computes with oneDNN by itself on processors that have one of these.
ONEDNN_FLAGS = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}


def cpu_flags(path="/proc/cpuinfo"):
    """Returns the instruction sets of an x86 processor, or an empty set where unknown."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        with pathlib.Path(path).open() as lines:
            fields = (line.partition(":") for line in lines)
            return next((set(v.split()) for name, _, v in fields if name.strip() == "flags"), set())
    except OSError:
        return set()


def enable_onednn():
    """Sets TF_ENABLE_ONEDNN_OPTS=1 unless the user has set it; warns if it is too late."""
    if ONEDNN in os.environ or platform.machine() not in ("x86_64", "AMD64"):
        return
    if "tensorflow" not in sys.modules:
        os.environ[ONEDNN] = "1"
        return
    flags = cpu_flags()
    if "avx2" in flags and not flags & ONEDNN_FLAGS:
        warnings.warn(
            "TensorFlow was imported without oneDNN, which it leaves off on this processor: "
            f"training takes about twice as long. Set the environment variable {ONEDNN}=1, or "
            f"import sd_keras before Keras and TensorFlow. {ONEDNN}=0 silences this warning.",
            stacklevel=4,
        )


@functools.cache
def warn_of_slow_bfloat16():
    """Warns, once, where bfloat16 runs on a processor that has no instructions for it."""
    flags = cpu_flags()
    if flags and "avx512_bf16" not in flags and not _has_accelerator():
        warnings.warn(
            "bfloat16 is several times slower than float32 on this processor, which has no "
            "AVX512-BF16. Use the dtype policy 'float32'.",
            stacklevel=3,
        )


def _has_accelerator():
    import keras

    if keras.config.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return not all(name.startswith("cpu") for name in keras.distribution.list_devices())


enable_onednn()
