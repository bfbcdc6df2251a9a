"""What benchmark.py says about the machine it ran on; needs the standard library only."""

import importlib.metadata
import os
import platform
import sys
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


def process_of(module, *arguments):
    """Returns command and environment of a fresh process of one of these modules.

    Not as a script: Python would then take `torch` and others for the files beside it.
    """
    apps = Path(__file__).resolve().parents[1]
    # The library of this checkout, whether or not it is installed.
    paths = filter(None, (str(apps), str(apps.parent), os.environ.get("PYTHONPATH", "")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)], environment


def versions():
    """Returns the versions of Python and of the packages that are measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def foreign_seconds():
    """Seconds that the machine's cores have worked for other programs, 0 where unknown."""
    try:
        first, _ = Path("/proc/stat").read_text().split("\n", 1)
    except OSError:
        return 0.0
    ticks = [int(word) for word in first.split()[1:]]
    # user, nice, system; idle and iowait left out; irq, softirq, steal
    busy = (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])
