"""The parts of benchmark.py that measure sd_keras alone, and how all parts are measured.

Run by `python apps/benchmark.py steps`, see there.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from sd_keras import SelfDistillModel, analysis, attach_exits, methods, models
from sd_keras.distortions import CropFlip
from sd_keras.optimizers import SGD

if keras.config.backend() != "tensorflow":
    raise SystemExit("the bars are for Keras on TensorFlow: set KERAS_BACKEND=tensorflow")

# One compiled step per model is what is measured here; TensorFlow suspects a mistake.
tf.get_logger().setLevel("ERROR")

WARM_UP = 2
IMAGE_SHAPE = (32, 32, 3)
BOTH = "be_your_own_teacher+data_distortion"
# How often a step of every variant is allowed to outlast the plain one.
STEP_BARS = {
    "be_your_own_teacher": {"float32": 1.12, "mixed_bfloat16": 1.18},
    "data_distortion": {"float32": 2.1, "mixed_bfloat16": 2.1},
    BOTH: {"float32": 2.4, "mixed_bfloat16": 2.4},
}


def interleave(functions, repeats):
    """Calls functions in turn, A B C A B C …, and times each call.

    Args:
        functions: dict from name to a function, or to a pair of a function and how often one
            turn calls it, for what is too short to be timed alone.
        repeats: rounds, after WARM_UP rounds that do not count.

    Returns:
        A dict from name to the seconds of one call, one value per round.
    """
    turns = {name: f if isinstance(f, tuple) else (f, 1) for name, f in functions.items()}
    seconds = {name: [] for name in turns}
    for index in range(WARM_UP + repeats):
        for name, (function, calls) in turns.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            if index >= WARM_UP:
                seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratios(numerators, denominators):
    """The ratio within each round."""
    return [a / b for a, b in zip(numerators, denominators)]


def figure(part, name, values, direction, limit, unit="x", precision=None, beside="", **more):
    """One row of the report: the median of the values, and whether it reaches its bar.

    Args:
        part, name: of the figure.
        values: one per round.
        direction, limit: the bar, for instance `"<=", 1.12`.
        unit: "x" for a ratio, "%" for a share (values are shares of 1), "s" for seconds.
        precision: dtype policy of what was measured, if it matters.
        beside: text for the table.
        **more: further keys for the JSON file.
    """
    median = statistics.median(values)
    return {
        "part": part,
        "name": name,
        "precision": precision,
        "unit": unit,
        "median": median,
        "min": min(values),
        "max": max(values),
        "bar": f"{direction} {limit}",
        "met": median <= limit if direction == "<=" else median >= limit,
        "values": values,
        "beside": beside,
        **more,
    }


def table(figures):
    """Returns the figures as lines of text."""

    def shown(value, unit):
        return f"{value:.3%}" if unit == "%" else f"{value:.3f}{' s' if unit == 's' else ''}"

    rows = [("part", "figure", "precision", "median", "min … max", "bar", "met", "beside")]
    for row in figures:
        median, low, high = (shown(row[key], row["unit"]) for key in ("median", "min", "max"))
        direction, limit = row["bar"].split()
        unit = {"%": lambda x: f"{float(x):.1%}", "s": lambda x: f"{x} s"}
        bar = f"{direction} {unit.get(row['unit'], str)(limit)}"
        met = "yes" if row["met"] else "NO"
        precision = row["precision"] or ""
        spread = f"{low} … {high}"
        rows.append((row["part"], row["name"], precision, median, spread, bar, met, row["beside"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def batch(settings, batch_size):
    """Returns random raw images and class numbers."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, *IMAGE_SHAPE), dtype="uint8")
    return images, generator.integers(0, settings.num_classes, batch_size, dtype="int32")


def trainer(settings, precision, method="baseline", exits=None, distortion="crop_flip"):
    """Returns a compiled SelfDistillModel.

    Args:
        settings: the flags.
        precision: dtype policy.
        method: name of the method.
        exits: "one" or "all"; None takes as many as the method needs.
        distortion: "crop_flip", or None.
    """
    method = methods.get(method)
    exits = exits or ("all" if method.min_exits > 1 else "one")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        keras.utils.set_random_seed(0)
        backbone = models.build(settings.model, input_shape=IMAGE_SHAPE)
        at = [] if exits == "one" else None
        network = attach_exits(backbone, settings.num_classes, at=at)
        model = SelfDistillModel(network, method, CropFlip(seed=0) if distortion else None)
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = SGD(0.1, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer=optimizer, metrics=["accuracy"])
    return model


def step_of(model, settings, batch_size):
    """Returns a function that trains the model on one batch, the same every time."""
    images, labels = batch(settings, batch_size)
    return lambda: model.train_on_batch(images, labels)


def per_step(model):
    """Multiply-accumulates of a forward pass over all views of an image."""
    return analysis.costs(model.network)["ensemble"]["macs"] * model.method.num_views


def steps_figures(settings):
    """A step of each method against a step of the plain network, on batches of one size."""
    figures = []
    for precision in settings.precision:
        names = ("baseline", *STEP_BARS)
        trainers = {name: trainer(settings, precision, name) for name in names}
        steps = {n: step_of(m, settings, settings.batch_size) for n, m in trainers.items()}
        seconds = interleave(steps, settings.repeats)
        plain = statistics.median(seconds["baseline"])
        for name, bars in STEP_BARS.items():
            bound = per_step(trainers[name]) / per_step(trainers["baseline"])
            median = statistics.median(seconds[name])
            figures.append(
                figure(
                    "steps",
                    f"{name} / plain step",
                    ratios(seconds[name], seconds["baseline"]),
                    "<=",
                    bars[precision],
                    precision=precision,
                    beside=f"{bound:.3f} in multiply-accumulates; {median:.3f} s / {plain:.3f} s",
                    macs_ratio=bound,
                    seconds=median,
                    plain_seconds=plain,
                )
            )
    return figures


def precision_figures(settings):
    """Images per second of the plain step in mixed_bfloat16 against float32."""
    both = ("float32", "mixed_bfloat16")
    steps = {p: step_of(trainer(settings, p), settings, settings.batch_size) for p in both}
    seconds = interleave(steps, settings.repeats)
    speeds = {p: settings.batch_size / statistics.median(seconds[p]) for p in both}
    beside = f"{speeds['mixed_bfloat16']:.1f} / {speeds['float32']:.1f} images/s"
    values = ratios(seconds["float32"], seconds["mixed_bfloat16"])
    name = "mixed_bfloat16 / float32 images/s"
    more = {"images_per_second": speeds}
    return [figure("precision", name, values, ">=", 1.6, beside=beside, **more)]


def distortion_figures(settings):
    """CropFlip against Keras's layers, and as a share of the plain step.

    Keras's RandomCrop draws one place for the whole batch where CropFlip draws one for each
    image, so Keras's layers do the easier work. Both get raw images, as in training.
    """
    images, _ = batch(settings, settings.piece_batch_size)
    images = tf.constant(images)
    height, width = IMAGE_SHAPE[:2]
    crop_flip = CropFlip(padding=4, seed=0)
    stock = keras.Sequential(
        [
            keras.layers.ZeroPadding2D(4),
            keras.layers.RandomCrop(height, width, seed=0),
            keras.layers.RandomFlip("horizontal", seed=0),
        ]
    )
    ours = tf.function(lambda x: crop_flip(x), autograph=False)
    keras_layers = tf.function(lambda x: stock(x, training=True), autograph=False)
    pieces = {"ours": (lambda: ours(images), 20), "keras": (lambda: keras_layers(images), 20)}
    seconds = interleave(pieces, settings.repeats)
    times = [statistics.median(seconds[name]) * 1e3 for name in ("keras", "ours")]
    beside = "{:.2f} ms / {:.2f} ms".format(*times)
    values = ratios(seconds["keras"], seconds["ours"])
    figures = [figure("distortion", "Keras's layers / CropFlip", values, ">=", 2.0, beside=beside)]
    for precision in settings.precision:
        model = trainer(settings, precision)
        more = {"bar": 0.005, "precision": precision}
        figures.append(share("distortion", "CropFlip", pieces["ours"], model, settings, **more))
    return figures


def losses_figures(settings):
    """Everything in compute_loss and its gradient with respect to the network's outputs."""
    figures = []
    for precision in settings.precision:
        model = trainer(settings, precision, BOTH)
        piece = (loss_and_gradient(model, settings), 10)
        more = {"bar": 0.01, "precision": precision}
        figures.append(share("losses", "losses and gradient", piece, model, settings, **more))
    return figures


def loss_and_gradient(model, settings):
    """Returns a function that computes the loss and its gradient on outputs made before.

    The outputs are arguments of the compiled function, not constants that its optimiser
    could fold, and all gradients are returned, so none is pruned away.
    """
    images, labels = batch(settings, settings.piece_batch_size)
    labels = tf.constant(labels)
    outputs = model(tuple(model.distortion(tf.constant(images)) for _ in range(2)), training=True)

    @tf.function(autograph=False)
    def compiled(outputs, labels):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = model.compute_loss(y=labels, y_pred=outputs)
        return loss, tape.gradient(loss, outputs)

    return lambda: compiled(outputs, labels)


def share(part, name, piece, model, settings, bar, precision):
    """A figure: the time of a piece over the time of a whole step with equally many images."""
    step = step_of(model, settings, settings.piece_batch_size)
    seconds = interleave({"step": step, "piece": piece}, settings.repeats)
    values = ratios(seconds["piece"], seconds["step"])
    medians = [statistics.median(seconds[key]) for key in ("piece", "step")]
    beside = f"{medians[0] * 1e3:.2f} ms of {medians[1]:.3f} s"
    title = f"{name} / step"
    return figure(part, title, values, "<=", bar, "%", precision=precision, beside=beside)
