"""Flags of the networks that a network learns beside: a teacher, or a peer."""

import pathlib

from absl import flags
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
maps = lazy_import("sd_keras.models.maps")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "teacher", None, "a .keras file, the workdir of a run, or a name of MODELS to train first"
)
flags.DEFINE_string("peer", None, "a name of MODELS: the network that learns together with it")
# The methods that need one.
LEARNING_FROM = {
    "teacher": ("knowledge_distillation", "fitnet", "attention_transfer"),
    "peer": ("deep_mutual_learning",),
}


def check_networks(trains=True):
    """Checks the flags before anything is built.

    Args:
        trains: whether the app trains a teacher of which the flag gives a name only.

    Raises:
        ValueError: where teacher and peer do not go with the method, or cannot be had.
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
    if FLAGS.teacher and not named and not file_of_teacher().is_file():
        names = f", or one of {sorted(models)}" if trains else ""
        raise ValueError(
            f"`teacher` must be a .keras file or the workdir of a finished run{names}. "
            f"Received: teacher={FLAGS.teacher!r}"
        )


def teacher_to_train():
    """Returns the name of the network that is to be trained first, or None."""
    return FLAGS.teacher if FLAGS.teacher in sd_keras.models.MODELS else None


def file_of_teacher():
    """Returns the path of the teacher that is there already."""
    path = pathlib.Path(FLAGS.teacher)
    return path / "network.keras" if path.is_dir() else path


def load_teacher(input_shape, num_classes, file=None):
    """Loads a teacher, once it is known to take these images and to know these classes.

    Args:
        input_shape: of an image.
        num_classes: of the student.
        file: path of a `.keras` file; None for that of the flag.
    """
    file = file or file_of_teacher()
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
