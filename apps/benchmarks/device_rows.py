"""What `benchmark.py train --device` reports, made of what its processes have measured."""

import statistics
from typing import NamedTuple

from benchmarks.figures import compare, fact, figure

PLAIN, BYOT, DDGSD = "baseline", "be_your_own_teacher", "data_distortion"
BOTH = f"{BYOT}+{DDGSD}"
# Views of an image that a step of each method forwards.
VIEWS = {PLAIN: 1, BYOT: 1, DDGSD: 2, BOTH: 2}
BAR_DEVICE = "H200"
SPEED_BAR, TORCH_BAR = ">= 40000", ">= 1.0"
# Of the images per second, counted by view, of the plain network.
METHOD_BARS = {BYOT: ">= 0.9", DDGSD: ">= 0.95", BOTH: None}


class Measured(NamedTuple):
    """One side's figures.

    Attributes:
        images: of an epoch.
        macs: multiply-accumulates of a forward pass over all views of an image.
        first: seconds from the call of `fit` to the end of the first epoch.
        seconds: of each later epoch that counts.
        memory: bytes taken at most; None where nobody knows.
        beside: what has to be known about it.
    """

    images: int
    macs: int
    first: float
    seconds: list
    memory: int | None
    beside: str = ""

    @property
    def speeds(self):
        """Images per second of each epoch."""
        return [self.images / seconds for seconds in self.seconds]

    @property
    def compile_seconds(self):
        """What the first epoch took beside what an epoch takes."""
        return self.first - statistics.median(self.seconds)

    def shares(self, peak):
        """Shares of a peak in TFLOP/s; backward takes twice the products of forward."""
        operations = 3 * 2 * self.macs
        return [speed * operations / (peak * 1e12) for speed in self.speeds]


def peak_rows(peaks, precision):
    """A row for each product of each framework; returns them and the largest rate of all."""
    rows = []
    for peak in peaks:
        for name, values in peak["rates"].items():
            row = {"values": values, "unit": "TFLOP/s", "precision": precision}
            beside = f"best {max(values):.3f}; {peak['device']}"
            title = f"peak of a {name}, {peak['framework']}"
            rows.append(fact("train", title, beside=beside, **row))
    return rows, max(max(row["values"]) for row in rows)


def side_rows(name, measured, peak, is_accelerator, precision, bar=None):
    """Speed, share of the peak, seconds to compile and memory of one side with one method."""
    common = {"precision": precision}
    speed = common | {"values": measured.speeds, "unit": "images/s", "beside": measured.beside}
    title = f"{name}, images/s"
    rows = [figure("train", title, bar, **speed) if bar else fact("train", title, **speed)]
    gflop = 6 * measured.macs / 1e9
    share = {"values": measured.shares(peak), "unit": "%", "gflop_per_image": gflop}
    beside = f"{gflop:.2f} GFLOP an image; peak {peak:.3f} TFLOP/s"
    rows.append(fact("train", f"{name}, share of the peak", beside=beside, **share, **common))
    seconds = {"values": [measured.compile_seconds], "unit": "s"}
    beside = f"first epoch {measured.first:.1f} s"
    rows.append(fact("train", f"{name}, compile time", beside=beside, **seconds, **common))
    if measured.memory is None:
        return rows
    memory = {"values": [measured.memory / 2**30], "unit": "GiB"}
    beside = "of the device" if is_accelerator else "of the process, its largest resident set"
    return [*rows, fact("train", f"{name}, peak memory", beside=beside, **memory, **common)]


def ratio_rows(results, precision, has_bars):
    """Each method against the plain network, and each of ours against PyTorch.

    Args:
        results: dict from (side, method) to Measured.
        precision: dtype policy.
        has_bars: whether the bars are for this device and these settings.
    """
    rows = []

    def add(name, bar, numerator, denominator, views=1):
        per_view = [seconds / views for seconds in numerator.seconds]
        row = compare(denominator.seconds, per_view) | {"precision": precision}
        speeds = [statistics.median(side.speeds) for side in (numerator, denominator)]
        row |= {"beside": "{:.1f} / {:.1f} images/s".format(*speeds), "images_per_second": speeds}
        if bar and has_bars:
            rows.append(figure("train", name, bar, **row))
        else:
            rows.append(fact("train", name, **row))

    for side, method in results:
        if method != PLAIN and (side, PLAIN) in results:
            views = VIEWS[method]
            name = f"{side}, {method} / plain images/s" + ", by view" * (views > 1)
            bar = METHOD_BARS[method] if side == "ours" else None
            add(name, bar, results[side, method], results[side, PLAIN], views)
    for side, method in results:
        if side == "torch":
            name = f"{method}, ours / torch images/s"
            add(name, TORCH_BAR, results["ours", method], results["torch", method])
    return rows
