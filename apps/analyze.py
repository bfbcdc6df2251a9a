"""Tells what a network costs, and why the exits of a trained one answer as they do.

    python apps/analyze.py costs --network=resnet18                 # a name of MODELS
    python apps/analyze.py costs --network=resnet50 --stem=imagenet --num_classes=1000
    python apps/analyze.py costs --network=runs/digits/network.keras --output=costs.json

`costs` prints, for one image and for each exit with its own bottleneck and no other's:
parameters, moving statistics, multiply-accumulates and FLOPs (two each), the elements that
convolutions and Dense layers put out, the memory of all tensors alive at the worst moment, and
how many times fewer multiply-accumulates than the deepest exit takes. Any functional .keras
model will do; one without exits has one row. Takes a few seconds.

    python apps/analyze.py all --network=runs/digits
    python apps/analyze.py noise gradients --network=runs/r18 --beside=runs/plain --images=1000

The other words look at a trained network and its data (docs/analysis.md): noise, gradients,
components, separability, agreement, calibration, consistency, corruptions, ablation, or all of
these. They write a CSV and a PNG file each, and index.html, which shows them, into --output, by
default the folder `analysis` beside the network. A second network, --beside, or the run's own
baseline where there is one, is drawn into the same plots. Plots need `sd_keras[plots]`. All of
them with --images=500 on digits, two ResNet-8, take 23 s of processor time.
"""

import pathlib
import shlex
import sys
from dataclasses import dataclass

import analyses.answers
import analyses.costs
import analyses.page
import analyses.plots
import analyses.subject
import analyses.trials
import finished_run
import run_data
from absl import app, flags, logging
from analyses.subject import Subject, some
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")

ANALYSES = {
    "noise": analyses.trials.noise,
    "gradients": analyses.trials.gradients,
    "components": analyses.answers.components,
    "separability": analyses.answers.separability,
    "agreement": analyses.answers.agreement,
    "calibration": analyses.answers.calibration,
    "consistency": analyses.trials.consistency,
    "corruptions": analyses.trials.corrupted,
    "ablation": analyses.trials.ablation,
}
WORDS = ("costs", *ANALYSES, "all")

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(finished_run)
flags.adopt_module_key_flags(analyses.costs)
flags.DEFINE_string("output", None, "costs: JSON file for the figures; else the folder to write")
flags.DEFINE_string("beside", None, "a second network, as --network (default: the run's baseline)")
flags.DEFINE_integer("images", 2000, "most images of the training and of the test split", 2)
flags.DEFINE_integer("draws", 5, "of noise, of pairs of views, of orders of features", 1)
flags.DEFINE_list("deviations", [f"{0.005 * i:g}" for i in range(11)], "of noise on the weights")
flags.DEFINE_bool("relative", False, "noise in units of each kernel's root mean square")
flags.DEFINE_list("severities", ["1", "2", "3", "4", "5"], "of the corruptions")
flags.DEFINE_integer("bins", 15, "of the calibration", 1)
flags.DEFINE_integer("batch_size", 128, "images per batch of gradients", 1)


@dataclass
class Settings:
    """What the analyses take from the flags, and the run's distortion with a fresh seed."""

    deviations: list
    draws: int
    relative: bool
    severities: list
    bins: int
    batch_size: int
    seed: int
    distortion: object


def main(argv):
    """Does what the words ask for."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow Datasets' notes on reading
    words = argv[1:]
    if not words or not set(words) <= set(WORDS) or ("costs" in words and len(words) > 1):
        asked = f"give one word of {', '.join(WORDS)}, or several but costs"
        print(f"error: {asked}. Received: {words}", file=sys.stderr)
        sys.exit(1)
    try:
        if words == ["costs"]:
            analyses.costs.show_costs()
        else:
            look([w for w in ANALYSES if w in words or "all" in words])
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def look(words):
    """Carries out analyses of the trained network of the flags, and writes what they find."""
    analyses.plots.require()
    folder = pathlib.Path(FLAGS.output or finished_run.network_file().parent / "analysis")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={str(folder)!r}")
    network = finished_run.load_network()
    splits = finished_run.load_splits(network)
    settings = settings_of_flags(splits)
    subjects = load_subjects(network, splits, settings.seed)
    results, title = {}, f"Analysis of {finished_run.name()}"
    for word in words:
        print(f"{word} …", file=sys.stderr, flush=True)
        results[word] = ANALYSES[word](subjects, settings)
        # Each time, so that an interrupted run leaves what it has found.
        analyses.page.write(folder, title, facts(splits, subjects), results)
    print(f"written to {folder}: index.html, {', '.join(f'{w}.csv, {w}.png' for w in words)}")


def settings_of_flags(splits):
    """Returns the Settings of the flags."""
    for name, low, high in (("deviations", 0, float("inf")), ("severities", 1, 5)):
        if not all(low <= value <= high for value in numbers(name, float)):
            given = ",".join(FLAGS[name].value)
            limits = "at least 0" if name == "deviations" else "1…5"
            raise ValueError(f"`{name}` must be {limits}. Received: {name}={given!r}")
    trained_with, seed = finished_run.results().get("flags", {}), finished_run.seed()
    return Settings(
        deviations=numbers("deviations", float),
        draws=FLAGS.draws,
        relative=FLAGS.relative,
        severities=numbers("severities", int),
        bins=FLAGS.bins,
        batch_size=FLAGS.batch_size,
        seed=seed,
        distortion=lambda: run_data.distortion_of(
            trained_with, splits.input_shape, splits.name, seed
        ),
    )


def numbers(name, kind):
    """Returns a flag that is a list as numbers."""
    try:
        return [kind(text) for text in FLAGS[name].value]
    except ValueError:
        given = ",".join(FLAGS[name].value)
        raise ValueError(
            f"`{name}` must be numbers, joined by commas. Received: {name}={given!r}"
        ) from None


def load_subjects(network, splits, seed):
    """Returns the network of the flags, and the one beside it if there is one, with images."""
    for name in ("train", "test"):
        if not len(getattr(splits, name)[0]):
            raise ValueError(f"`dataset` must have {name} images. Received: {splits.name}")
    parts = [some(part, FLAGS.images, seed) for part in (splits.test, splits.train)]
    method = finished_run.results().get("flags", {}).get("method")
    subjects = [Subject(finished_run.name(), network, method, *parts)]
    plain = finished_run.network_file().parent / "baseline/network.keras"
    if FLAGS.beside or plain.is_file():
        path = pathlib.Path(FLAGS.beside or plain)
        beside = load_beside(path / "network.keras" if path.is_dir() else path, network)
        named = path.stem if path.stem != "network" else path.resolve().parent.name
        label = named if named != subjects[0].label else f"{named} beside"
        subjects.append(Subject(label, beside, "baseline", *parts))
    return subjects


def load_beside(file, network):
    """Loads the second network; raises ValueError unless it takes the same images."""
    beside = checkpoints.load_network(file)
    try:
        names = sd_keras.exit_names(beside)
    except ValueError as error:
        raise ValueError(str(error).replace("`network`", "`beside`")) from None
    same = beside.output[names[-1]].shape[-1] == network.output["exit_1"].shape[-1]
    if not same or beside.input_shape != network.input_shape:
        raise ValueError(
            "`beside` must take the images and know the classes of `network`. "
            f"Received: {beside.input_shape[1:]}, {beside.output[names[-1]].shape[-1]}"
        )
    return beside


def facts(splits, subjects):
    """Returns what stands in the head of the page."""
    counts = [len(part[0]) for part in (subjects[0].train, subjects[0].test)]
    return {
        "data": f"{splits.name}, {counts[0]} training and {counts[1]} test images",
        "beside": subjects[1].label if len(subjects) > 1 else "–",
        "measured with": ", ".join(f"{k} {v}" for k, v in report.versions().items()),
        "command": shlex.join(["python", *sys.argv]),
    }


if __name__ == "__main__":
    app.run(main)
