"""The parts of analyze.py that look at answers and features: one forward pass is enough.

Each takes a list of one or two Subjects and the Settings of analyze.py, and returns a Result.
"""

import analyses.plots as plots
import numpy as np
from analyses.page import Result
from app_start import lazy_import

analysis = lazy_import("sd_keras.analysis")


def components(subjects, settings):
    """Features of each exit along their first two principal components."""
    columns = max(len(subject.exits) for subject in subjects)
    figure, axes = plots.axes(len(subjects), columns, (2.7, 2.7))
    rows = []
    for row, subject in enumerate(subjects):
        found = analysis.principal_components(subject.outputs)
        for column, (name, own) in enumerate(found.items()):
            axis = axes[row * columns + column]
            plots.scatter(axis, own["projected"], subject.test[1])
            shares = [f"component {i} ({s:.0%})" for i, s in enumerate(own["explained"], start=1)]
            plots.label(axis, *shares, f"{subject.label}: {name}")
            rows.append([subject.label, name, *map(float, own["explained"])])
        for axis in axes[row * columns + len(found) : (row + 1) * columns]:
            axis.set_visible(False)
    plots.legend(figure, axes[0], "class ")
    note = (
        "Each dot is a test image, its colour the class, of the first ten (BYOT figure 6). The "
        "table: shares of the features' variance along the two axes."
    )
    return Result(
        "Principal components of the features",
        note,
        ["network", "exit", "explained by 1", "explained by 2"],
        rows,
        figure,
    )


def separability(subjects, settings):
    """Sums of squares within and between the classes."""
    names, rows, groups = subjects[0].exits, [], {}
    for subject in subjects:
        found = analysis.separability(subject.outputs, subject.test[1])
        ratios = dict(zip(subject.exits, found["ratio"].tolist()))
        groups[subject.label] = ratios
        names = max(names, subject.exits, key=len)
        for index, name in enumerate(subject.exits):
            values = (float(found[key][index]) for key in ("sse", "ssb", "ratio"))
            rows.append([subject.label, name, *values])
    figure, (axis,) = plots.axes()
    plots.bars(axis, names, groups)
    plots.label(axis, y="SSE / SSB")
    plots.legend(figure, axis)
    note = (
        "Within-class and between-class sums of squares of the features, per image (BYOT table "
        "6). Only the ratio compares exits and networks: the smaller, the further apart the "
        "classes; with few images of a class it comes out too small."
    )
    header = ["network", "exit", "SSE", "SSB", "SSE / SSB"]
    return Result("Separability of the classes", note, header, rows, figure)


def agreement(subjects, settings):
    """Shares of images on which two exits answer alike."""
    rows, found = [], []
    for subject in subjects:
        own = analysis.agreement(subject.outputs, subject.test[1])
        found.append(own)
        keys = ("same", "both_right", "row_right", "column_right", "both_wrong_alike")
        for i, first in enumerate(own["names"]):
            for j in range(i + 1, len(own["names"])):
                values = (float(own[key][i, j]) for key in keys)
                rows.append([subject.label, first, own["names"][j], *values])
    # Of one exit there is nothing to see.
    several = [pair for pair in zip(subjects, found) if len(pair[0].exits) > 1]
    figure, axes = plots.axes(1, max(1, len(several)), (4.4, 3.6))
    for axis, (subject, own) in zip(axes, several):
        low = np.floor(10 * own["same"].min()) / 10
        plots.matrix(axis, own["same"], own["names"], own["names"], min(low, 0.9))
        right = 100 * own["any_right"]
        plots.label(axis, title=f"{subject.label}: some exit right on {right:.1f} %")
    note = (
        "Shares of the test images on which two of the exits and the ensemble give the same "
        "answer; both are right, only the first or only the second, or both wrong alike."
    )
    header = ["network", "first", "second", "same", "both right"]
    header += ["first alone right", "second alone right", "both wrong alike"]
    return Result("Agreement of the exits", note, header, rows, figure)


def calibration(subjects, settings):
    """Reliability diagrams."""
    columns = max(len(subject.exits) for subject in subjects) + 1
    figure, axes = plots.axes(len(subjects), columns, (2.5, 2.5))
    rows = []
    for row, subject in enumerate(subjects):
        measured = analysis.evaluate_logits(subject.outputs, subject.test[1], settings.bins)
        diagrams = analysis.reliability(subject.outputs, subject.test[1], settings.bins)
        diagrams = plots.without_double(diagrams)
        for column, (name, own) in enumerate(diagrams.items()):
            axis = axes[row * columns + column]
            _diagram(axis, own, plots.INK if len(diagrams) == 1 else plots.colour(name))
            error = 100 * measured[name]["calibration_error"]
            title = f"{subject.label}: {name}\ncalibration error {error:.1f} %"
            plots.label(axis, "confidence", "" if column else "accuracy", title)
            values = zip(own["count"], own["confidence"], own["accuracy"])
            for index, (count, confidence, accuracy) in enumerate(values):
                cells = [int(count), float(confidence), float(accuracy)]
                rows.append([subject.label, name, index + 1, *cells])
        for axis in axes[row * columns + len(diagrams) : (row + 1) * columns]:
            axis.set_visible(False)
    note = (
        "Accuracy by confidence (Guo et al. 2017, figure 1); on the line, confidence says how "
        "often an answer is right. Fainter bars hold fewer images; above each diagram, the "
        "expected calibration error."
    )
    header = ["network", "exit", "bin", "images", "confidence", "accuracy"]
    return Result("Calibration", note, header, rows, figure)


def _diagram(axis, own, colour):
    bins = len(own["count"])
    strength = 0.25 + 0.75 * np.sqrt(own["count"] / own["count"].max())
    places = (np.arange(bins) + 0.5) / bins
    heights = np.nan_to_num(own["accuracy"])
    for place, height, alpha in zip(places, heights, strength):
        axis.bar(place, height, 0.85 / bins, color=colour, alpha=float(alpha), linewidth=0)
    axis.plot([0, 1], [0, 1], color=plots.INK, linestyle=":", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1))
