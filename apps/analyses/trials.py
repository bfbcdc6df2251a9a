"""The parts of analyze.py that change something and look again: weights, images, features.

Each takes a list of one or two Subjects and the Settings of analyze.py, and returns a Result.
"""

import warnings

import analyses.plots as plots
import numpy as np
from analyses.page import Result
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
corruptions = lazy_import("sd_keras.corruptions")

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def noise(subjects, settings):
    """Accuracy and cross entropy of training images under noise on the weights."""
    figure, axes = plots.axes(1, 2)
    rows = []
    for place, subject in enumerate(subjects):
        found = analysis.weight_noise(
            subject.network,
            *subject.train,
            settings.deviations,
            settings.draws,
            settings.seed,
            settings.relative,
        )
        for axis, key in zip(axes, ("accuracy", "cross_entropy")):
            own = {name: values[key] for name, values in found.items()}
            plots.lines(axis, settings.deviations, own, place, f"{subject.label}: ")
        for name, values in found.items():
            accuracy, nats = values["accuracy"], values["cross_entropy"]
            for level, deviation in enumerate(settings.deviations):
                cells = accuracy[level].mean(), accuracy[level].std(), nats[level].mean()
                rows.append([subject.label, name, deviation, *map(float, cells)])
    unit = "of each kernel's root mean square" if settings.relative else "of the weights"
    plots.label(axes[0], f"standard deviation of the noise, {unit}", "training accuracy")
    plots.label(axes[1], f"standard deviation of the noise, {unit}", "cross entropy (nats)")
    axes[1].set_yscale("log")
    plots.legend(figure, axes[0])
    note = (
        "Gaussian noise on the kernels, on training images (BYOT figure 4): the flatter the "
        f"minimum, the later answers change. Lines are means of {settings.draws} draws, bands "
        "reach from the worst to the best."
    )
    header = ["network", "exit", "deviation", "accuracy", "deviation of it", "cross entropy"]
    return Result("Noise on the weights", note, header, rows, figure)


def gradients(subjects, settings):
    """Mean |gradient| of each convolution of the backbone, by method."""
    figure, (axis,) = plots.axes(size=(7.5, 3.6))
    rows = []
    for place, subject in enumerate(subjects):
        for index, method in enumerate(subject.methods):
            found = _magnitudes(subject, method, settings)
            columns = (found[key].tolist() for key in ("convolution", "mean", "deviation"))
            for name, is_convolution, *values in zip(found["names"], *columns):
                kind = "convolution" if is_convolution else "other"
                rows.append([subject.label, method, name, kind, *values])
            of_exit = np.array([name.startswith("bottleneck_") for name in found["names"]])
            body = found["mean"][found["convolution"] & ~of_exit]
            colour = plots.COLOURS[2 * place + index]
            style = {"color": colour, "linestyle": plots.STYLES[place], "marker": "."}
            label = f"{subject.label}, loss of {method}"
            axis.plot(range(1, len(body) + 1), body, label=label, **style)
    axis.set_yscale("log")
    plots.label(axis, "convolution of the backbone", "mean |gradient|")
    plots.legend(figure, axis)
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
    """Answers and features of two distorted views of an image."""
    keys = ("symmetric_kl", "same_answer", "mmd", "relative_distance")
    titles = ("symmetric KL (nats)", "same answer", "MMD", "distance / that of two images")
    groups, rows = [{} for _ in keys], []
    names = max((subject.exits for subject in subjects), key=len)
    for subject in subjects:
        # A fresh one for each: both networks see the same views.
        distortion = settings.distortion()
        found = analysis.consistency(subject.network, subject.test[0], distortion, settings.draws)
        for group, key in zip(groups, keys):
            own = {name: v[key].mean() for name, v in found.items() if key in v}
            group[subject.label] = own
        for name, values in found.items():
            means = (float(values[key].mean()) if key in values else "" for key in keys)
            rows.append([subject.label, name, *means])
    figure, axes = plots.axes(1, len(keys), (3.1, 3.0))
    for axis, group, title in zip(axes, groups, titles):
        with_ensemble = any("ensemble" in own for own in group.values())
        plots.bars(axis, [*names, *["ensemble"] * with_ensemble], group)
        plots.label(axis, title=title)
        axis.tick_params(axis="x", labelrotation=30)
    plots.legend(figure, axes[0])
    note = (
        "Two draws of the training distortion of each test image (DDGSD eq. 2 to 4); means of "
        f"{settings.draws} pairs. The fewer nats and the shorter distances, the more consistent."
    )
    header = ["network", "exit", *titles]
    return Result("Consistency between distorted views", note, header, rows, figure)


def corrupted(subjects, settings):
    """Accuracy under common corruptions."""
    kinds, rows = list(corruptions.KINDS), []
    figure, axes = plots.axes(1, len(subjects) + 1, (4.6, 4.6))
    for place, subject in enumerate(subjects):
        found = analysis.robustness(
            subject.network, *subject.test, kinds, settings.severities, settings.seed
        )
        by_severity = {name: own["accuracy"].mean(axis=0) for name, own in found.items()}
        plots.lines(axes[0], settings.severities, by_severity, place, f"{subject.label}: ")
        shown = plots.without_double(found)
        table = np.transpose([own["accuracy"].mean(axis=1) for own in shown.values()])
        plots.matrix(axes[place + 1], table, kinds, list(shown))
        plots.label(axes[place + 1], title=f"{subject.label}: mean of severities")
        for name, own in found.items():
            rows.append([subject.label, name, "clean", 0, own["clean_accuracy"]])
            for kind, accuracies in zip(kinds, own["accuracy"].tolist()):
                for severity, accuracy in zip(settings.severities, accuracies):
                    rows.append([subject.label, name, kind, severity, accuracy])
    plots.label(axes[0], "severity", "mean accuracy of all kinds")
    axes[0].set_xticks(settings.severities)
    plots.legend(figure, axes[0])
    note = (
        "Accuracy on corrupted test images. The corruptions are made by this library with "
        "parameters of its own: not comparable with CIFAR-100-C and its like."
    )
    header = ["network", "exit", "corruption", "severity", "accuracy"]
    return Result("Common corruptions", note, header, rows, figure)


def ablation(subjects, settings):
    """Accuracy with features switched off."""
    figure, axes = plots.axes(1, 2, sharey=True)
    rows = []
    for place, subject in enumerate(subjects):
        for axis, replace in zip(axes, ("zero", "mean")):
            found = analysis.unit_ablation(
                subject.network, *subject.test, SHARES, settings.draws, settings.seed, replace
            )
            plots.lines(axis, SHARES, found, place, f"{subject.label}: ")
            for name, own in found.items():
                for share, accuracies in zip(SHARES, own):
                    cells = float(accuracies.mean()), float(accuracies.std())
                    rows.append([subject.label, name, replace, share, *cells])
    for axis, title in zip(axes, ("set to 0", "set to their mean")):
        plots.label(axis, "share of the features", "test accuracy", title)
    plots.legend(figure, axes[0])
    note = (
        "Random sets of an exit's features are switched off (Morcos et al. 2018): the earlier "
        f"accuracy falls, the more the exit relies on single features. Means of {settings.draws} "
        "orders, bands from the worst to the best."
    )
    header = ["network", "exit", "replaced by", "share", "accuracy", "deviation of it"]
    return Result("Features switched off", note, header, rows, figure)
