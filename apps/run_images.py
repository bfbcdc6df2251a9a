"""Flags of how training images are changed: distorted, mixed, attacked."""

import run_data
from absl import flags
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")

FLAGS = flags.FLAGS
flags.DEFINE_integer("padding", None, "pixels of crop padding (default: an eighth)", 0)
flags.DEFINE_bool("flip", None, "mirror at random (default: not for digits and mnist)")
flags.DEFINE_list(
    "distortion", None, "behind crop_flip: affine, perspective, thin_plate_spline, color"
)
flags.DEFINE_float("mixup", None, "α of mixup", 0)
flags.DEFINE_float("cutmix", None, "α of CutMix", 0)
flags.DEFINE_float(
    "adversarial", None, "pixel values by which the last view is changed against the network", 0
)


def check_images():
    """Raises ValueError for distortions that there are not."""
    for name in FLAGS.distortion or ():
        if name not in ("crop_flip", *run_data.STRONG):
            raise ValueError(
                f"`distortion` must be of crop_flip, {', '.join(run_data.STRONG)}. "
                f"Received: distortion={name!r}"
            )


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
