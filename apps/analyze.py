"""Tells what a network costs at each exit, before or after it is trained.

    python apps/analyze.py costs --network=resnet18                 # a name of MODELS
    python apps/analyze.py costs --network=resnet50 --stem=imagenet --num_classes=1000
    python apps/analyze.py costs --network=runs/digits/network.keras --output=costs.json

Prints, for one image and for each exit with its own bottleneck and no other's: parameters,
moving statistics, multiply-accumulates and FLOPs (two each), the elements that convolutions
and Dense layers put out, the memory of all tensors alive at the worst moment, and how many
times fewer multiply-accumulates than the deepest exit takes. Any functional .keras model will
do; one without exits has one row. Takes a few seconds.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

import sd_keras
from sd_keras import analysis, checkpoints, report

WORDS = ("costs",)

FLAGS = flags.FLAGS
flags.DEFINE_string("network", None, "a .keras file, or a name of sd_keras.models.MODELS")
flags.mark_flag_as_required("network")
flags.DEFINE_list("input_shape", None, "height,width,channels (default: the network's own)")
flags.DEFINE_enum("stem", None, ["cifar", "imagenet"], "of a named network (default: its own)")
flags.DEFINE_integer("num_classes", 100, "of a named network", 2)
flags.DEFINE_list("at", None, "of a named network: layers, shares, or one number of exits")
flags.DEFINE_string("output", None, "JSON file for the figures")

# Flags that say how a named network is built.
BUILDING_FLAGS = ("stem", "num_classes", "at")


def main(argv):
    """Prints what the word asks for."""
    if argv[1:] != list(WORDS):
        print(f"error: give one word of {', '.join(WORDS)}. Received: {argv[1:]}", file=sys.stderr)
        sys.exit(1)
    try:
        show_costs()
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def show_costs():
    """Counts and prints the costs of the network of the flags."""
    is_name = FLAGS.network in sd_keras.models.MODELS
    is_file = FLAGS.network.endswith(".keras") or pathlib.Path(FLAGS.network).exists()
    if not is_name and not is_file:
        raise ValueError(
            f"`network` must be a .keras file or one of {', '.join(sd_keras.models.MODELS)}. "
            f"Received: network={FLAGS.network!r}"
        )
    if FLAGS.output and not pathlib.Path(FLAGS.output).parent.is_dir():
        raise ValueError(
            f"`output` must be in a folder that exists. Received: output={FLAGS.output!r}"
        )
    given = [name for name in BUILDING_FLAGS if FLAGS[name].present]
    if given and not is_name:
        raise ValueError(
            f"`{given[0]}` must not be given for a file, which has its own. "
            f"Received: {given[0]}={FLAGS[given[0]].value!r}, network={FLAGS.network!r}"
        )
    network = named_network() if is_name else checkpoints.load_network(FLAGS.network)
    costs = analysis.costs(network, None if is_name else input_shape())
    print(f"{FLAGS.network}, {', '.join(str(t.shape[1:]) for t in network.inputs)}")
    print(report.costs_table(costs))
    if FLAGS.output:
        checkpoints.write_json(pathlib.Path(FLAGS.output), costs)


def input_shape():
    """Returns the flag as integers; None if it is not given."""
    if FLAGS.input_shape is None:
        return None
    if not all(size.strip().isdigit() for size in FLAGS.input_shape):
        raise ValueError(
            f"`input_shape` must be integers, height,width,channels. "
            f"Received: input_shape={','.join(FLAGS.input_shape)}"
        )
    return tuple(map(int, FLAGS.input_shape))


def places():
    """Returns the flag `at` as `attach_exits` takes it."""
    if not FLAGS.at:
        return FLAGS.at  # None, or no exits
    if len(FLAGS.at) == 1 and FLAGS.at[0].isdigit():
        return int(FLAGS.at[0])
    try:
        return [float(place) for place in FLAGS.at]
    except ValueError:
        return FLAGS.at


def named_network():
    """Builds the network of the flags."""
    backbone = sd_keras.models.build(FLAGS.network, input_shape(), FLAGS.stem)
    return sd_keras.attach_exits(backbone, FLAGS.num_classes, at=places())


if __name__ == "__main__":
    app.run(main)
