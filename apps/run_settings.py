"""Flags that the training apps share: method, teacher and peer; and what is saved of all flags."""

import inspect
import math
import pathlib
import sys

from absl import flags
from app_start import lazy_import, network_file

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
maps = lazy_import("sd_keras.models.maps")
schedules = lazy_import("sd_keras.schedules")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "method",
    "be_your_own_teacher+data_distortion",
    "names of sd_keras.methods.METHODS, joined by +",
)
flags.DEFINE_float("alpha", None, "weight of what is distilled, beside 1 − alpha of labels", 0, 1)
flags.DEFINE_float("label_weight", None, "deep_supervision: of the shallow exits' labels", 0)
flags.DEFINE_float("hint_weight", None, "be_your_own_teacher, fitnet: weight of the hint", 0)
flags.DEFINE_float("kl_weight", None, "data_distortion: weight of the KL between views", 0)
flags.DEFINE_float("mmd_weight", None, "data_distortion: weight of the discrepancy", 0)
flags.DEFINE_string("discrepancy", None, "data_distortion: how features of views are compared")
flags.DEFINE_float("weight", None, "of the one term of a method that has one", 0)
flags.DEFINE_float("epsilon", None, "label_smoothing: probability spread over all classes", 0, 1)
flags.DEFINE_float("share", None, "progressive: of the own earlier answers, at the end", 0, 1)
flags.DEFINE_float("temperature", None, "temperature of every KL (default: the papers')", 1e-3)
flags.DEFINE_enum("temperature_scaling", None, ["none", "T", "T2"], "factor of every KL")
flags.DEFINE_float(
    "ramp",
    None,
    "share of the run over which alpha and the weights given or known rise from 0",
    0,
    1,
)
flags.DEFINE_integer("deepest_last", None, "last epochs that train the deepest exit alone", 1)
flags.DEFINE_integer("alternating", None, "steps of all terms, then of the labels alone, …", 1)
flags.DEFINE_float(
    "balanced", None, "length of each term's gradient, as a share of the labels'", 1e-6
)
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Keras dtype policy"
)
flags.DEFINE_integer("seed", 0, "of weights, order, draws and validation split", 0, 2**32 - 1)
flags.DEFINE_string(
    "teacher", None, "a .keras file, the workdir of a run, or a name of MODELS to train first"
)
flags.DEFINE_string("peer", None, "a name of MODELS: the network that learns together with it")
# The methods that need one.
LEARNING_FROM = {
    "teacher": ("knowledge_distillation", "fitnet", "attention_transfer"),
    "peer": ("deep_mutual_learning",),
}
# From flags to arguments of methods, where these have the same name and where not.
ARGUMENTS = {
    **{name: name for name in ("alpha", "label_weight", "hint_weight", "kl_weight", "mmd_weight")},
    **{name: name for name in ("discrepancy", "weight", "epsilon", "share", "temperature")},
    "temperature_scaling": "scaling",
}
RAMPED = ("alpha", "hint_weight", "kl_weight", "mmd_weight", "weight", "epsilon")


def build_method(name, epochs=None, steps=None):
    """Builds a method with the flags that it takes; None leaves the paper's default.

    Only the method of the flags must take every flag. Flags that say when something happens need
    the epochs of the run and the steps of an epoch.
    """
    total = epochs * steps if epochs and steps else None
    methods = sd_keras.methods.METHODS
    named = [part for part in name.split("+") if part in methods]
    taken = {part: inspect.signature(methods[part]).parameters for part in named}
    given = {flag: FLAGS[flag].value for flag in ARGUMENTS if FLAGS[flag].value is not None}
    own = len(named) == len(name.split("+")) and name == FLAGS.method
    for flag in given if own else ():
        if not any(ARGUMENTS[flag] in parameters for parameters in taken.values()):
            raise ValueError(
                f"`{flag}` must be given for a method that takes it, not for {name}. "
                f"Received: {flag}={given[flag]!r}"
            )
    arguments, rises = {}, False
    chosen = {ARGUMENTS[flag]: value for flag, value in given.items()}
    for part, parameters in taken.items():
        arguments[part] = {key: value for key, value in chosen.items() if key in parameters}
        if "steps" in parameters:
            arguments[part]["steps"] = require_steps("method", FLAGS.method, total)
        if FLAGS.ramp and own:
            rising = ramp_weights(parameters, arguments[part], total)
            arguments[part] |= rising
            rises = rises or bool(rising)
    if FLAGS.ramp and own and not rises:
        raise ValueError(
            f"`ramp` must be given for a method with a weight that can rise, of {RAMPED}, not for "
            f"{name}. Received: ramp={FLAGS.ramp!r}"
        )
    method = sd_keras.methods.get(name, **arguments)
    return apply_variations(method, epochs, steps) if own else method


def require_steps(flag, value, steps):
    """Returns the steps, where the app knows them."""
    if steps is None:
        raise ValueError(
            f"`{flag}` must be left to apps/train_cifar.py, which knows its steps beforehand. "
            f"Received: {flag}={value!r}"
        )
    return steps


def ramp_weights(parameters, given, total):
    """Returns the weights of a method as schedules that rise from 0."""
    steps = max(1, round(FLAGS.ramp * require_steps("ramp", FLAGS.ramp, total)))
    weights = {name: parameters[name].default for name in RAMPED if name in parameters} | given
    if "mmd_weight" in weights and weights["mmd_weight"] is None:
        kind = sd_keras.methods.DISCREPANCIES.get(given.get("discrepancy", "mmd"))
        weights["mmd_weight"] = kind and kind().weight  # an unknown one is refused further on
    return {
        name: schedules.WarmUp(weights[name], steps)
        for name in RAMPED
        if name in parameters and weights[name]
    }


def apply_variations(method, epochs, steps):
    """Returns the method with what the flags say about when and how much a term counts."""
    change = sd_keras.methods
    if FLAGS.alternating:
        method = change.alternating(method, FLAGS.alternating)
    if FLAGS.deepest_last:  # after the turns, which would switch the others on again
        require_steps("deepest_last", FLAGS.deepest_last, epochs and steps)
        if FLAGS.deepest_last >= epochs:
            raise ValueError(
                f"`deepest_last` must be below the {epochs} epochs of the run. "
                f"Received: deepest_last={FLAGS.deepest_last}"
            )
        method = change.deepest_last(method, (epochs - FLAGS.deepest_last) * steps)
    return change.balanced(method, FLAGS.balanced) if FLAGS.balanced else method


def check_networks(trains=True):
    """Raises ValueError where teacher and peer do not go with the method, or cannot be had.

    `trains` is whether the app trains a teacher of which the flag gives a name only.
    """
    for flag, methods in LEARNING_FROM.items():
        needed = [name for name in FLAGS.method.split("+") if name in methods]
        if bool(needed) != bool(FLAGS[flag].value):
            which = (
                f"be given for {needed[0]}" if needed else f"go with one of {', '.join(methods)}"
            )
            raise ValueError(f"`{flag}` must {which}. Received: {flag}={FLAGS[flag].value!r}")
    if not trains and "class_wise" in FLAGS.method.split("+"):
        raise ValueError(
            "`method` class_wise must be left to apps/train_cifar.py, which makes pairs of a "
            f"class. Received: method={FLAGS.method!r}"
        )
    models = sd_keras.models.MODELS
    if FLAGS.peer and FLAGS.peer not in models:
        raise ValueError(f"`peer` must be one of {sorted(models)}. Received: peer={FLAGS.peer!r}")
    named = trains and FLAGS.teacher in models
    if FLAGS.teacher and not named and not network_file(FLAGS.teacher).is_file():
        names = f", or one of {sorted(models)}" if trains else ""
        raise ValueError(
            f"`teacher` must be a .keras file or the workdir of a finished run{names}. "
            f"Received: teacher={FLAGS.teacher!r}"
        )


def teacher_to_train():
    """Returns the name of the network that is to be trained first, or None."""
    return FLAGS.teacher if FLAGS.teacher in sd_keras.models.MODELS else None


def load_teacher(input_shape, num_classes, file=None):
    """Loads the teacher of a file, by default of the flag, which must fit the student's data."""
    file = file or network_file(FLAGS.teacher)
    try:
        teacher = checkpoints.load_network(file)
    except (ValueError, OSError) as error:
        message = str(error).replace("`network`", "`teacher`").replace("network=", "teacher=")
        raise ValueError(message) from None
    classes = maps.logits_of(teacher, "teacher").shape[-1]
    if teacher.input_shape[1:] != tuple(input_shape) or classes != num_classes:
        raise ValueError(
            f"`teacher` must take images of shape {tuple(input_shape)} and know {num_classes} "
            f"classes. Received: teacher={str(file)!r} of {teacher.input_shape[1:]}, {classes}"
        )
    return teacher


def settings_of_run(free):
    """Returns the flags of the app that say what is trained.

    `free` names those that say how, and may change when a run is resumed. Raises ValueError for a
    number that is not finite, which Python's own reading lets through.
    """
    own = FLAGS.get_key_flags_for_module(sys.argv[0])
    for flag in own:
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise ValueError(f"`{flag.name}` must be finite. Received: {flag.name}={flag.value}")
    return {flag.name: flag.value for flag in own if flag.name not in free}


def portable_settings(settings):
    """Returns settings in which an image folder keeps its own name only: it may be moved."""
    form, _, path = settings["dataset"].partition(":")
    name = f"folder:{pathlib.Path(path).name}" if form == "folder" else settings["dataset"]
    return settings | {"dataset": name}
