"""The part of benchmark.py that trains on the machine's own device, beside plain PyTorch.

Run by `python apps/benchmark.py train --device`, see there. Every method is trained by the
ordinary `fit` on `sd_keras.data.OnDevice`, and by the same step in PyTorch where that is
installed. Each is a process of its own, so that its compilation and its memory are its own; all
are started together, wait for each other and train an epoch in turn. This process imports no
framework: the accelerator is for those that measure.
"""

import importlib.util
import json
import os
import tempfile
from typing import NamedTuple

from benchmarks.device_rows import (
    BAR_DEVICE,
    PLAIN,
    SPEED_BAR,
    VIEWS,
    Measured,
    peak_rows,
    ratio_rows,
    side_rows,
)
from benchmarks.networks import CIFAR, IMAGENET
from benchmarks.sides import Side, end, in_turn

BATCH_SIZE, PRECISION = 128, "mixed_bfloat16"
# Steps in one program, unless a divisor of an epoch's steps is taken.
BLOCK = 100
# Rounds that do not count: one compiles, one warms up.
WARM_UP = 2
# The sides share the device, so none may take all of it; and each compiles what it runs.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


class Settings(NamedTuple):
    """What is trained: the flags, and the steps of an epoch and of a block.

    `are_defaults` tells whether it is what the bars are for.
    """

    model: str
    num_classes: int
    batch_size: int
    precision: list
    methods: list
    repeats: int
    steps: int
    block: int
    are_defaults: bool

    @property
    def images(self):
        """Images of an epoch, which all lie on the device."""
        return self.steps * self.batch_size

    def shown(self):
        """Returns what a report says."""
        values = self._asdict()
        del values["are_defaults"]
        return {"device": True, **values, "images": self.images}


def whole_blocks(images, batch_size):
    """Returns steps of an epoch and of a block, such that blocks of one size hold nearly all.

    Blocks of another size would be another program to compile.
    """
    for steps in range(images // batch_size, 0, -1):
        largest = min(BLOCK, steps)
        for block in range(largest, largest // 2, -1):
            if steps % block == 0:
                return steps, block
    raise SystemExit(
        "`--images` must be at least the batch size. "
        f"Received: --images={images}, batches of {batch_size}"
    )


def check(flags, parts):
    """Ends the program for flags that do not go together."""
    if not flags.device:
        for name in ("images", "methods"):
            if not flags[name].using_default_value:
                received = f"--{name}={flags[name].value}"
                raise SystemExit(f"`--{name}` needs `--device`. Received: {received}")
        return
    if not flags.methods or not set(flags.methods) <= set(VIEWS):
        raise SystemExit(
            f"`--methods` must be of {', '.join(VIEWS)}. Received: --methods={flags.methods}"
        )
    if parts != ["train"]:
        raise SystemExit(f"`--device` is for train alone. Received: {', '.join(parts)}")
    for name in ("workers", "image_size", "piece_batch_size"):
        if not flags[name].using_default_value:
            received = f"--device --{name}={flags[name].value}"
            raise SystemExit(f"`--{name}` does not go with `--device`. Received: {received}")
    settings_of(flags)


def settings_of(flags):
    """Returns the Settings that flags stand for, with the defaults of this part."""
    defaults = {"batch_size": BATCH_SIZE, "precision": [PRECISION]}
    values = {
        name: default if flags[name].using_default_value else flags[name].value
        for name, default in defaults.items()
    }
    steps, block = whole_blocks(flags.images, values["batch_size"])
    names = ("model", "num_classes", "images")
    are_defaults = all(flags[name].value == flags[name].default for name in names)
    are_defaults = are_defaults and values == defaults
    kept = {name: flags[name].value for name in ("model", "num_classes", "repeats", "methods")}
    return Settings(**kept, **values, steps=steps, block=block, are_defaults=are_defaults)


def has_torch(settings, notes):
    """Tells whether there is a PyTorch side; where there is none, the notes say why."""
    if importlib.util.find_spec("torch") is None:
        notes.append("torch is left out: PyTorch is not installed (pip install '.[torch]')")
    elif settings.model not in {**CIFAR, **IMAGENET}:
        notes.append(f"torch is left out: {settings.model} is not written in PyTorch here")
    else:
        return True
    return False


def device_figures(flags):
    """Returns the figures, and notes on them."""
    settings, notes, figures = settings_of(flags), [], []
    sides = ["ours"] + ["torch"] * has_torch(settings, notes)
    for precision in settings.precision:
        peaks = [_peak(side, precision) for side in sides]
        is_accelerator = peaks[0]["is_accelerator"]
        has_bars = BAR_DEVICE in peaks[0]["device"] and settings.are_defaults
        rows, peak = peak_rows(peaks, precision)
        results = _trained(sides, settings, precision)
        for (side, method), measured in results.items():
            bar = SPEED_BAR if has_bars and (side, method) == ("ours", PLAIN) else None
            name = f"{side}, {method}"
            rows += side_rows(name, measured, peak, is_accelerator, precision, bar)
        figures += rows + ratio_rows(results, precision, has_bars)
    return figures, notes + _notes(peaks, has_bars, settings)


def _notes(peaks, has_bars, settings):
    about = ", ".join(f"{peak['framework']} on {peak['device']}" for peak in peaks)
    lines = [f"{about}; epochs of {settings.steps} steps of {settings.batch_size} images"]
    if not has_bars:
        lines.append(f"the bars are for {BAR_DEVICE} and the default settings, not for this run")
    if len({peak["is_accelerator"] for peak in peaks}) > 1:
        lines.append("the frameworks work on different devices: do not compare them")
    return lines


def _peak(side, precision):
    process = Side(f"the peak of {side}", "peak", side, precision, environment=ENVIRONMENT)
    try:
        return process.answer()
    finally:
        end([process])


def _trained(names, settings, precision):
    """Trains every method on every side in turn; returns (side, method) to Measured."""
    sides = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:
        try:
            for method in settings.methods:
                for name in names:
                    sides[name, method] = _start(name, method, settings, precision, caches)
        except BaseException:
            end(sides.values())
            raise
        abouts, answers = in_turn(sides, WARM_UP + settings.repeats)
    results = {}
    for (name, method), (first, *_) in answers.items():
        counted = answers[name, method][WARM_UP:]
        results[name, method] = Measured(
            settings.images,
            abouts["ours", method]["macs"],
            first["seconds"],
            [answer["seconds"] for answer in counted],
            counted[-1]["memory"],
            counted[-1].get("beside", ""),
        )
    return results


def _start(name, method, settings, precision, caches):
    """Starts one side with one method."""
    what = {"method": method, "precision": precision, "views": VIEWS[method]}
    what["all_exits"] = method.startswith("be_your_own_teacher")
    for each in ("model", "num_classes", "batch_size", "steps", "block"):
        what[each] = getattr(settings, each)
    cache = os.path.join(caches, f"{name}-{method}")
    environment = ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": cache}
    arguments = f"device_{name}", json.dumps(what)
    return Side(f"{name}, {method}", *arguments, environment=environment)
