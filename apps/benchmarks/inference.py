"""The part of benchmark.py that measures exported networks: each exit, and early exit.

Run by `python apps/benchmark.py inference`, see there. A network with four exits and the plain
one are exported, loaded and asked in turn. The SavedModel runs in a session, as in TF Serving;
LiteRT and ONNX Runtime stand beside it where they are installed (`pip install '.[lite,onnx]'`).
"""

import importlib.util
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from benchmarks.figures import compare, fact, figure, interleave
from benchmarks.images import IMAGE_SHAPE

from sd_keras import analysis, attach_exits, exit_names, export, inference, models

# Shares of the acceleration that multiply-accumulates promise, by batch size and exit.
SHARE_BARS = {32: (">= 0.70", ">= 0.80", ">= 0.95"), 1: (">= 0.60", ">= 0.75", ">= 0.90")}
ENSEMBLE_BAR, MIX_BAR, SIZE_BAR = ">= 0.95", "<= 1.10", "<= 1.05"
MIXES = (0.0, 0.5, 0.8, 1.0)
# What the paper reports, table 5: exits 1 to 3, and the ensemble.
TABLE_5 = {
    "resnet18": (3.11, 1.87, 1.30, 0.93),
    "resnet50": (4.64, 2.20, 1.23, 0.93),
    "resnet101": (9.00, 4.27, 1.11, 0.96),
    "resnet152": (13.36, 4.29, 1.07, 0.98),
}
THREADS = 2


def inference_figures(settings):
    """Acceleration of each exit by runtime, early exit at several mixes, size and loading."""
    logging.set_verbosity(logging.ERROR)  # TensorFlow's notes on saving, file by file
    plain, network = (
        attach_exits(models.build(settings.model, IMAGE_SHAPE), settings.num_classes, at=at)
        for at in ([], None)
    )
    macs = {name: cost["macs"] for name, cost in analysis.costs(network).items()}
    macs["plain"] = analysis.costs(plain)["exit_1"]["macs"]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shallow = len(exit_names(network)) - 1
        policy = inference.Policy("max_probability", [1.0] * shallow)
        export.saved_model(network, folder / "exits/1", policy)
        export.saved_model(plain, folder / "plain/1")
        figures += artifact_figures(folder / "exits/1", network)
        for name, runtime in runtimes(folder, network, plain).items():
            for batch_size in SHARE_BARS:
                figures += exit_figures(name, runtime, batch_size, macs, settings)
            if name == "SavedModel":
                figures += mix_figures(runtime, shallow, settings)
    keras.utils.clear_session()
    return figures


def artifact_figures(path, network):
    """Size on disk against the weights, and the time to load and to answer first."""
    weights = sum(4 * int(np.prod(weight.shape)) for weight in network.weights)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    start = time.perf_counter()
    session = Session(path)
    loaded = time.perf_counter()
    session.function("exit_1", 1)()
    answered = time.perf_counter()
    beside = f"{size / 1e6:.1f} MB, weights {weights / 1e6:.1f} MB"
    return [
        figure("inference", "SavedModel / weights", SIZE_BAR, [size / weights], beside=beside),
        fact("inference", "load", values=[loaded - start], unit="s", beside="SavedModel"),
        fact("inference", "first answer", values=[answered - loaded], unit="s", beside="exit_1"),
    ]


def exit_figures(runtime_name, runtime, batch_size, macs, settings):
    """How much faster each exit answers than the plain network."""
    exits = [name for name in macs if name.startswith("exit_")]
    turns = {name: runtime(name, batch_size) for name in ("plain", *exits, "ensemble")}
    seconds = interleave(turns, settings.repeats)
    fastest = {name: min(values) for name, values in seconds.items()}
    bars = (*SHARE_BARS[batch_size], None, ENSEMBLE_BAR)
    paper = TABLE_5.get(settings.model, (None,) * 4)
    rows = []
    for index, name in enumerate((*exits, "ensemble")):
        if name == exits[-1]:
            continue
        ratio = macs["plain"] / macs[name]
        row = compare(seconds["plain"], seconds[name])
        speed = 2 * macs[name] * batch_size / fastest[name] / 1e9
        of_paper = paper[min(index, 3)]
        beside = f"{fastest[name] * 1e3:.2f} ms, {speed:.0f} GFLOP/s; {ratio:.2f} by MACs"
        beside += f"; table 5: {of_paper}" if of_paper else ""
        title = f"{runtime_name} {name}, batch {batch_size}"
        rows.append(fact("inference", title, **row, beside=beside))
        share = {key: _scaled(value, 1 / ratio) for key, value in row.items()}
        if runtime_name == "SavedModel" and len(exits) == 4:
            rows.append(
                figure("inference", f"{title}, share of MACs", bars[index], **share, beside="")
            )
    return rows


def _scaled(value, factor):
    return [each * factor for each in value] if isinstance(value, list) else value * factor


def mix_figures(runtime, shallow, settings, batch_size=32):
    """Early exit where a share of the rows leaves at exit 1 and the others stay to the end.

    It is compared with the same share of the time of exit 1, and of all exits for the others,
    which pass all of them. Few rows take longer each than many; so beside it stands what the
    signatures take for as many rows as really come to them.
    """
    turns = {name: runtime(name, batch_size) for name in ("exit_1", "ensemble")}
    stays = {share: batch_size - round(share * batch_size) for share in MIXES}
    for share, rows in stays.items():
        thresholds = np.where(np.arange(batch_size) < rows, np.inf, 0.0)[:, None]
        turns[share] = runtime(
            "early_exit_with_thresholds", batch_size, thresholds=thresholds * np.ones(shallow)
        )
        if 0 < rows < batch_size:
            turns |= {(n, rows): runtime(n, rows) for n in ("exit_1", "ensemble")}
    seconds = interleave(turns, settings.repeats)
    figures = []
    for share, rows in stays.items():
        one, whole = seconds["exit_1"], seconds["ensemble"]
        part = rows / batch_size
        expected = [(1 - part) * a + part * b for a, b in zip(one, whole)]
        title = f"early exit, {share:.0%} at exit 1"
        speeds = [batch_size / min(times) for times in (seconds[share], whole)]
        beside = "{:.0f} images/s; all exits {:.0f}".format(*speeds)
        row = compare(seconds[share], expected) | {"beside": beside}
        figures.append(figure("inference", f"{title} / expected", MIX_BAR, **row))
        if ("exit_1", rows) in seconds:
            few = zip(one, seconds["ensemble", rows], seconds["exit_1", rows])
            row = compare(seconds[share], [a + b - c for a, b, c in few])
            beside = f"exit 1 of {batch_size} rows, the rest of {rows}"
            title = f"{title} / expected of so few rows"
            figures.append(fact("inference", title, **row, beside=beside))
    return figures


def runtimes(folder, network, plain):
    """Returns by runtime a function of a name and a batch size that returns what to time."""
    sessions = {"exits": Session(folder / "exits/1"), "plain": Session(folder / "plain/1")}

    def by_session(name, batch_size, **more):
        session = sessions["plain" if name == "plain" else "exits"]
        return session.function("serving_default" if name == "plain" else name, batch_size, **more)

    found = {"SavedModel": by_session}
    if importlib.util.find_spec("ai_edge_litert"):
        export.lite(network, folder / "exits.tflite")
        export.lite(plain, folder / "plain.tflite", "exit_1")
        found["LiteRT"] = _by_lite(folder)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("tf2onnx"):
        found["ONNX Runtime"] = _by_onnx(folder, network, plain)
    return found


def images_of(batch_size, kind="uint8"):
    """Random raw images."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (batch_size, *IMAGE_SHAPE)).astype(kind)


class Session:
    """A SavedModel in a TensorFlow session, which is how TF Serving runs it."""

    def __init__(self, path):
        graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS
        )
        with graph.as_default():
            self.session = tf.compat.v1.Session(graph=graph, config=config)
            loaded = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(path))
        self.signatures = loaded.signature_def

    def function(self, name, batch_size, **more):
        """Returns a function without arguments that answers a batch by a signature."""
        signature = self.signatures[name]
        given = {"image": images_of(batch_size)} | more
        feeds = [signature.inputs[key].name for key in given]
        fetches = [tensor.name for tensor in signature.outputs.values()]
        run = self.session.make_callable(fetches, feed_list=feeds)
        return lambda: run(*given.values())


def _by_lite(folder):
    from ai_edge_litert.interpreter import Interpreter

    # One for all exits of a file: each would hold a copy of the weights in its own order.
    interpreters = {
        name: Interpreter(str(folder / f"{name}.tflite"), num_threads=THREADS)
        for name in ("plain", "exits")
    }

    def function(name, batch_size):
        interpreter = interpreters["plain" if name == "plain" else "exits"]
        run = interpreter.get_signature_runner("exit_1" if name == "plain" else name)
        image = images_of(batch_size, "float32")
        return lambda: run(image=image)

    return function


def _by_onnx(folder, network, plain):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3

    def function(name, batch_size):
        path = folder / f"{name}.onnx"
        if not path.exists():
            wanted = (plain, "exit_1") if name == "plain" else (network, name)
            export.onnx(wanted[0], path, wanted[1])
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        image = images_of(batch_size)
        return lambda: session.run(None, {"image": image})

    return function
