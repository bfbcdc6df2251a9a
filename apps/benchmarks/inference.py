"""The benchmark of exported networks: each exit against the plain network, and early exit.

The SavedModel runs in a TensorFlow session, as in TF Serving; LiteRT and ONNX Runtime are measured
where they are installed (`pip install '.[lite,onnx]'`).
"""

import importlib.util
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import logging
from benchmarks.harness import IMAGE_SHAPE, figure, interleave, random_images, ratio

from sd_keras import analysis, attach_exits, exit_names, export, inference, models

# Shares of the acceleration that multiply-accumulates promise, by batch size, of a SavedModel.
SHARE_BARS = {
    32: {"exit_1": 0.70, "exit_2": 0.80, "exit_3": 0.95, "ensemble": 0.95},
    1: {"exit_1": 0.60, "exit_2": 0.75, "exit_3": 0.90, "ensemble": 0.95},
}
# Shares of the images that leave at exit 1.
MIXES = (0.0, 0.5, 0.8, 1.0)
THREADS = 2


def exported(settings):
    """Speed of each exit by runtime, early exit at several mixes, size and loading."""
    logging.set_verbosity(logging.ERROR)  # TensorFlow's notes on saving, file by file
    plain, network = (
        attach_exits(models.build(settings.model, IMAGE_SHAPE), settings.num_classes, at=at)
        for at in ([], None)
    )
    macs = {name: cost["macs"] for name, cost in analysis.costs(network).items()}
    macs["plain"] = analysis.costs(plain)["exit_1"]["macs"]
    shallow = len(exit_names(network)) - 1
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        policy = inference.Policy("max_probability", [1.0] * shallow)
        export.saved_model(network, folder / "exits/1", policy)
        export.saved_model(plain, folder / "plain/1")
        weights = sum(4 * int(np.prod(weight.shape)) for weight in network.weights)
        files = (folder / "exits/1").rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        note = f"{size / 1e6:.1f} MB, weights {weights / 1e6:.1f} MB"
        yield figure("SavedModel / weights", [size / weights], "<= 1.05", note=note)
        start = time.perf_counter()
        session = _session(folder / "exits/1")
        loaded = time.perf_counter()
        session("exit_1", 1)()
        yield figure("load", [loaded - start], unit="s", note="SavedModel")
        yield figure("first answer", [time.perf_counter() - loaded], unit="s", note="exit_1")
        for name, runtime in _runtimes(folder, network, plain):
            for batch_size in SHARE_BARS:
                yield from exit_figures(name, runtime, batch_size, macs, settings.repeats)
            if name == "SavedModel":
                yield from _mix_figures(runtime, shallow, settings.repeats)


def exit_figures(runtime_name, runtime, batch_size, macs, repeats):
    """How many times as fast as the plain network each exit answers, as a runtime runs them."""
    names = [name for name in macs if name.startswith("exit_")]
    shown = [*names[:-1], "ensemble"]
    functions = {name: runtime(name, batch_size) for name in ("plain", *names, "ensemble")}
    seconds = interleave(functions, repeats)
    for name in shown:
        macs_ratio, fastest = macs["plain"] / macs[name], min(seconds[name])
        speed = 2 * macs[name] * batch_size / fastest / 1e9
        note = f"{macs_ratio:.2f} by MACs; fastest {1e3 * fastest:.2f} ms, {speed:.0f} GFLOP/s"
        bar = None
        if runtime_name == "SavedModel" and len(names) == 4:
            bar = f">= {SHARE_BARS[batch_size][name] * macs_ratio:.2f}"
        title = f"{runtime_name} plain / {name}, batch {batch_size}"
        yield ratio(title, seconds, "plain", name, bar, note, macs_ratio=macs_ratio)


def _mix_figures(runtime, shallow, repeats, batch_size=32):
    """Early exit where a share of the rows leaves at exit 1 and the others stay to the end.

    It is compared with the same share of the time of exit 1, and of all exits for the others,
    which pass all of them. Few rows take longer each than many; so it is also compared with what
    the signatures take for as many rows as really come to them.
    """
    functions = {name: runtime(name, batch_size) for name in ("exit_1", "ensemble")}
    stays = {share: batch_size - round(share * batch_size) for share in MIXES}
    for share, rows in stays.items():
        thresholds = np.where(np.arange(batch_size) < rows, np.inf, 0.0)[:, None]
        functions[share] = runtime(
            "early_exit_with_thresholds", batch_size, thresholds=thresholds * np.ones(shallow)
        )
        if 0 < rows < batch_size:
            functions |= {(name, rows): runtime(name, rows) for name in ("exit_1", "ensemble")}
    seconds = interleave(functions, repeats)
    for share, rows in stays.items():
        shallow_seconds, whole, part = seconds["exit_1"], seconds["ensemble"], rows / batch_size
        seconds["expected"] = [(1 - part) * a + part * b for a, b in zip(shallow_seconds, whole)]
        title = f"early exit, {share:.0%} at exit 1"
        yield ratio(f"{title} / expected", seconds, share, "expected", "<= 1.10")
        if ("exit_1", rows) in seconds:
            few = zip(shallow_seconds, seconds["ensemble", rows], seconds["exit_1", rows])
            seconds["few"] = [a + b - c for a, b, c in few]
            note = f"exit 1 of {batch_size} rows, the rest of {rows}"
            yield ratio(f"{title} / expected of so few rows", seconds, share, "few", note=note)


def _session(path):
    """Loads a SavedModel; returns a function of signature and batch size, as `exit_figures`."""
    graph = tf.Graph()
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS
    )
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph, config=config)
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))

    def function(name, batch_size, **more):
        signature = loaded.signature_def[name]
        arrays = {"image": random_images(batch_size)} | more
        feeds = [signature.inputs[key].name for key in arrays]
        fetches = [tensor.name for tensor in signature.outputs.values()]
        run = session.make_callable(fetches, feed_list=feeds)
        return lambda: run(*arrays.values())

    return function


def _runtimes(folder, network, plain):
    """Yields names of runtimes, and what `exit_figures` takes."""
    exits, whole = _session(folder / "exits/1"), _session(folder / "plain/1")
    yield (
        "SavedModel",
        lambda name, size, **more: (
            whole("serving_default", size) if name == "plain" else exits(name, size, **more)
        ),
    )
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

        export.lite(network, folder / "exits.tflite")
        export.lite(plain, folder / "plain.tflite", "exit_1")
        # One for all exits of a file: each would hold a copy of the weights in its own order.
        interpreters = {
            name: Interpreter(str(folder / f"{name}.tflite"), num_threads=THREADS)
            for name in ("plain", "exits")
        }

        def lite(name, size):
            signature = ("plain", "exit_1") if name == "plain" else ("exits", name)
            run = interpreters[signature[0]].get_signature_runner(signature[1])
            image = random_images(size).astype("float32")
            return lambda: run(image=image)

        yield "LiteRT", lite
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("tf2onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = THREADS, 3

        def onnx(name, size):
            path = folder / f"{name}.onnx"
            if not path.exists():
                source = (plain, "exit_1") if name == "plain" else (network, name)
                export.onnx(source[0], path, source[1])
            providers = ["CPUExecutionProvider"]
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            image = random_images(size)
            return lambda: session.run(None, {"image": image})

        yield "ONNX Runtime", onnx
