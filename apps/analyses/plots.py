"""The plots of analyze.py, drawn by matplotlib without its global state."""

# Middle tones, and no background: a plot reads on a light page and on a dark one.
COLOURS = ("#3585c9", "#17977a", "#b98019", "#c9507a", "#8465cf", "#78933f", "#4f8f9f", "#a5694a")
ENSEMBLE = "#d5602b"
INK = "#7d8792"
STYLES = ("-", "--")


def require():
    """Returns matplotlib's class Figure.

    Raises:
        ImportError: if it is not installed, naming the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plots need matplotlib: pip install 'sd_keras[plots]' ({error})"
        ) from None
    return Figure


def axes(rows=1, columns=1, size=(4.6, 3.4), **options):
    """Returns a figure and its axes as a list, row by row, in the colours of the page."""
    figure = require()(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    made = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for each in made:
        each.set_facecolor("none")
        each.tick_params(which="both", colors=INK, labelsize=8)
        each.grid(color=INK, alpha=0.25, linewidth=0.6)
        for spine in each.spines.values():
            spine.set_color(INK)
            spine.set_alpha(0.5)
    figure.patch.set_alpha(0)
    return figure, made


def label(axis, x="", y="", title=""):
    """Writes beside the axes and above them."""
    axis.set_xlabel(x, color=INK, fontsize=9)
    axis.set_ylabel(y, color=INK, fontsize=9)
    axis.set_title(title, color=INK, fontsize=10)


def legend(figure, axis, prefix=""):
    """Adds a legend of what the axes show, below the whole figure."""
    handles, labels = axis.get_legend_handles_labels()
    labels = [prefix + text for text in labels]
    columns = max(1, min(len(labels), int(figure.get_figwidth() / 2.2)))
    options = {"ncols": columns, "fontsize": 8, "frameon": False, "labelcolor": INK}
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", **options)


def colour(name):
    """Returns the colour of an exit or the ensemble."""
    if not name.startswith("exit_"):
        return ENSEMBLE
    return COLOURS[(int(name.removeprefix("exit_")) - 1) % len(COLOURS)]


def lines(axis, x, values, place=0, prefix=""):
    """Draws a line per exit, with a band between the smallest and the largest draw.

    Args:
        axis: of `axes`.
        x: `(k,)`.
        values: a dict by exit to `(k,)` or `(k, draws)`.
        place: 0 for the network, 1 for the one beside it, which has dashes.
        prefix: of the labels.
    """
    for name, own in without_double(values).items():
        middle = own if own.ndim == 1 else own.mean(axis=1)
        tone = INK if len(values) <= 2 else colour(name)
        style = {"color": tone, "linestyle": STYLES[place], "linewidth": 1.6}
        axis.plot(x, middle, marker=".", markersize=4, label=prefix + name, **style)
        if own.ndim == 2:
            bounds = own.min(axis=1), own.max(axis=1)
            axis.fill_between(x, *bounds, color=tone, alpha=0.12, linewidth=0)


def without_double(values):
    """Returns a dict by exit without the ensemble of a single exit, which is that exit."""
    return {"exit_1": values["exit_1"]} if set(values) == {"exit_1", "ensemble"} else values


def bars(axis, names, groups):
    """Draws groups of bars, one bar a group for each of `names`.

    Args:
        axis: of `axes`.
        names: below the groups of bars.
        groups: a dict from a label to a dict from some of the names to numbers. The only exit
            of a network stands beside the deepest one.
    """
    width = 0.8 / len(groups)
    deepest = [name for name in names if name != "ensemble"][-1]
    for index, (key, values) in enumerate(groups.items()):
        values = without_double(values)
        tones = [colour(name) for name in values]
        if len(values) == 1:
            values, tones = {deepest: values["exit_1"]}, [INK]
        places = [names.index(name) + (index + 0.5) * width - 0.4 for name in values]
        style = {"hatch": "//" if index else None, "edgecolor": "white", "linewidth": 0}
        axis.bar(places, list(values.values()), width * 0.92, color=tones, label=key, **style)
    axis.set_xticks(range(len(names)), names, fontsize=8)


def matrix(axis, values, rows, columns, low=0.0, high=1.0, digits=2):
    """Draws a matrix as colours with numbers; the text turns where the colour is dark."""
    axis.grid(False)
    axis.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for row in range(len(rows)):
        for column in range(len(columns)):
            value = values[row][column]
            dark = (value - low) / max(high - low, 1e-9) < 0.55
            ink = "white" if dark else "#1d232b"
            text = f"{value:.{digits}f}"
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=7.5)


def scatter(axis, points, classes, most=10):
    """Draws points `(n, 2)`, coloured by class for the first ones."""
    for number in range(min(most, int(classes.max()) + 1)):
        own = points[classes == number]
        style = {"s": 6, "alpha": 0.6, "linewidths": 0, "color": f"C{number}"}
        axis.scatter(*own.T[:2], label=str(number), **style)
