"""Flags of the apps that take a trained network: the network, its run, and the run's data."""

import dataclasses
import pathlib

import app_start
import run_data
from absl import flags
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
thresholds = lazy_import("sd_keras.inference.thresholds")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "network", None, "a .keras file with exits, or a workdir with network.keras", required=True
)
flags.DEFINE_string(
    "dataset", "digits", "digits, a TFDS name, folder:PATH or npz:PATH; those of the run by default"
)
flags.DEFINE_string("data_dir", None, "where the prepared TFDS files lie")
flags.DEFINE_integer("image_size", None, "resize images to this height and width")
flags.DEFINE_float(
    "validation", 0.1, "share of the training images held out, by default as in the run", 0, 0.9
)
flags.DEFINE_integer("seed", 0, "of the validation split; that of the run by default", 0)
# As `sd_keras.inference.RULES`, which is not imported before flags are parsed.
RULES = ("max_probability", "entropy", "margin", "agreement")
# In the order of the arguments of `data.load`.
DATA_FLAGS = ("dataset", "data_dir", "image_size", "validation", "seed")
MEASURES = ("accuracy", "top_5", "cross_entropy", "calibration_error")


NUMBER = (int, float)
# Types of entries of results.json, and of the flags in it.
RESULTS = {"flags": dict, "versions": dict, "measured": dict, "seconds": (*NUMBER, type(None))}
RECORDED_FLAGS = {
    **dict.fromkeys(("dataset", "model", "method"), str),
    **dict.fromkeys(("validation", "fraction"), NUMBER),
    **dict.fromkeys(("seed", "epochs"), int),
    **dict.fromkeys(("image_size", "padding", "flip"), (int, type(None))),
    "data_dir": (str, type(None)),
    "distortion": (list, type(None)),
}


def network_file():
    """Returns the path of the `.keras` file that the flag stands for."""
    return app_start.network_file(FLAGS.network)


def output_folder(default_name):
    """Returns the folder of the flag `output`, by default one next to the network."""
    folder = pathlib.Path(FLAGS.output or network_file().parent / default_name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={str(folder)!r}")
    return folder


def load_network():
    """Loads the network of the flags; raises an error if there is none, or it has no exits."""
    file = network_file()
    if file.is_file() and file.suffix != ".keras":
        raise ValueError(
            "`network` must be a .keras file or the workdir of a run. "
            f"Received: network={FLAGS.network!r}"
        )
    network = checkpoints.load_network(file)
    sd_keras.exit_names(network)
    return network


def load_second(flag, network):
    """Loads the network of a flag, by default the run's plain baseline, and checks that it fits.

    Returns the network and its file, or `(None, None)` without one.
    """
    plain = network_file().parent / "baseline/network.keras"
    file = app_start.network_file(FLAGS[flag].value or plain)
    if not FLAGS[flag].value and not file.is_file():
        return None, None
    second = checkpoints.load_network(file)
    try:
        sd_keras.exit_names(second)
    except ValueError as error:
        raise ValueError(str(error).replace("`network`", f"`{flag}`")) from None
    classes = [each.output[sd_keras.exit_names(each)[-1]].shape[-1] for each in (second, network)]
    if second.input_shape != network.input_shape or classes[0] != classes[1]:
        raise ValueError(
            f"`{flag}` must take the images and know the classes of `network`. "
            f"Received: {second.input_shape[1:]}, {classes[0]}"
        )
    return second, file


def results():
    """Returns what the run wrote into results.json next to its network.keras, or {}."""
    file = network_file()
    path = file.with_name("results.json")
    if file.name != "network.keras" or not path.is_file():
        return {}
    content = checkpoints.read_json(path)
    _check_entries(path, content, RESULTS)
    _check_entries(path, content.get("flags", {}), RECORDED_FLAGS)
    measured = content.get("measured", {})  # by exit, or by split and exit
    if not _are_figures(measured) and not all(map(_are_figures, measured.values())):
        raise ValueError(f"{path} must hold figures by exit. Received: {measured}")
    return content


def _check_entries(path, entries, types):
    for name, kind in types.items():
        if name in entries and not isinstance(entries[name], kind):
            raise ValueError(
                f"{path} must hold what a run writes. Received: {name}={entries[name]!r}"
            )


def _are_figures(parts):
    return isinstance(parts, dict) and all(
        isinstance(part, dict) and all(isinstance(part.get(m), NUMBER) for m in MEASURES)
        for part in parts.values()
    )


def data_settings(only_test=False):
    """Returns the arguments of `data.load`: the flags', and the run's where these are not given.

    Raises ValueError for a validation split that holds out images which the run trained on,
    unless only images of the test split matter.
    """
    trained_with = results().get("flags", {})
    settings = {name: FLAGS[name].value for name in DATA_FLAGS}
    given = {name for name in DATA_FLAGS if FLAGS[name].present}
    # Another data set is not divided as that of the run was.
    if "dataset" in given and FLAGS.dataset != trained_with.get("dataset"):
        return settings
    for name in () if only_test else ("validation", "seed"):
        if name in given and settings[name] != trained_with.get(name, settings[name]):
            raise ValueError(
                f"`{name}` must be {trained_with[name]}, as in the run, or not be given: another "
                "split holds out images that the network was trained on. "
                f"Received: {name}={settings[name]}"
            )
    own = settings.keys() - given
    return settings | {name: value for name, value in trained_with.items() if name in own}


def seed():
    """Returns the seed of the validation split, by which all else is drawn too."""
    return data_settings(only_test=True)["seed"]


def load_splits(network, only_test=False):
    """Loads the data of the flags; what these leave open is as it was in training.

    Of the training images those that the run had, where it had a part of them.
    """
    settings = data_settings(only_test)
    splits = sd_keras.data.load(*settings.values())
    own = results().get("flags", {})
    fraction = own.get("fraction", 1.0)
    if fraction < 1 and settings["dataset"] == own.get("dataset"):
        train = run_data.part_of(splits.train, fraction, settings["seed"])
        splits = dataclasses.replace(splits, train=train)
    classes = network.output[sd_keras.exit_names(network)[-1]].shape[-1]
    if network.input_shape[1:] != splits.input_shape or classes != splits.num_classes:
        raise ValueError(
            f"`dataset` must have images of shape {network.input_shape[1:]} and {classes} "
            f"classes, as the network. Received: {splits.input_shape}, {splits.num_classes}"
        )
    return splits


def name(file=None):
    """Returns the name of a network's file, by default the run's: its folder's or its own."""
    file = (file or network_file()).resolve()
    return file.parent.name if file.name == "network.keras" else file.stem


def read_policy(path):
    """Reads what apps/evaluate.py --policy wrote."""
    try:
        return sd_keras.inference.Policy.from_dict(checkpoints.read_json(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`policy` must be a file that apps/evaluate.py --policy wrote ({error}). "
            f"Received: policy={str(path)!r}"
        ) from None


def choose_thresholds(logits, validation, costs, max_drop, max_cost=None):
    """Chooses the thresholds of the flags `early_exit`, `calibrate` and `confidence_level`.

    Returns what `inference.choose_thresholds` returns, and a line on why no image leaves, or None.
    """
    labels, inference = validation[1], sd_keras.inference
    chosen = inference.choose_thresholds(
        logits,
        labels,
        costs,
        FLAGS.early_exit,
        max_drop=max_drop,
        max_cost=max_cost,
        temperatures=inference.fit_temperatures(logits, labels) if FLAGS.calibrate else None,
        confidence_level=FLAGS.confidence_level,
        seed=seed(),
    )
    promise = [max_drop], FLAGS.confidence_level, len(labels)
    return chosen, thresholds.explain_no_early_exit([chosen.shares], *promise)
