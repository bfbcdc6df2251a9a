"""The part of benchmark.py that measures how long networks take to build.

Run by `python apps/benchmark.py build`, see there.
"""

import keras
from benchmarks.figures import compare, figure, interleave
from benchmarks.images import IMAGE_SHAPE

from sd_keras import attach_exits, exit_names, models, submodel

# How many times the plain network's building time: with four exits, and cut at an exit.
BARS = {"exits": "<= 1.7", "exits, deep": "<= 1.2", "cut": "<= 0.5"}
DEEP = "resnet152"


def build_figures(settings):
    """Building a network with all exits, and cutting it, against building the plain one."""
    rows = []
    default = settings["model"].default
    for name in (default, DEEP) if settings.model == default else (settings.model,):
        bar = BARS["exits, deep" if name == DEEP else "exits"]
        rows += _figures(name, settings, bar)
        keras.utils.clear_session()
    return rows


def _figures(name, settings, bar):
    def build(at):
        return attach_exits(models.build(name, IMAGE_SHAPE), settings.num_classes, at=at)

    whole = build(None)
    exit_name = exit_names(whole)[-2]  # the longest cut, one section short of the end
    seconds = interleave(
        {
            "plain": lambda: build([]),
            "exits": lambda: build(None),
            "cut": lambda: submodel(whole, exit_name),
        },
        settings.repeats,
    )
    beside = f"plain {min(seconds['plain']):.2f} s"
    exits = compare(seconds["exits"], seconds["plain"])
    cut = compare(seconds["cut"], seconds["plain"])
    return [
        figure("build", f"{name} with exits / plain", bar, beside=beside, **exits),
        figure("build", f"{name} submodel / plain", BARS["cut"], beside=beside, **cut),
    ]
