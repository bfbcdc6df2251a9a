"""Flags of how long, with which batches and at which rate a small-image run trains."""

import re

from absl import flags
from app_start import lazy_import

keras = lazy_import("keras")
sd_keras = lazy_import("sd_keras")

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
