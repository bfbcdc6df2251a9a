"""The analyses of analyze.py: each has a table and a figure of one or two networks.

Each function takes a list of one or two Subjects and the Settings of analyze.py, and returns a
Result.
"""

import functools
import warnings
from dataclasses import dataclass, field

import numpy as np
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
corruptions = lazy_import("sd_keras.corruptions")
compiled = lazy_import("sd_keras.inference.compiled")
card_plots = lazy_import("sd_keras.results_card.plots")

# Methods that need nothing but the network and its data.
SELF_CONTAINED = (
    *("baseline", "two_branch", "deep_supervision"),
    *("be_your_own_teacher", "data_distortion"),
)
SHARES = [step / 10 for step in range(11)]
STYLES = ("-", "--")


@dataclass(eq=False)
class Subject:
    """A network to analyze, with its outputs computed once.

    Attributes:
        label: its name in plots and tables.
        network: made by `attach_exits`.
        method: name of the method it was trained by, or None if that is not known.
        test, train: pairs of images and class numbers.
    """

    label: str
    network: object
    method: str | None
    test: tuple
    train: tuple

    @functools.cached_property
    def outputs(self):
        """Logits and features of the test images."""
        return compiled.predict(self.network, self.test[0])

    @property
    def exits(self):
        """Names of the exits, shallow to deep."""
        return sd_keras.exit_names(self.network)

    @property
    def methods(self):
        """Names of the methods whose losses are differentiated: the network's, and the plain one.

        A paper's method in place of one that is not known or needs a teacher.
        """
        method = self.method
        if method is None or not set(method.split("+")) <= set(SELF_CONTAINED):
            method = "be_your_own_teacher" if len(self.exits) > 1 else "data_distortion"
        return list(dict.fromkeys((method, "baseline")))


@dataclass
class Result:
    """The result of an analysis.

    Attributes:
        title: of its section of the page.
        note: what it shows, in a sentence or two.
        header, rows: of its table; cells are text or numbers.
        figure: of matplotlib.
    """

    title: str
    note: str
    header: list
    rows: list = field(repr=False)
    figure: object = field(repr=False)


def _grid(subjects, columns, size):
    """Returns a figure and, for each subject, a list of axes."""
    figure, cells = card_plots.axes(len(subjects), columns, (size, size))
    return figure, [cells[i * columns : (i + 1) * columns] for i in range(len(subjects))]


def _hide(cells):
    for axis in cells:
        axis.set_visible(False)


def components(subjects, settings):
    """Features of each exit along their first two principal components."""
    figure, grid = _grid(subjects, max(len(subject.exits) for subject in subjects), 2.7)
    rows = []
    for subject, cells in zip(subjects, grid):
        by_exit = analysis.principal_components(subject.outputs)
        for axis, (name, axes_of_exit) in zip(cells, by_exit.items()):
            explained = list(map(float, axes_of_exit["explained"]))
            scatter(axis, axes_of_exit["projected"], subject.test[1])
            texts = [f"component {i} ({share:.0%})" for i, share in enumerate(explained, start=1)]
            card_plots.label(axis, *texts, f"{subject.label}: {name}")
            rows.append([subject.label, name, *explained])
        _hide(cells[len(by_exit) :])
    card_plots.legend(figure, grid[0][0], "class")
    note = (
        "Each dot is a test image, its colour the class, of the first ten (BYOT figure 6). The "
        "table: shares of the features' variance along the two axes."
    )
    header = ["network", "exit", "explained by 1", "explained by 2"]
    return Result("Principal components of the features", note, header, rows, figure)


def separability(subjects, settings):
    """Sums of squares within and between the classes."""
    names, rows, groups = max((subject.exits for subject in subjects), key=len), [], {}
    for subject in subjects:
        sums = analysis.separability(subject.outputs, subject.test[1])
        groups[subject.label] = dict(zip(subject.exits, sums["ratio"].tolist()))
        for index, name in enumerate(subject.exits):
            values = (float(sums[key][index]) for key in ("sse", "ssb", "ratio"))
            rows.append([subject.label, name, *values])
    figure, (axis,) = card_plots.axes()
    bars(axis, names, groups)
    card_plots.label(axis, y="SSE / SSB")
    card_plots.legend(figure, axis)
    note = (
        "Within-class and between-class sums of squares of the features, per image (BYOT table "
        "6). Only the ratio compares exits and networks: the smaller, the further apart the "
        "classes; with few images of a class it comes out too small."
    )
    header = ["network", "exit", "SSE", "SSB", "SSE / SSB"]
    return Result("Separability of the classes", note, header, rows, figure)


def agreement(subjects, settings):
    """Shares of images on which two exits predict the same class."""
    keys = ("same", "both_right", "row_right", "column_right", "both_wrong_alike")
    several = [subject for subject in subjects if len(subject.exits) > 1]
    figure, cells = card_plots.axes(1, max(1, len(several)), (4.4, 3.6))
    remaining, rows = iter(cells), []
    for subject in subjects:
        shares = analysis.agreement(subject.outputs, subject.test[1])
        names = shares["names"]
        for i, first in enumerate(names):
            for j in range(i + 1, len(names)):
                values = (float(shares[key][i, j]) for key in keys)
                rows.append([subject.label, first, names[j], *values])
        if subject in several:
            axis, low = next(remaining), np.floor(10 * shares["same"].min()) / 10
            matrix(axis, shares["same"], names, names, min(low, 0.9))
            any_right = 100 * shares["any_right"]
            card_plots.label(axis, title=f"{subject.label}: some exit right on {any_right:.1f} %")
    _hide(remaining)
    note = (
        "Shares of the test images on which two of the exits and the ensemble predict the same "
        "class; both are right, only the first or only the second, or both wrong alike."
    )
    header = ["network", "first", "second", "same", "both right"]
    header += ["first alone right", "second alone right", "both wrong alike"]
    return Result("Agreement of the exits", note, header, rows, figure)


def calibration(subjects, settings):
    """Reliability diagrams."""
    figure, grid = _grid(subjects, max(len(subject.exits) for subject in subjects) + 1, 2.5)
    rows = []
    for subject, cells in zip(subjects, grid):
        measured = analysis.evaluate_logits(subject.outputs, subject.test[1], settings.bins)
        diagrams = analysis.reliability(subject.outputs, subject.test[1], settings.bins)
        diagrams = without_double(diagrams)
        for axis, (name, bins) in zip(cells, diagrams.items()):
            tone = card_plots.INK if len(diagrams) == 1 else card_plots.colour(name)
            card_plots.reliability(axis, bins["count"], bins["accuracy"], tone)
            error = 100 * measured[name]["calibration_error"]
            title = f"{subject.label}: {name}\ncalibration error {error:.1f} %"
            card_plots.label(axis, "confidence", "accuracy" if axis is cells[0] else "", title)
            values = zip(bins["count"], bins["confidence"], bins["accuracy"])
            for number, (count, confidence, accuracy) in enumerate(values, start=1):
                cells_of_bin = [number, int(count), float(confidence), float(accuracy)]
                rows.append([subject.label, name, *cells_of_bin])
        _hide(cells[len(diagrams) :])
    note = (
        "Accuracy by confidence (Guo et al. 2017, figure 1); on the line both are equal. Fainter "
        "bars hold fewer images; above each diagram, the expected calibration error."
    )
    header = ["network", "exit", "bin", "images", "confidence", "accuracy"]
    return Result("Calibration", note, header, rows, figure)


def noise(subjects, settings):
    """Accuracy and cross entropy of training images under noise on the weights."""
    figure, cells = card_plots.axes(1, 2)
    rows = []
    for index, subject in enumerate(subjects):
        by_exit = analysis.weight_noise(
            subject.network,
            *subject.train,
            settings.deviations,
            settings.draws,
            settings.seed,
            settings.relative,
        )
        for axis, key in zip(cells, ("accuracy", "cross_entropy")):
            values = {name: measures[key] for name, measures in by_exit.items()}
            lines(axis, settings.deviations, values, index, f"{subject.label}: ")
        for name, measures in by_exit.items():
            accuracy, nats = measures["accuracy"], measures["cross_entropy"]
            for level, deviation in enumerate(settings.deviations):
                means = accuracy[level].mean(), accuracy[level].std(), nats[level].mean()
                rows.append([subject.label, name, deviation, *map(float, means)])
    unit = "of each kernel's root mean square" if settings.relative else "of the weights"
    card_plots.label(cells[0], f"standard deviation of the noise, {unit}", "training accuracy")
    card_plots.label(cells[1], f"standard deviation of the noise, {unit}", "cross entropy (nats)")
    cells[1].set_yscale("log")
    card_plots.legend(figure, cells[0])
    note = (
        "Gaussian noise on the kernels, on training images (BYOT figure 4): the flatter the "
        f"minimum, the later predictions change. Lines are means of {settings.draws} draws, bands "
        "reach from the worst to the best."
    )
    header = ["network", "exit", "deviation", "accuracy", "deviation of it", "cross entropy"]
    return Result("Noise on the weights", note, header, rows, figure)


def gradients(subjects, settings):
    """Mean |gradient| of each convolution of the backbone, by method."""
    figure, (axis,) = card_plots.axes(size=(7.5, 3.6))
    rows = []
    for position, subject in enumerate(subjects):
        for index, method in enumerate(subject.methods):
            sizes = _magnitudes(subject, method, settings)
            columns = (sizes[key].tolist() for key in ("convolution", "mean", "deviation"))
            for name, is_convolution, *values in zip(sizes["names"], *columns):
                kind = "convolution" if is_convolution else "other"
                rows.append([subject.label, method, name, kind, *values])
            of_exit = np.array([name.startswith("bottleneck_") for name in sizes["names"]])
            body = sizes["mean"][sizes["convolution"] & ~of_exit]
            style = {
                "color": card_plots.COLOURS[2 * position + index],
                "linestyle": STYLES[position],
            }
            text = f"{subject.label}, loss of {method}"
            axis.plot(range(1, len(body) + 1), body, marker=".", label=text, **style)
    axis.set_yscale("log")
    card_plots.label(axis, "convolution of the backbone", "mean |gradient|")
    card_plots.legend(figure, axis)
    note = (
        "Mean magnitude of the gradient of each kernel, on training images, by the loss of the "
        "method and by that of the plain network (BYOT figure 5). The plot leaves out the exits' "
        "own convolutions, the table does not."
    )
    header = ["network", "method", "kernel", "kind", "mean |gradient|", "deviation of batches"]
    return Result("Gradients by layer", note, header, rows, figure)


def _magnitudes(subject, method, settings):
    method = sd_keras.methods.get(method)
    with warnings.catch_warnings():
        # Nothing is trained here.
        warnings.filterwarnings("ignore", "method 'baseline' trains")
        model = sd_keras.SelfDistillModel(subject.network, method, settings.distortion())
    model.compile("sgd")
    return analysis.gradient_magnitudes(model, *subject.train, settings.batch_size)


def consistency(subjects, settings):
    """Predictions and features of two distorted views of an image."""
    keys = ("symmetric_kl", "same_answer", "mmd", "relative_distance")
    titles = ("symmetric KL (nats)", "same answer", "MMD", "distance / that of two images")
    groups, rows = [{} for _ in keys], []
    names = max((subject.exits for subject in subjects), key=len)
    for subject in subjects:
        # A new one for each, so that both networks see the same views.
        distortion = settings.distortion()
        by_exit = analysis.consistency(subject.network, subject.test[0], distortion, settings.draws)
        for group, key in zip(groups, keys):
            measured = {name: v[key].mean() for name, v in by_exit.items() if key in v}
            group[subject.label] = measured
        for name, values in by_exit.items():
            means = (float(values[key].mean()) if key in values else "" for key in keys)
            rows.append([subject.label, name, *means])
    figure, cells = card_plots.axes(1, len(keys), (3.1, 3.0))
    for axis, group, title in zip(cells, groups, titles):
        with_ensemble = any("ensemble" in values for values in group.values())
        bars(axis, [*names, *["ensemble"] * with_ensemble], group)
        card_plots.label(axis, title=title)
        axis.tick_params(axis="x", labelrotation=30)
    card_plots.legend(figure, cells[0])
    note = (
        "Two draws of the training distortion of each test image (DDGSD eq. 2 to 4); means of "
        f"{settings.draws} pairs. The fewer nats and the shorter distances, the more consistent."
    )
    header = ["network", "exit", *titles]
    return Result("Consistency between distorted views", note, header, rows, figure)


def corrupted(subjects, settings):
    """Accuracy under common corruptions."""
    kinds, rows = list(corruptions.KINDS), []
    figure, cells = card_plots.axes(1, len(subjects) + 1, (4.6, 4.6))
    for index, subject in enumerate(subjects):
        by_exit = analysis.robustness(
            subject.network, *subject.test, kinds, settings.severities, settings.seed
        )
        by_severity = {name: each["accuracy"].mean(axis=0) for name, each in by_exit.items()}
        lines(cells[0], settings.severities, by_severity, index, f"{subject.label}: ")
        columns = without_double(by_exit)
        means = np.transpose([each["accuracy"].mean(axis=1) for each in columns.values()])
        matrix(cells[index + 1], means, kinds, list(columns))
        card_plots.label(cells[index + 1], title=f"{subject.label}: mean of severities")
        for name, each in by_exit.items():
            rows.append([subject.label, name, "clean", 0, each["clean_accuracy"]])
            for kind, accuracies in zip(kinds, each["accuracy"].tolist()):
                for severity, accuracy in zip(settings.severities, accuracies):
                    rows.append([subject.label, name, kind, severity, accuracy])
    card_plots.label(cells[0], "severity", "mean accuracy of all kinds")
    cells[0].set_xticks(settings.severities)
    card_plots.legend(figure, cells[0])
    note = (
        "Accuracy on corrupted test images. The corruptions are made by this library with "
        "parameters of its own: not comparable with CIFAR-100-C and its like."
    )
    header = ["network", "exit", "corruption", "severity", "accuracy"]
    return Result("Common corruptions", note, header, rows, figure)


def ablation(subjects, settings):
    """Accuracy with features switched off."""
    figure, cells = card_plots.axes(1, 2, sharey=True)
    rows = []
    for index, subject in enumerate(subjects):
        for axis, replace in zip(cells, ("zero", "mean")):
            by_exit = analysis.unit_ablation(
                subject.network, *subject.test, SHARES, settings.draws, settings.seed, replace
            )
            lines(axis, SHARES, by_exit, index, f"{subject.label}: ")
            for name, draws in by_exit.items():
                for share, accuracies in zip(SHARES, draws):
                    values = float(accuracies.mean()), float(accuracies.std())
                    rows.append([subject.label, name, replace, share, *values])
    for axis, title in zip(cells, ("set to 0", "set to their mean")):
        card_plots.label(axis, "share of the features", "test accuracy", title)
    card_plots.legend(figure, cells[0])
    note = (
        "Random sets of an exit's features are switched off (Morcos et al. 2018): the earlier "
        f"accuracy falls, the more the exit relies on single features. Means of {settings.draws} "
        "orders, bands from the worst to the best."
    )
    header = ["network", "exit", "replaced by", "share", "accuracy", "deviation of it"]
    return Result("Features switched off", note, header, rows, figure)


def lines(axis, x, values, index=0, prefix=""):
    """Draws a line per exit, with a band between the smallest and the largest draw.

    `values` is a dict by exit to `(k,)` or `(k, draws)`; with `index` 1, for the second network,
    the lines are dashed.
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

    `groups` is a dict from a network's label to a dict from some of the names to numbers. The
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


ANALYSES = {
    "noise": noise,
    "gradients": gradients,
    "components": components,
    "separability": separability,
    "agreement": agreement,
    "calibration": calibration,
    "consistency": consistency,
    "corruptions": corrupted,
    "ablation": ablation,
}
