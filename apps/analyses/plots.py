"""The kinds of plots that the figures of analyze.py consist of."""

from app_start import lazy_import

card_plots = lazy_import("sd_keras.results_card.plots")

STYLES = ("-", "--")


def lines(axis, x, values, index=0, prefix=""):
    """Draws a line per exit, with a band between the smallest and the largest draw.

    Args:
        axis: of matplotlib.
        x: `(k,)`.
        values: a dict by exit to `(k,)` or `(k, draws)`.
        index: 0 for the first network, 1 for the second, whose lines are dashed.
        prefix: of the labels.
    """
    for name, draws in without_double(values).items():
        mean = draws if draws.ndim == 1 else draws.mean(axis=1)
        tone = card_plots.INK if len(values) <= 2 else card_plots.colour(name)
        style = {"color": tone, "linestyle": STYLES[index], "linewidth": 1.6}
        axis.plot(x, mean, marker=".", markersize=4, label=prefix + name, **style)
        if draws.ndim == 2:
            bounds = draws.min(axis=1), draws.max(axis=1)
            axis.fill_between(x, *bounds, color=tone, alpha=0.12, linewidth=0)


def without_double(values):
    """Returns a dict by exit without the ensemble of a single exit, which is that exit."""
    return {"exit_1": values["exit_1"]} if set(values) == {"exit_1", "ensemble"} else values


def bars(axis, names, groups):
    """Draws a group of bars for each of `names`, with one bar for each network.

    Args:
        axis: of matplotlib.
        names: exits, and `ensemble` or not.
        groups: a dict from a network's label to a dict from some of the names to numbers. The
            only exit of a network is drawn at the deepest one.
    """
    width = 0.8 / len(groups)
    deepest = [name for name in names if name != "ensemble"][-1]
    for index, (label, values) in enumerate(groups.items()):
        values = without_double(values)
        tones = [card_plots.colour(name) for name in values]
        if len(values) == 1:
            values, tones = {deepest: values["exit_1"]}, [card_plots.INK]
        positions = [names.index(name) + (index + 0.5) * width - 0.4 for name in values]
        style = {"hatch": "//" if index else None, "edgecolor": "white", "linewidth": 0}
        heights = list(values.values())
        axis.bar(positions, heights, width * 0.92, color=tones, label=label, **style)
    axis.set_xticks(range(len(names)), names, fontsize=8)


def matrix(axis, values, rows, columns, low=0.0):
    """Draws a matrix of shares as colours with numbers, white where the colour is dark."""
    axis.grid(False)
    axis.imshow(values, vmin=low, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for row in range(len(rows)):
        for column in range(len(columns)):
            value = values[row][column]
            is_dark = value - low < 0.55 * (1 - low)
            style = {"color": "white" if is_dark else "black", "ha": "center", "va": "center"}
            axis.text(column, row, f"{value:.2f}", fontsize=7.5, **style)


def scatter(axis, points, classes, max_classes=10):
    """Draws points `(n, 2)` of the first classes, coloured by class."""
    for number in range(min(max_classes, int(classes.max()) + 1)):
        style = {"s": 6, "alpha": 0.6, "linewidths": 0, "color": f"C{number}"}
        axis.scatter(*points[classes == number].T[:2], label=str(number), **style)
