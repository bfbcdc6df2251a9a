"""Measures every exit of a saved network, and the ensemble, on a data set.

    python apps/evaluate.py --network=runs/digits/network.keras --dataset=digits

Prints accuracy, top-5 accuracy, cross entropy (nats) and expected calibration error (15
bins) on the test images; `--split=validation` or `train` for the others.

    python apps/evaluate.py --network=… --dataset=… --early_exit=max_probability --max_drop=0.01

chooses on the validation images (`--validation` and `--seed` are those of a run with results.json)
the thresholds by which images leave early, writes them with `--policy=FILE`, and shows what
they come to on the test images (docs/inference.md).
"""

import dataclasses
import json
import os
import pathlib

import finished_run
from absl import app, flags
from app_start import lazy_import, run_app

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
checkpoints = lazy_import("sd_keras.checkpoints")
inference = lazy_import("sd_keras.inference")
compiled = lazy_import("sd_keras.inference.compiled")
report = lazy_import("sd_keras.report")
thresholds = lazy_import("sd_keras.inference.thresholds")

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(finished_run)
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "which images")
flags.DEFINE_integer("batch_size", 256, "images per forward pass", 1)
flags.DEFINE_integer("bins", 15, "of the calibration error", 1)
flags.DEFINE_string("output", None, "JSON file for the figures")
flags.DEFINE_enum("early_exit", None, finished_run.RULES, "rule by which images leave early")
flags.DEFINE_float("max_drop", None, "of the accuracy; 0.01, one point, unless --max_macs is given")
flags.DEFINE_float("max_macs", None, "average multiply-accumulates, in millions", 0)
flags.DEFINE_float("confidence_level", 0.95, "how surely that holds on new images; 0: as it comes")
flags.DEFINE_bool("calibrate", False, "fit a temperature per exit to the validation images")
flags.DEFINE_string("policy", None, "JSON file for the thresholds")
# Flags that say nothing without --early_exit.
EARLY_EXIT_FLAGS = ("max_drop", "max_macs", "calibrate", "policy")


def main(argv):
    """Loads network and data, measures, prints."""
    run_app(argv, evaluate)


def evaluate():
    """Measures the network of the flags on the data of the flags."""
    check_flags()
    network = finished_run.load_network()
    splits = finished_run.load_splits(network, FLAGS.split == "test" and not FLAGS.early_exit)
    part = getattr(splits, FLAGS.split)
    if part is None or not len(part[0]):
        raise ValueError(f"the data set has no such images. Received: split={FLAGS.split!r}")
    check_early_exit(splits)
    measured = analysis.evaluate_exits(network, *part, FLAGS.batch_size, FLAGS.bins)
    print(f"{FLAGS.network} on {len(part[0])} {FLAGS.split} images of {splits.name}")
    print(report.measures_table(measured))
    if FLAGS.early_exit:
        measured["early_exit"] = evaluate_early_exit(network, splits.validation, part)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(json.dumps(measured, indent=1))


def check_flags():
    """Raises ValueError for flags that do not fit together, or have values that will not do."""
    alone = [name for name in EARLY_EXIT_FLAGS if FLAGS[name].present]
    if not FLAGS.early_exit and alone:
        raise ValueError(f"`early_exit` must be given with these flags. Received: {alone}")
    thresholds.check_promise(max_drop(), FLAGS.max_macs, FLAGS.confidence_level)
    for name in ("policy", "output"):
        if not FLAGS[name].value:
            continue
        path = pathlib.Path(FLAGS[name].value)
        folder = path.absolute().parent
        if not folder.is_dir() or path.is_dir():
            raise ValueError(f"`{name}` must be a file in a folder. Received: {name}={str(path)!r}")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise ValueError(f"`{name}` must be writable. Received: {name}={str(path)!r}")


def max_drop():
    """Returns the drop of the flags, 0.01 where neither it nor a cost is given."""
    return 0.01 if FLAGS.max_drop is None and FLAGS.max_macs is None else FLAGS.max_drop


def check_early_exit(splits):
    """Raises ValueError where flags of early exit do not fit to the data."""
    if FLAGS.early_exit and (splits.validation is None or not len(splits.validation[0])):
        raise ValueError(
            "`validation` must be a share that leaves images to choose thresholds on. "
            f"Received: validation={FLAGS.validation}"
        )
    if FLAGS.early_exit and FLAGS.split != "test":
        raise ValueError(
            "`split` must be 'test', as thresholds are chosen on the validation images. "
            f"Received: split={FLAGS.split!r}"
        )


def evaluate_early_exit(network, validation, test):
    """Chooses thresholds on one split, measures them on the other; returns what JSON can hold."""
    logits, test_logits = (
        compiled.predict(network, images, FLAGS.batch_size) for images, _ in (validation, test)
    )
    costs = inference.path_costs(network)
    max_cost = None if FLAGS.max_macs is None else 1e6 * FLAGS.max_macs
    chosen, why_none_leaves = finished_run.choose_thresholds(
        logits, validation, costs, max_drop(), max_cost
    )
    outcomes = {
        "validation": chosen,
        "test": inference.measure(test_logits, test[1], costs, chosen.policy),
    }
    plain = analysis.costs(network)[sd_keras.exit_names(network)[-1]]["macs"]
    print(f"\nleaving early by {FLAGS.early_exit}; the plain network: {plain / 1e6:.2f} M MACs")
    print(report.early_exit_table(outcomes, plain))
    policy = chosen.policy.to_dict()
    print(f"thresholds: {policy['thresholds']}")
    if why_none_leaves:
        print(why_none_leaves)
    if FLAGS.policy:
        checkpoints.write_json(pathlib.Path(FLAGS.policy), policy)
    return {
        split: dataclasses.asdict(outcome) | {"policy": policy}
        for split, outcome in outcomes.items()
    }


if __name__ == "__main__":
    app.run(main)
