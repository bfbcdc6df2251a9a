"""The parts of benchmark.py that measure sd_keras alone.

Run by `python apps/benchmark.py steps`, see there.
"""

import statistics

import keras
import tensorflow as tf
from benchmarks.figures import compare, figure, interleave
from benchmarks.images import batch
from benchmarks.trainers import multiply_accumulates, step_of, trainer

from sd_keras import methods

if keras.config.backend() != "tensorflow":
    raise SystemExit("the bars are for Keras on TensorFlow: set KERAS_BACKEND=tensorflow")

# One compiled step per model is what is measured here; TensorFlow suspects a mistake.
tf.get_logger().setLevel("ERROR")

BOTH = "be_your_own_teacher+data_distortion"
# How many plain steps a step of each method may take.
STEP_BARS = {
    "be_your_own_teacher": {"float32": "<= 1.12", "mixed_bfloat16": "<= 1.18"},
    "data_distortion": {"float32": "<= 2.1", "mixed_bfloat16": "<= 2.1"},
    BOTH: {"float32": "<= 2.4", "mixed_bfloat16": "<= 2.4"},
}


def steps_figures(settings):
    """A step of each method against a step of the plain network, on batches of one size."""
    figures = []
    for precision in settings.precision:
        trainers = {n: trainer(settings, precision, n) for n in ("baseline", *STEP_BARS)}
        steps = {n: step_of(m, settings, settings.batch_size) for n, m in trainers.items()}
        macs = {n: multiply_accumulates(m) for n, m in trainers.items()}
        seconds = interleave(steps, settings.repeats)
        medians = {n: statistics.median(values) for n, values in seconds.items()}
        for name, bars in STEP_BARS.items():
            bound = macs[name] / macs["baseline"]
            times = f"{medians[name]:.3f} / {medians['baseline']:.3f} s"
            row = compare(seconds[name], seconds["baseline"]) | {
                "precision": precision,
                "beside": f"{bound:.3f} in multiply-accumulates; {times}",
                "macs_ratio": bound,
                "seconds": [medians[name], medians["baseline"]],
            }
            figures.append(figure("steps", f"{name} / plain step", bars[precision], **row))
    return figures


def precision_figures(settings):
    """Images per second of the plain step in mixed_bfloat16 against float32."""
    both = ("mixed_bfloat16", "float32")
    steps = {p: step_of(trainer(settings, p), settings, settings.batch_size) for p in both}
    seconds = interleave(steps, settings.repeats)
    speeds = [settings.batch_size / statistics.median(seconds[p]) for p in both]
    row = compare(seconds["float32"], seconds["mixed_bfloat16"])
    row |= {"beside": "{:.1f} / {:.1f} images/s".format(*speeds), "images_per_second": speeds}
    return [figure("precision", "mixed_bfloat16 / float32 images/s", ">= 1.6", **row)]


def losses_figures(settings):
    """Everything in compute_loss and its gradient with respect to the network's outputs."""
    figures = []
    for precision in settings.precision:
        model = trainer(settings, precision, BOTH)
        piece = (loss_and_gradient(model, settings), 10)
        row = share(piece, model, settings) | {"precision": precision}
        figures.append(figure("losses", "losses and gradient / step", "<= 0.01", **row))
        figures += discrepancies_figures(settings, precision)
    return figures


def discrepancies_figures(settings, precision):
    """The loss of data_distortion and its gradient, with each discrepancy between the views."""
    trainers = {
        name: trainer(settings, precision, methods.data_distortion(discrepancy=name))
        for name in methods.DISCREPANCIES
    }
    functions = {n: (loss_and_gradient(m, settings), 10) for n, m in trainers.items()}
    functions["step"] = step_of(trainers["mmd"], settings, settings.piece_batch_size)
    seconds = interleave(functions, settings.repeats)
    figures = []
    for name in trainers:
        medians = [statistics.median(seconds[key]) for key in (name, "step")]
        beside = f"{medians[0] * 1e3:.2f} ms of {medians[1]:.3f} s"
        row = compare(seconds[name], seconds["step"]) | {"precision": precision}
        row |= {"unit": "%", "beside": beside, "seconds": medians}
        title = f"data_distortion with {name} / step"
        figures.append(figure("losses", title, "<= 0.01", **row))
    return figures


def loss_and_gradient(model, settings):
    """Returns a function that computes the loss and its gradient on outputs made before.

    The outputs are arguments of the compiled function, not constants that its optimiser
    could fold, and all gradients are returned, so none is pruned away.
    """
    images, labels = batch(settings, settings.piece_batch_size)
    labels = tf.constant(labels)
    views = tuple(model.distortion(tf.constant(images)) for _ in range(model.method.num_views))
    outputs = tf.function(lambda x: model(x, training=True), autograph=False)(views)

    @tf.function(autograph=False)
    def compiled(outputs, labels):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = model.compute_loss(y=labels, y_pred=outputs)
        return loss, tape.gradient(loss, outputs)

    return lambda: compiled(outputs, labels)


def share(piece, model, settings):
    """Compares the time of a piece with that of a whole step on equally many images."""
    step = step_of(model, settings, settings.piece_batch_size)
    seconds = interleave({"piece": piece, "step": step}, settings.repeats)
    medians = [statistics.median(values) for values in seconds.values()]
    beside = f"{medians[0] * 1e3:.2f} ms of {medians[1]:.3f} s"
    return compare(*seconds.values()) | {"unit": "%", "beside": beside, "seconds": medians}
