"""Flags of a small-image run: its length, batches and rate, and how its images are changed."""

import re

import run_data
from absl import flags
from app_start import lazy_import
from run_settings import teacher_to_train

keras = lazy_import("keras")
sd_keras = lazy_import("sd_keras")
checkpoints = lazy_import("sd_keras.checkpoints")
compiled = lazy_import("sd_keras.inference.compiled")

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 60, "epochs", 1)
flags.DEFINE_integer("batch_size", 64, "images per step; each is forwarded once per view", 1)
flags.DEFINE_float("learning_rate", 0.1, "initial learning rate", 0)
flags.DEFINE_float("momentum", 0.9, "momentum", 0, 1)
flags.DEFINE_bool("nesterov", False, "Nesterov momentum")
flags.DEFINE_float("weight_decay", 5e-4, "coupled L2 coefficient", 0)
flags.DEFINE_enum("schedule", "step", ["step", "cosine", "constant"], "learning rate over time")
flags.DEFINE_list("drops", ["0.375", "0.65", "0.9"], "step: drops as shares of the epochs")
flags.register_validator(
    "drops",
    lambda drops: all(re.fullmatch(r"0?\.\d+", drop) for drop in drops),
    message="--drops must be shares of the epochs between 0 and 1, for instance 0.5,0.75",
)
flags.DEFINE_float("drop_factor", 0.1, "step: factor of each drop", 0, 1)
flags.DEFINE_float("warmup_epochs", 0, "epochs over which the rate rises from 0", 0)
flags.DEFINE_bool(
    "on_device", False, "keep the images on the device, and run many steps in one program"
)
flags.DEFINE_float(
    "minutes",
    None,
    "train no longer than this, but an epoch at least: end between two with exit code 75; the "
    "same command resumes",
    0,
)
flags.DEFINE_float("checkpoint_minutes", 0, "minutes between two backups; 0 for one an epoch", 0)
flags.DEFINE_integer("padding", None, "pixels of crop padding (default: an eighth)", 0)
flags.DEFINE_bool("flip", None, "mirror at random (default: not for digits and mnist)")
flags.DEFINE_list(
    "distortion", None, "after crop_flip: affine, perspective, thin_plate_spline, color"
)
flags.DEFINE_float("mixup", None, "α of mixup", 0)
flags.DEFINE_float("cutmix", None, "α of CutMix", 0)
flags.DEFINE_float(
    "adversarial", None, "pixel values by which the last view is changed against the network", 0
)
# They say how to run, not what: they may change when a run is resumed.
RUNTIME_FLAGS = ("on_device", "minutes", "checkpoint_minutes")
SCHEDULE_FLAGS = ("schedule", "drops", "drop_factor", "warmup_epochs")
CHECKED = 32  # images whose answers are compared


def extendable_settings(path, settings):
    """Returns names of flags that may differ from flags.json, as more epochs are asked for.

    Raises ValueError where the run cannot be extended.
    """
    before = checkpoints.read_json(path) if path.exists() else settings
    epochs = before.get("epochs")
    if not isinstance(epochs, int) or epochs >= FLAGS.epochs:
        return ()
    is_new, is_constant = FLAGS["schedule"].present, before.get("schedule") == "constant"
    if not (is_new or is_constant):
        raise ValueError(
            f"`epochs` must stay {epochs}, which the schedule of the learning rate depends on, "
            f"unless it is constant or --schedule is given again. Received: epochs={FLAGS.epochs}"
        )
    fixed = {name: FLAGS[name].value for name in ("ramp", "deepest_last")}
    fixed["teacher"] = teacher_to_train()
    fixed["method"] = FLAGS.method if "progressive" in FLAGS.method.split("+") else None
    fixed = [name for name, value in fixed.items() if value]
    if fixed:
        raise ValueError(
            f"`epochs` must stay {epochs}, on which {fixed[0]}={FLAGS[fixed[0]].value} depends. "
            f"Received: epochs={FLAGS.epochs}"
        )
    print(f"extending the run from {epochs} to {FLAGS.epochs} epochs")
    return ("epochs", *(SCHEDULE_FLAGS if is_new else ()))


def check_batches():
    """Raises ValueError where data on the device do not go with the method."""
    if FLAGS.on_device and "class_wise" in FLAGS.method.split("+"):
        raise ValueError(
            "`on_device` must be left out for class_wise, which needs pairs of a class. "
            "Received: on_device=True"
        )


def build_batches(method_name, images, labels):
    """Returns the batches of the run, in pairs of a class for a method that compares these."""
    kind = sd_keras.data.OnDevice if FLAGS.on_device else sd_keras.data.Batches
    kind = sd_keras.data.SameClassPairs if "class_wise" in method_name.split("+") else kind
    return kind(images, labels, FLAGS.batch_size, FLAGS.seed)


def evaluation_batch():
    """Returns the images of a step of validation and of the measurements at the end."""
    return 1000 if FLAGS.on_device else 256


def check_compiled(network, images):
    """Raises ArithmeticError if the compiled network's outputs differ from those step by step.

    Compilers have computed wrongly, and training would tell only after its last epoch. The
    program is that of the measurements at the end, if so many images are a batch there.
    """
    outputs = compiled.predict(network, images, len(images))
    few = images[:CHECKED]
    for name, expected in network(few, training=False).items():
        expected = keras.ops.convert_to_numpy(keras.ops.cast(expected, "float32"))
        difference = abs(outputs[name][: len(few)].astype("float32") - expected).max()
        if not difference <= 0.2 * abs(expected).max() + 1e-3:
            raise ArithmeticError(
                f"the network as {keras.config.backend()} compiles it in "
                f"{network.dtype_policy.name} gives other {name} than uncompiled, by "
                f"{difference:.3g} of {abs(expected).max():.3g}: take another --precision or "
                "another version"
            )


def build_optimizer(steps):
    """Builds the optimizer for `steps` steps per epoch."""
    return sd_keras.optimizers.SGD(
        learning_rate(steps),
        momentum=FLAGS.momentum,
        nesterov=FLAGS.nesterov,
        weight_decay=FLAGS.weight_decay,
    )


def learning_rate(steps):
    """Builds the schedule of the learning rate for `steps` steps per epoch."""
    total = FLAGS.epochs * steps
    rate = FLAGS.learning_rate
    if FLAGS.schedule == "step":
        # In a short run several drops can fall on one step, where only the last can stand.
        drops = sorted({max(1, round(float(share) * total)) for share in FLAGS.drops})
        rate = sd_keras.schedules.multi_step(rate, drops, FLAGS.drop_factor)
    if FLAGS.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, total)
    if FLAGS.warmup_epochs:
        rate = sd_keras.schedules.WarmUp(rate, max(1, round(FLAGS.warmup_epochs * steps)))
    return rate


def build_distortion(input_shape, dataset):
    """Returns the layer that draws a view."""
    settings = {name: FLAGS[name].value for name in ("padding", "flip", "distortion")}
    return run_data.distortion_of(settings, input_shape, dataset, FLAGS.seed)


def build_mixing():
    """Returns the layer that mixes a batch, or None."""
    if not FLAGS.mixup and not FLAGS.cutmix:
        return None
    return sd_keras.mixing.Mix(FLAGS.mixup or 0.0, FLAGS.cutmix or 0.0, seed=FLAGS.seed)


def build_adversary():
    """Returns what changes the last view against the network, or None."""
    return sd_keras.adversary.FastGradientSign(FLAGS.adversarial) if FLAGS.adversarial else None
