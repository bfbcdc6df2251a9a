"""Counts what a network costs, and analyzes why the exits of a trained one predict as they do.

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

The other words analyze a trained network on its data (docs/analysis.md): noise, gradients,
components, separability, agreement, calibration, consistency, corruptions, ablation, or all of
these. They write a CSV and a PNG file each, and index.html, which shows them, into --output, by
default the folder `analysis` in the network's folder. A second network, --beside, or else the
run's baseline, is drawn into the same plots. Plots need `pip install '.[plots]'`. All of them
with --images=500 on digits, two ResNet-8, take 23 s of processor time.
"""

import csv
import io
import pathlib
import shlex
import sys
import types

import finished_run
import run_data
from absl import app, flags, logging
from analyses.figures import ANALYSES, Subject
from app_start import lazy_import, run_app

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")
plots = lazy_import("sd_keras.results_card.plots")

WORDS = ("costs", *ANALYSES, "all")
BUILDING_FLAGS = ("stem", "num_classes", "at")  # of a named network only
MAX_ROWS = 16  # of a table that the page shows unfolded

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(finished_run)
flags.DEFINE_string("output", None, "costs: JSON file for the figures; else the folder to write")
flags.DEFINE_string("beside", None, "a second network, as --network (default: the run's baseline)")
flags.DEFINE_list("input_shape", None, "costs: height,width,channels (default: the network's own)")
flags.DEFINE_enum("stem", None, ["cifar", "imagenet"], "of a named network (default: its own)")
flags.DEFINE_integer("num_classes", 100, "of a named network", 2)
flags.DEFINE_list("at", None, "of a named network: layers, shares, or one number of exits")
flags.DEFINE_integer("images", 2000, "most images of the training and of the test split", 2)
flags.DEFINE_integer("draws", 5, "of noise, of pairs of views, of orders of features", 1)
flags.DEFINE_list("deviations", [f"{0.005 * i:g}" for i in range(11)], "of noise on the weights")
flags.DEFINE_bool("relative", False, "noise in units of each kernel's root mean square")
flags.DEFINE_list("severities", ["1", "2", "3", "4", "5"], "of the corruptions")
flags.DEFINE_integer("bins", 15, "of the calibration", 1)
flags.DEFINE_integer("batch_size", 128, "images per batch of gradients", 1)


def main(argv):
    """Runs the app on its words."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow Datasets' messages about reading
    run_app(argv[:1], lambda: run(argv[1:]), TypeError)


def run(words):
    """Counts costs, or runs the analyses of the words."""
    if not words or not set(words) <= set(WORDS) or ("costs" in words and len(words) > 1):
        asked = f"give one word of {', '.join(WORDS)}, or several but costs"
        raise ValueError(f"{asked}. Received: {words}")
    if words == ["costs"]:
        show_costs()
    else:
        analyze([w for w in ANALYSES if w in words or "all" in words])


def show_costs():
    """Counts and prints the costs of the network of the flags."""
    is_name = FLAGS.network in sd_keras.models.MODELS
    network_of_run = finished_run.network_file()
    file = network_of_run if network_of_run.is_file() else FLAGS.network
    is_file = FLAGS.network.endswith(".keras") or pathlib.Path(FLAGS.network).exists()
    if not is_name and not is_file:
        names = ", ".join(sorted(sd_keras.models.MODELS))
        raise ValueError(
            f"`network` must be a .keras file or one of {names}. "
            f"Received: network={FLAGS.network!r}"
        )
    if FLAGS.output and not pathlib.Path(FLAGS.output).parent.is_dir():
        raise ValueError(
            f"`output` must be in a folder that exists. Received: output={FLAGS.output!r}"
        )
    building = [name for name in BUILDING_FLAGS if FLAGS[name].present]
    if building and not is_name:
        raise ValueError(
            f"`{building[0]}` must not be given for a file, which has its own. "
            f"Received: {building[0]}={FLAGS[building[0]].value!r}, network={FLAGS.network!r}"
        )
    if is_name:
        backbone = sd_keras.models.build(FLAGS.network, input_shape(), FLAGS.stem)
        network = sd_keras.attach_exits(backbone, FLAGS.num_classes, at=exits_of_flags())
    else:
        network = checkpoints.load_network(file)
    costs = analysis.costs(network, None if is_name else input_shape())
    print(f"{FLAGS.network}, {', '.join(str(t.shape[1:]) for t in network.inputs)}")
    print(report.costs_table(costs))
    if FLAGS.output:
        checkpoints.write_json(pathlib.Path(FLAGS.output), costs)


def input_shape():
    """Returns the flag as integers; None if it is not set."""
    if FLAGS.input_shape is None:
        return None
    if not all(size.strip().isdigit() for size in FLAGS.input_shape):
        raise ValueError(
            f"`input_shape` must be integers, height,width,channels. "
            f"Received: input_shape={','.join(FLAGS.input_shape)}"
        )
    return tuple(map(int, FLAGS.input_shape))


def exits_of_flags():
    """Returns the flag `at` as `attach_exits` takes it."""
    if not FLAGS.at:
        return FLAGS.at  # None, or no exits
    if len(FLAGS.at) == 1 and FLAGS.at[0].isdigit():
        return int(FLAGS.at[0])
    try:
        return [float(share) for share in FLAGS.at]
    except ValueError:
        return FLAGS.at


def analyze(words):
    """Runs analyses of the trained network of the flags, and writes their results."""
    plots.require()
    folder = finished_run.output_folder("analysis")
    network = finished_run.load_network()
    splits = finished_run.load_splits(network)
    settings = settings_of_flags(splits)
    subjects = load_subjects(network, splits, settings.seed)
    title, about, sections = f"Analysis of {finished_run.name()}", facts(splits, subjects), []
    folder.mkdir(parents=True, exist_ok=True)
    for word in words:
        print(f"{word} …", file=sys.stderr, flush=True)
        sections.append(write(folder, word, ANALYSES[word](subjects, settings)))
        # Each time, so that an interrupted run leaves what is done.
        checkpoints.write_text(folder / "index.html", report.html_page(title, about, sections))
    print(f"written to {folder}: index.html, {', '.join(f'{w}.csv, {w}.png' for w in words)}")


def write(folder, word, result):
    """Writes the CSV and the PNG file of a Result; returns its section of the page."""
    table, image = io.StringIO(), io.BytesIO()
    rows = [[f"{c:.8g}" if isinstance(c, float) else c for c in row] for row in result.rows]
    csv.writer(table, lineterminator="\n").writerows([result.header, *rows])
    result.figure.savefig(image, format="png", dpi=110)
    checkpoints.write_text(folder / f"{word}.csv", table.getvalue())
    checkpoints.write_whole(folder / f"{word}.png", lambda path: path.write_bytes(image.getvalue()))
    return report.Section(
        result.title,
        result.header,
        result.rows,
        result.note,
        images=[(result.title, image.getvalue())],
        is_folded=len(result.rows) > MAX_ROWS,
        anchor=word,
    )


def settings_of_flags(splits):
    """Returns a namespace of flags; its `distortion()` builds the run's distortion."""
    for name, low, high in (("deviations", 0, float("inf")), ("severities", 1, 5)):
        if not all(low <= value <= high for value in numbers(name, float)):
            text = ",".join(FLAGS[name].value)
            limits = "at least 0" if name == "deviations" else "1…5"
            raise ValueError(f"`{name}` must be {limits}. Received: {name}={text!r}")
    trained_with, seed = finished_run.results().get("flags", {}), finished_run.seed()
    names = ("draws", "relative", "bins", "batch_size")
    return types.SimpleNamespace(
        **{name: FLAGS[name].value for name in names},
        deviations=numbers("deviations", float),
        severities=numbers("severities", int),
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
        text = ",".join(FLAGS[name].value)
        raise ValueError(
            f"`{name}` must be numbers, joined by commas. Received: {name}={text!r}"
        ) from None


def load_subjects(network, splits, seed):
    """Returns the network of the flags, and the second one if there is one, with images."""
    for name in ("train", "test"):
        if not len(getattr(splits, name)[0]):
            raise ValueError(f"`dataset` must have {name} images. Received: {splits.name}")
    parts = [
        run_data.drawn(part, FLAGS.images, seed) if len(part[0]) > FLAGS.images else part
        for part in (splits.test, splits.train)
    ]
    method = finished_run.results().get("flags", {}).get("method")
    subjects = [Subject(finished_run.name(), network, method, *parts)]
    second, file = finished_run.load_second("beside", network)
    if second is not None:
        label = finished_run.name(file)
        label += " (second)" if label == subjects[0].label else ""
        subjects.append(Subject(label, second, "baseline", *parts))
    return subjects


def facts(splits, subjects):
    """Returns the dict of texts in the head of the page."""
    counts = [len(part[0]) for part in (subjects[0].train, subjects[0].test)]
    return {
        "data": f"{splits.name}, {counts[0]} training and {counts[1]} test images",
        "beside": subjects[1].label if len(subjects) > 1 else "–",
        "measured with": ", ".join(f"{k} {v}" for k, v in report.versions().items()),
        "command": shlex.join(["python", *sys.argv]),
    }


if __name__ == "__main__":
    app.run(main)
