"""Carries out the papers' tables by name, whole or scaled down, and compares.

    python apps/reproduce.py --list [--costs]                       # tables and their rows
    python apps/reproduce.py --table=byot/1 --row=ResNet18 --seeds=3 --data_dir=DIR
    python apps/reproduce.py --table=byot/ablation --protocol=cpu --data_dir=DIR
    python apps/reproduce.py --table=byot/3 --dry_run               # commands, costs, states
    python apps/reproduce.py --collect                              # all runs as one page

A row's runs are commands of apps/train_cifar.py or apps/train_imagenet.py, each in a folder
named by its settings, so that tables share them; they are printed and can be carried out alone.
Rerun the same command to resume. The last epoch is measured on the test images, and nothing is
chosen on these. docs/reproduction.md lists what each row costs.
"""

import dataclasses
import pathlib
import re
import signal
import sys

from absl import app, flags
from app_start import lazy_import, run_app
from reproduction.page import collect
from reproduction.runs import Scale
from reproduction.steps import analysed, carry_out, listed, planned, runs_of, show_row
from reproduction.tables import choose, tables

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")

# For two cores: a run takes a few minutes at most. Flags that are set override these.
SMALL = {
    **{"model": "resnet8", "epochs": 10, "fraction": 0.1, "batch_size": 64},
    **{"teacher_model": "resnet20", "peer_model": "resnet20", "precision": "mixed_bfloat16"},
}
PROTOCOLS = {"cpu": SMALL, "cpu_longer": SMALL | {"epochs": 15, "fraction": 0.2}}
FLAGS = flags.FLAGS
flags.DEFINE_string("table", None, "name of a table; --list shows all")
flags.DEFINE_string("row", None, "name of a row (default: all)")
flags.DEFINE_integer("seeds", 3, "runs of everything, with the seeds 0, 1, …", 1)
flags.DEFINE_string("output", "runs/reproduce", "folder of all runs, which are resumed")
flags.DEFINE_string("data_dir", None, "folder of the prepared TFDS files")
flags.DEFINE_enum("protocol", None, list(PROTOCOLS), "settings by name that scale down")
flags.DEFINE_integer("epochs", None, "scale down: epochs in place of the recipe's", 1)
flags.DEFINE_integer("batch_size", None, "in place of the recipe's", 1)
flags.DEFINE_float("fraction", 1.0, "scale down: share of the training images", 0.001, 1)
flags.DEFINE_string("model", None, "scale down: network in place of the row's")
flags.DEFINE_string("teacher_model", None, "scale down: in place of the row's teacher")
flags.DEFINE_string("peer_model", None, "scale down: in place of the row's peer")
flags.DEFINE_string("dataset", None, "in place of the row's: another TFDS name, npz:PATH, digits")
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Keras dtype policy"
)
flags.DEFINE_bool("on_device", False, "keep small images on the device, as train_cifar.py does")
flags.DEFINE_float(
    "minutes", None, "end after this with exit code 75; rerun the same command to resume", 0
)
flags.DEFINE_bool("dry_run", False, "show commands, costs and states, and do nothing")
flags.DEFINE_bool("list", False, "show the tables and their rows, and do nothing")
flags.DEFINE_bool("costs", False, "with --list: what each row costs; takes a minute")
flags.DEFINE_bool("collect", False, "write index.md and index.html of all runs of the output")


def main(argv):
    """Runs the app."""
    # A run must not outlive this process; `subprocess` ends it when an exception passes.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    run_app(argv, run, resumable=True)


def run():
    """Lists tables, collects runs, or carries out a table."""
    output = pathlib.Path(FLAGS.output)
    if FLAGS.list:
        print(listed(tables(), FLAGS.costs, scale_of_flags()))
    elif FLAGS.collect:
        count = collect(output)
        print(f"{count} runs; written to {output}: index.html, index.md")
    else:
        sys.exit(reproduce(output))


def scale_of_flags():
    """Returns the `Scale` that the flags ask for."""
    protocol = PROTOCOLS.get(FLAGS.protocol, {})
    values = {field.name: FLAGS[field.name].value for field in dataclasses.fields(Scale)}
    values |= {name: value for name, value in protocol.items() if not FLAGS[name].present}
    for name in ("model", "teacher_model", "peer_model"):
        if values[name] is not None and values[name] not in sd_keras.models.MODELS:
            raise ValueError(
                f"`{name}` must be one of {', '.join(sorted(sd_keras.models.MODELS))}. "
                f"Received: {name}={values[name]!r}"
            )
    return Scale(**values)


def reproduce(output):
    """Carries out rows of a table and shows them; returns the code to exit with."""
    if FLAGS.table is None:
        known = ", ".join(tables())
        raise ValueError(f"`table` must be one of {known}. Received: table=None")
    table, rows = choose(FLAGS.table, FLAGS.row)
    scale, seeds = scale_of_flags(), range(FLAGS.seeds)
    if scale.model and len(rows) > 1:
        names = ", ".join(row.name for row in rows)
        raise ValueError(f"`row` must be one of {names} with `model`. Received: row=None")
    runs = runs_of(rows, scale, seeds)
    if FLAGS.dry_run:
        print(planned(runs, scale, output))
        return 0
    failed, is_over = carry_out(runs, scale, output, FLAGS.minutes)
    for row in () if is_over else rows:
        failed += analysed(row, scale, seeds, output)
    sections = []
    for row in rows:
        sections += show_row(FLAGS.table, table, row, scale, seeds, output)
    (output / "tables").mkdir(parents=True, exist_ok=True)
    words = [FLAGS.table, FLAGS.row or "all", scale.told()]
    words += [scale.precision] if scale.precision != "float32" else []
    name = "-".join(re.sub(r"[^\w.=]+", "_", word) for word in words if word)
    checkpoints.write_json(output / f"tables/{name}.json", {"sections": sections})
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)
    if is_over:
        print("out of time; rerun the same command to resume", file=sys.stderr)
    if failed:
        return 1  # not PREEMPTED: a script that reruns on it would not end
    return sd_keras.callbacks.PREEMPTED if is_over else 0


if __name__ == "__main__":
    app.run(main)
