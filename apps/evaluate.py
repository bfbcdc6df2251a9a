"""Measures every exit of a saved network, and the ensemble, on a data set.

    python apps/evaluate.py --network=runs/digits/network.keras --dataset=digits

Prints accuracy, top-5 accuracy, cross entropy (nats) and expected calibration error (15
bins) on the test images; `--split=validation` or `train` for the others.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

import sd_keras
from sd_keras import analysis, checkpoints, report

FLAGS = flags.FLAGS
flags.DEFINE_string("network", None, "a .keras file with exits", required=True)
flags.DEFINE_string("dataset", "digits", "digits, a TFDS name, folder:PATH or npz:PATH")
flags.DEFINE_string("data_dir", None, "where the prepared TFDS files lie")
flags.DEFINE_integer("image_size", None, "resize images to this height and width")
flags.DEFINE_float("validation", 0.1, "share of the training images held out", 0, 0.9)
flags.DEFINE_integer("seed", 0, "of the validation split", 0)
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "which images")
flags.DEFINE_integer("batch_size", 256, "images per forward pass", 1)
flags.DEFINE_integer("bins", 15, "of the calibration error", 1)
flags.DEFINE_string("output", None, "JSON file for the figures")


def main(argv):
    """Loads network and data, measures, prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags are written --name=value. Received: {argv[1:]}")
    try:
        evaluate()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def evaluate():
    """Measures the network of the flags on the data of the flags."""
    network = checkpoints.load_network(FLAGS.network)
    sd_keras.exit_names(network)  # refuses one without exits
    splits = sd_keras.data.load(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.validation, FLAGS.seed
    )
    part = getattr(splits, FLAGS.split)
    if part is None or not len(part[0]):
        raise ValueError(f"the data set has no such images. Received: split={FLAGS.split!r}")
    classes = network.output["exit_1"].shape[-1]
    if network.input_shape[1:] != splits.input_shape or classes != splits.num_classes:
        raise ValueError(
            f"`dataset` must have images of shape {network.input_shape[1:]} and {classes} "
            f"classes, as the network. Received: {splits.input_shape}, {splits.num_classes}"
        )
    measured = analysis.evaluate_exits(network, *part, FLAGS.batch_size, FLAGS.bins)
    print(f"{FLAGS.network} on {len(part[0])} {FLAGS.split} images of {FLAGS.dataset}")
    print(report.measures_table(measured))
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    app.run(main)
