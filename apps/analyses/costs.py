"""The part of analyze.py that counts costs, also of a network that is not trained yet."""

import pathlib

import finished_run
from absl import flags
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")

FLAGS = flags.FLAGS
flags.DEFINE_list("input_shape", None, "height,width,channels (default: the network's own)")
flags.DEFINE_enum("stem", None, ["cifar", "imagenet"], "of a named network (default: its own)")
flags.DEFINE_integer("num_classes", 100, "of a named network", 2)
flags.DEFINE_list("at", None, "of a named network: layers, shares, or one number of exits")

# Flags that say how a named network is built.
BUILDING_FLAGS = ("stem", "num_classes", "at")


def show_costs():
    """Counts and prints the costs of the network of the flags."""
    is_name = FLAGS.network in sd_keras.models.MODELS
    of_run = finished_run.network_file()
    file = of_run if of_run.is_file() else FLAGS.network
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
    network = named_network() if is_name else checkpoints.load_network(file)
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
