"""How a small-image run is carried out: its batches, its callbacks and its time."""

import importlib.util
import math
import statistics
import sys
import time

import keras
from absl import flags
from run_machine import EpochSeconds

import sd_keras
from sd_keras import checkpoints, report
from sd_keras.backup import PREEMPTED
from sd_keras.inference.compiled import predict

FLAGS = flags.FLAGS
STARTED = time.monotonic()
CHECKED = 32  # images whose answers are compared


class TimeLimit(keras.callbacks.Callback):
    """Ends a run when another epoch, as long as the last but for compiling, would be too late.

    Attributes:
        is_over: whether it has ended the run before its last epoch.

    Args:
        minutes: since this file was loaded, a few seconds behind the start of the process.
    """

    def __init__(self, minutes):
        super().__init__()
        self.end = STARTED + 60 * minutes
        self.is_over = False

    def on_epoch_begin(self, epoch, logs=None):
        self.steps, self.last = [], time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        self.steps.append(now - self.last)
        self.last = now

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        # The median, since the first steps of a process compile; and what comes behind them.
        epoch_seconds = len(self.steps) * statistics.median(self.steps) + now - self.last
        if now + epoch_seconds > self.end and epoch + 1 < self.params["epochs"]:
            self.is_over = self.model.stop_training = True
            print(
                f"time is over after epoch {epoch + 1} of {self.params['epochs']}; "
                "the same command goes on",
                flush=True,
            )


def check_training():
    """Raises ValueError where data on the device do not go with the method."""
    if FLAGS.on_device and _in_pairs(FLAGS.method):
        raise ValueError(
            "`on_device` must be left out for class_wise, which needs pairs of a class. "
            "Received: on_device=True"
        )


def _in_pairs(method_name):
    return "class_wise" in method_name.split("+")


def batches_of(method_name, images, labels, epoch):
    """Returns the batches of the run, in pairs of a class for a method that compares these."""
    kind = sd_keras.data.OnDevice if FLAGS.on_device else sd_keras.data.Batches
    kind = sd_keras.data.SameClassPairs if _in_pairs(method_name) else kind
    return kind(images, labels, FLAGS.batch_size, FLAGS.seed, epoch)


def evaluation_batch():
    """Returns the images of a step of validation and of the measurements at the end."""
    return 1000 if FLAGS.on_device else 256


def check_compiled(network, images):
    """Raises ArithmeticError where the compiled network answers otherwise than step by step.

    Compilers have computed wrongly, and training would tell only behind its last epoch. The
    program is that of the measurements at the end, if so many images are a batch there.
    """
    compiled = predict(network, images, len(images))
    few = images[:CHECKED]
    for name, expected in network(few, training=False).items():
        expected = keras.ops.convert_to_numpy(keras.ops.cast(expected, "float32"))
        apart = abs(compiled[name][: len(few)].astype("float32") - expected).max()
        if not apart <= 0.2 * abs(expected).max() + 1e-3:
            raise ArithmeticError(
                f"the network as {keras.config.backend()} compiles it in "
                f"{network.dtype_policy.name} gives other {name} than uncompiled, by {apart:.3g} "
                f"of {abs(expected).max():.3g}: take another --precision or another version"
            )


def fit(model, batches, validation, workdir, epoch):
    """Trains to the last epoch; ends the process when the time is over before that.

    Args:
        model: a compiled SelfDistillModel.
        batches: what `batches_of` returns.
        validation: images and class numbers, or None.
        workdir: `pathlib.Path` of the run.
        epoch: after which the run goes on.
    """
    limit = TimeLimit(math.inf if FLAGS.minutes is None else FLAGS.minutes)
    log = keras.callbacks.CSVLogger(workdir / "log.csv", append=epoch > 0)
    callbacks = [report.Progress(FLAGS.epochs, len(batches.images)), log]
    if importlib.util.find_spec("tensorflow"):  # Keras writes these files through it
        callbacks.append(keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False))
    saving = checkpoints.Checkpoint(workdir / "checkpoints", minutes=FLAGS.checkpoint_minutes)
    model.fit(
        batches,
        shuffle=False,  # the batches bring their own order
        epochs=FLAGS.epochs,
        initial_epoch=epoch,
        validation_data=validation,
        validation_batch_size=evaluation_batch(),
        verbose=0,
        # What ends the run stands before what saves it.
        callbacks=[*callbacks, EpochSeconds(workdir / "seconds.json", epoch), limit, saving],
    )
    if limit.is_over:
        sys.exit(PREEMPTED)
