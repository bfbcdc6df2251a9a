"""Measures a trained network and writes its results card: card.md, card.html, card.json.

    python apps/card.py --network=runs/digits
    python apps/card.py --network=runs/digits --artifact=saved_models/digits/1
    python apps/card.py --network=FILE --dataset=npz:PATH --baseline=PLAIN --output=FOLDER

Where `--network` is the workdir of a run, its results.json holds data, method and validation
split, and the plain network of `train_cifar.py --compare` is measured too. Thresholds and
temperatures are fitted on the validation images, all figures are measured on the test images.
Times are of this machine, of the Keras network or of an exported SavedModel or .tflite file.
card.html is one file that loads nothing; its plots need `pip install '.[plots]'`. Digits take
20 s on two cores.
"""

import pathlib
import shlex
import sys

import finished_run
from absl import app, flags
from app_start import lazy_import, quiet_native_stderr, run_app
from machine import machine

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")
results_card = lazy_import("sd_keras.results_card")
thresholds = lazy_import("sd_keras.inference.thresholds")

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(finished_run)
flags.DEFINE_string("baseline", None, "a plain network, as --network; of the run by default")
flags.DEFINE_string("artifact", None, "SavedModel or .tflite file to time instead of Keras")
flags.DEFINE_string("output", None, "folder for the card (default: card, in the network's folder)")
flags.DEFINE_string("title", None, "of the card (default: name of the network's folder)")
flags.DEFINE_string("hardware", None, "what the network was trained on, for the card's head")
flags.DEFINE_enum("early_exit", "max_probability", finished_run.RULES, "rule of early exit")
flags.DEFINE_float("confidence_level", 0.95, "how surely drops are kept on new images; 0: no")
flags.DEFINE_string("policy", None, "thresholds that apps/evaluate.py --policy wrote, measured too")
flags.DEFINE_integer("rounds", 15, "calls of which a time is the median; 0 for no times", 0)
flags.DEFINE_integer("batch_size", 256, "images per forward pass", 1)
flags.DEFINE_integer("bins", 15, "of the calibration error", 1)


def main(argv):
    """Measures and writes."""
    run_app(argv, run)


def run():
    """Measures the network of the flags and writes its card."""
    thresholds.check_promise(0.0, None, FLAGS.confidence_level)
    network = finished_run.load_network()
    folder = finished_run.output_folder("card")
    policy = FLAGS.policy and finished_run.read_policy(FLAGS.policy)
    plain, _ = finished_run.load_second("baseline", network)
    check_artifact()
    splits = finished_run.load_splits(network)
    settings = {"batch_size": FLAGS.batch_size, "bins": FLAGS.bins, "seed": finished_run.seed()}
    settings |= {"rule": FLAGS.early_exit, "confidence_level": FLAGS.confidence_level or None}
    sets = (splits.validation, splits.test)
    times = FLAGS.rounds and latency(network, plain, splits.test[0][:32])
    card = results_card.figures(network, *sets, plain, policy=policy, **settings)
    card["title"] = FLAGS.title or finished_run.name()
    card["about"] = about(splits)
    if times:
        card["latency"] = times
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"card.md": results_card.as_markdown(card), "card.html": results_card.as_html(card)}
    for name, text in texts.items():
        checkpoints.write_text(folder / name, text)
    checkpoints.write_json(folder / "card.json", card)
    print(texts["card.md"])
    print_none_leaves(card)
    if not results_card.has_plots():
        print(f"card.html has no plots: {results_card.PLOTS_MISSING}")
    print(f"written to {folder}: card.html, card.json, card.md")


def print_none_leaves(card):
    """Prints a line where the images are too few to promise a drop."""
    points = card["early_exit"]["points"] if card["early_exit"] else []
    promised = [point for point in points if point["confidence_level"]]
    columns = [[point[key] for point in promised] for key in ("shares", "max_drop")]
    promise = FLAGS.confidence_level, card["images"]["validation"]
    if line := thresholds.explain_no_early_exit(*columns, *promise):
        print(line)


def check_artifact():
    """Raises ValueError unless the artifact can be timed."""
    if FLAGS.artifact is None:
        return
    path = pathlib.Path(FLAGS.artifact)
    is_lite = path.suffix == ".tflite" and path.is_file()
    if not is_lite and not (path / "saved_model.pb").is_file():
        raise ValueError(
            "`artifact` must be the folder of a SavedModel or a .tflite file. "
            f"Received: artifact={FLAGS.artifact!r}"
        )


def latency(network, plain, images):
    """Times the artifact of the flags, an export of the network, or else the Keras networks."""
    if FLAGS.artifact is None:
        return results_card.keras_latencies(network, images, plain, rounds=FLAGS.rounds)
    is_file, path = FLAGS.artifact.endswith(".tflite"), pathlib.Path(FLAGS.artifact).resolve()
    measure = results_card.lite_latencies if is_file else results_card.saved_model_latencies
    try:
        with quiet_native_stderr():
            times = measure(FLAGS.artifact, images, rounds=FLAGS.rounds, network=network)
    except ValueError as error:
        raise ValueError(f"`artifact` does not fit: {error}") from None
    name = path.name if is_file else "/".join(path.parts[-2:])
    times["source"] += f": {name}; accuracy, MACs and parameters are the Keras network's"
    return times


def about(splits):
    """Returns the dict of texts in the head of the card."""
    results = finished_run.results()
    trained = results.get("flags", {})
    hardware, split = machine(), finished_run.data_settings()
    seconds = results.get("seconds")
    return {
        "model": trained.get("model"),
        "data": f"{splits.name}: {splits.num_classes} classes, {splits.input_shape}",
        "method": trained.get("method"),
        "epochs": trained.get("epochs"),
        "seed": trained.get("seed"),
        "validation split": f"share {split['validation']:g}, seed {split['seed']}",
        "trained on": FLAGS.hardware,
        "trained in": seconds and report.duration(seconds),
        "trained with": _named(results.get("versions", {})),
        "timed on": "{processor}, {cores} cores, {system}".format_map(hardware),
        "measured with": _named(report.versions()),
        "command": shlex.join(["python", *sys.argv]),
    }


def _named(versions):
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    app.run(main)
