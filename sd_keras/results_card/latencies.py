"""How long each exit takes on this machine: of a Keras network, a SavedModel or a LiteRT file."""

import statistics
import time

import keras
import numpy as np

from sd_keras import inference, keras_internals
from sd_keras.inference.compiled import compiled, predict
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.models.exits import exit_names, submodel

BATCH_SIZES = (1, 32)
ROUNDS = 15
# An export's logits are those of its network up to this share of the largest; rounded ones
# need this correlation only.
TOLERANCE = 1e-2
CORRELATION = 0.95


def keras_latencies(network, images, baseline=None, batch_sizes=BATCH_SIZES, rounds=ROUNDS):
    """Times each exit alone, the ensemble, and leaving early at each exit, of compiled Keras.

    Args:
        network: made by `attach_exits`.
        images: raw, at least as many as the largest batch; smaller sets are repeated.
        baseline: None, or a network whose deepest exit is timed as `baseline`.
        batch_sizes: numbers of images in a call.
        rounds: timed calls of each function, after one that is not timed; the functions take
            turns.

    Returns:
        A dict: `source`, what was timed; `milliseconds`, a dict from the exits, `ensemble`
        (and `baseline`) to one from batch sizes (texts, for JSON) to the median time of a call;
        `path`, milliseconds for one image that leaves at each exit, or None.
    """
    names = exit_names(network)
    functions = {name: _of_model(submodel(network, name)) for name in names}
    outputs = {name: network.output[name] for name in names}
    exits = compiled(keras.Model(network.input, outputs))
    functions["ensemble"] = lambda batch: keras.ops.convert_to_numpy(
        inference.ensemble_logits(list(exits([batch]).values()))
    )
    if baseline is not None:
        functions["baseline"] = _of_model(submodel(baseline, exit_names(baseline)[-1]))
    paths = []
    for index in range(len(names)):  # the exit at which all images leave
        thresholds = [None] * index + [0.0] * (len(names) - 1 - index)
        policy = inference.Policy("max_probability", thresholds)
        paths.append(inference.EarlyExit(network, policy))
    return {
        "source": "Keras submodels, compiled",
        "milliseconds": _by_batch(functions, images, batch_sizes, rounds),
        "path": _paths(paths, images, rounds),
    }


def _of_model(model):
    function = compiled(model)
    return lambda batch: keras.ops.convert_to_numpy(function([batch]))


def saved_model_latencies(path, images, batch_sizes=BATCH_SIZES, rounds=ROUNDS, network=None):
    """Times the signatures of an exported SavedModel; arguments and result as `keras_latencies`.

    Args:
        path: folder that `export.saved_model` wrote.
        images, batch_sizes, rounds: as there; `path` of the result is timed by the signature
            `early_exit_with_thresholds`.
        network: None, or the network that it must be an export of.

    Raises:
        ValueError: for a file that is no such export, of another network, or damaged.
    """
    try:
        loaded = tf.saved_model.load(str(path))  # must outlive its signatures
    except (IndexError, KeyError, OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise _damaged(path, error) from None
    signatures = loaded.signatures
    count = sum(name.startswith("exit_") and name[5:].isdigit() for name in signatures)
    if not count or "ensemble" not in signatures:
        raise ValueError(
            "`path` must hold what export.saved_model wrote. "
            f"Received: signatures {sorted(signatures)}"
        )
    _check_size(signatures["exit_1"].structured_input_signature[1]["image"].shape, images)

    def of_signature(name, thresholds=None):
        def run(batch):
            inputs = {"image": tf.constant(batch, "uint8")}
            if thresholds is not None:
                inputs["thresholds"] = tf.constant([thresholds] * len(batch), "float32")
            return signatures[name](**inputs)["logits"].numpy()

        return run

    names = [*(f"exit_{index + 1}" for index in range(count)), "ensemble"]
    functions = {name: of_signature(name) for name in names}
    if network is not None:
        _check_same(functions, images, network)
    # Thresholds by which all images leave at the exit of an index.
    levels = [[np.inf] * index + [0.0] * (count - 1 - index) for index in range(count)]
    paths = [of_signature("early_exit_with_thresholds", each) for each in levels]
    return {
        "source": "SavedModel, its signatures",
        "milliseconds": _by_batch(functions, images, batch_sizes, rounds),
        "path": _paths(paths, images, rounds) if count > 1 else None,
    }


def _damaged(path, error):
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"`path` must hold a whole export ({reason}). Received: path={str(path)!r}")


def lite_latencies(path, images, batch_sizes=BATCH_SIZES, rounds=ROUNDS, network=None):
    """Times the signatures of a LiteRT file on one thread; otherwise as `saved_model_latencies`.

    The result's `path` is None, as a file holds no early exit. A file for a fixed number of
    images is timed with that number alone.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, error) from None
    shape = interpreter.get_input_details()[0]["shape_signature"]
    _check_size(shape, images)

    def of_signature(name):
        runner = interpreter.get_signature_runner(name)
        dtype = runner.get_input_details()["image"]["dtype"]
        return lambda batch: runner(image=batch.astype(dtype))["logits"]

    functions = {name: of_signature(name) for name in interpreter.get_signature_list()}
    fixed = int(shape[0]) if shape[0] > 0 else None
    if network is not None:
        dtypes = {np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
        _check_same(functions, images, network, fixed, rounded=bool(dtypes & {"int8", "float16"}))
    return {
        "source": "LiteRT file, one thread",
        "milliseconds": _by_batch(functions, images, (fixed,) if fixed else batch_sizes, rounds),
        "path": None,
    }


def _check_size(shape, images):
    """Raises ValueError unless a file takes images of this size."""
    if list(shape[1:]) != list(np.shape(images)[1:]):
        raise ValueError(
            f"`path` must take images of shape {np.shape(images)[1:]}. "
            f"Received: a file that takes {tuple(map(int, shape[1:]))}"
        )


def _check_same(functions, images, network, batch=None, rounded=False):
    """Raises ValueError unless an export's exits give the network's logits on a few images.

    Args:
        functions: from the names of exits to functions of raw images that return logits.
        images: raw.
        network: made by `attach_exits`.
        batch: number of images in a call; None for any.
        rounded: whether the export holds numbers of 8 or 16 bits, whose logits need only
            correlate.
    """
    names = exit_names(network)
    others = sorted(functions.keys() - {*names, "ensemble"})
    if others:
        raise ValueError(f"`path` must hold exits of the network, {names}. Received: {others}")
    batch = batch or min(len(images), 32)
    images = np.resize(images, (-(-min(len(images), 32) // batch) * batch, *np.shape(images)[1:]))
    outputs = predict(network, images, 32)
    rounded = rounded or any(
        "16" in each.compute_dtype for each in keras_internals.flatten_layers(network)
    )
    for name in [name for name in names if name in functions]:
        parts = [functions[name](images[at : at + batch]) for at in range(0, len(images), batch)]
        expected = keras.ops.convert_to_numpy(outputs[name]).astype("float64")
        logits = np.concatenate(parts)
        if logits.shape != expected.shape or not _are_alike(logits, expected, rounded):
            raise ValueError(
                "`path` must hold an export of this network: logits differ. "
                f"Received: other logits at {name}"
            )


def _are_alike(logits, expected, rounded):
    if np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max():
        return True
    # NaN, the correlation of constants, is none.
    with np.errstate(invalid="ignore", divide="ignore"):
        return rounded and np.corrcoef(logits.ravel(), expected.ravel())[0, 1] >= CORRELATION


def _by_batch(functions, images, batch_sizes, rounds):
    times = {name: {} for name in functions}
    for size in batch_sizes:
        batch = np.resize(np.asarray(images), (size, *np.shape(images)[1:]))
        for name, milliseconds in in_turn(functions, batch, rounds).items():
            times[name][str(size)] = milliseconds
    return times


def _paths(functions, images, rounds):
    batch = np.asarray(images)[:1]
    return list(in_turn(dict(enumerate(functions)), batch, rounds).values())


def in_turn(functions, batch, rounds=ROUNDS, clock=time.perf_counter):
    """Returns the median milliseconds of a dict of functions of a batch, which take turns."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function(batch)
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function(batch)
            times[name].append(1000 * (clock() - start))
    return {name: statistics.median(each) for name, each in times.items()}
