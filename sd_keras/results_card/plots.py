"""The plots of a results card, drawn by matplotlib without its global state."""

import io

import numpy as np

COLOURS = ("#1f6fb4", "#0a7d65", "#b98019", "#c9507a", "#6a4bb0", "#78933f", "#4f8f9f", "#a5694a")
INK = "#444c56"
MARKERS = {"ensemble": "D", "baseline": "s"}
NAMES = {"baseline": "plain baseline"}
MISSING = "plots need matplotlib: pip install '.[plots]'"


def has_plots():
    """Returns whether matplotlib is installed, which the plots need."""
    try:
        require()
    except ImportError:
        return False
    return True


def require():
    """Returns matplotlib's class Figure.

    Raises:
        ImportError: if matplotlib is not installed; names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from None
    return Figure


def axes(rows=1, columns=1, size=(4.6, 3.4), **options):
    """Returns a figure and a list of its axes, row by row.

    Args:
        rows, columns: numbers of axes.
        size: width and height of each in inches.
        options: arguments of `Figure.subplots`.
    """
    figure = require()(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axis in cells:
        axis.tick_params(which="both", labelsize=8)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, cells


def label(axis, x="", y="", title=""):
    """Labels the axes and sets the title."""
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.set_title(title, fontsize=10)


def legend(figure, axis, title=None):
    """Adds a legend of what the axes show below the figure, if that is more than one thing."""
    handles, labels = axis.get_legend_handles_labels()
    columns = max(1, min(len(labels), int(figure.get_figwidth() / 2.2)))
    options = {"ncols": columns, "fontsize": 8, "title_fontsize": 8, "frameon": False}
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", title=title, **options)


def colour(name):
    """Returns the colour of an exit, the ensemble or the plain network."""
    if name.startswith("exit_"):
        return COLOURS[(int(name.removeprefix("exit_")) - 1) % len(COLOURS)]
    return INK if name == "baseline" else "#d5602b"


def reliability(axis, shares, accuracies, tone):
    """Draws a reliability diagram (Guo et al. 2017): accuracy by confidence, in equal bins.

    Args:
        axis: of `axes`.
        shares: of the images in each bin, or their numbers; bars of few images are fainter.
        accuracies: in each bin; None or NaN where it is empty.
        tone: colour of the bars.
    """
    shares = np.asarray(shares, "float64")
    centers = (np.arange(len(shares)) + 0.5) / len(shares)
    heights = np.nan_to_num(np.array(accuracies, "float64"))
    bars = axis.bar(centers, heights, 0.85 / len(shares), color=tone)
    for bar, strength in zip(bars, np.sqrt(shares / shares.max())):
        bar.set_alpha(0.25 + 0.75 * strength)
    axis.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1))


def svg(figure):
    """Returns a figure as the bytes of an SVG file, the same for the same figure."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "sd_keras"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def accuracy_by_cost(panels):
    """Returns the figure of accuracies against costs.

    Args:
        panels: a list with one tuple for each pair of axes: label of the costs; a dict from
            exits, `ensemble` and `baseline` to (cost, accuracy in percent); pairs of lists
            (costs, accuracies in percent) of leaving early, or None.
    """
    figure, cells = axes(1, len(panels), (4.8, 3.9))
    for axis, (costs_label, points, curve) in zip(cells, panels):
        if curve:
            line = sorted(zip(*curve))
            axis.plot(*zip(*line), ".--", color=INK, linewidth=1, label="early exit", zorder=1)
        for name, (cost, accuracy) in points.items():
            style = {"color": colour(name), "marker": MARKERS.get(name, "o"), "markersize": 8}
            axis.plot(cost, accuracy, linestyle="", label=NAMES.get(name, name), **style)
        axis.set_xlim(left=0)
        label(axis, costs_label, "test accuracy (%)")
    legend(figure, cells[0])
    return figure


def exit_shares(points):
    """Returns the figure of the shares of images that leave at each exit.

    Args:
        points: dict from the label of an operating point to a list of shares by exit.
    """
    figure, (axis,) = axes(size=(7.5, 1.1 + 0.3 * len(points)))
    shares = 100 * np.array(list(points.values()))
    for index in range(shares.shape[1]):
        name, widths = f"exit_{index + 1}", shares[:, index]
        style = {"color": colour(name), "label": name}
        bars = axis.barh(range(len(points)), widths, left=shares[:, :index].sum(axis=1), **style)
        texts = [f"{width:.0f}" if width > 4 else "" for width in widths]
        axis.bar_label(bars, texts, label_type="center", color="white", fontsize=8)
    axis.set_yticks(range(len(points)), points)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    label(axis, "test images (%)")
    legend(figure, axis)
    return figure


def reliability_diagrams(measured, calibrated):
    """Returns the figure of a reliability diagram for each exit and the ensemble.

    Args:
        measured, calibrated: what `results_card.figures` returns as `reliability`.
    """
    columns = min(4, len(measured))
    rows = -(-len(measured) // columns)
    figure, cells = axes(rows, columns, (2.6, 2.6))
    for index, (axis, (name, bins)) in enumerate(zip(cells, measured.items())):
        reliability(axis, bins["share"], bins["accuracy"], colour(name))
        keys = ("confidence", "accuracy", "share")
        *points, shares = (np.array(calibrated[name][key], "float64") for key in keys)
        style = {"facecolors": "none", "edgecolors": INK, "clip_on": False, "zorder": 3}
        axis.scatter(*points, s=8 + 60 * shares, **style)
        label(axis, "confidence", "" if index % columns else "accuracy", name)
    for axis in cells[len(measured) :]:
        axis.set_visible(False)
    return figure
