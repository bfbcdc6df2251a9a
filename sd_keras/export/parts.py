"""What every converted file of a network needs: its inference form, its answers, its checks."""

import contextlib
import importlib
import os
import pathlib
import shutil
import tempfile
import unicodedata

import keras
import numpy as np
from keras import ops

from sd_keras.checkpoints import write_whole
from sd_keras.inference import ensemble_logits
from sd_keras.models.exits import exit_names
from sd_keras.models.stock import inference_form as folded

ENSEMBLE = "ensemble"
EXTRAS = {"lite": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime")}


def inference_form(network):
    """Returns a network that answers the same, made for conversion.

    float32, normalisations folded into convolutions. A network with layers that cannot be made
    again from their config is converted as it is.
    """
    exit_names(network)  # refuses one without exits
    try:
        return folded(network)
    except (NotImplementedError, TypeError, ValueError):
        return network


@contextlib.contextmanager
def ensure_parent(path):
    """Makes the folders above a path; where writing fails those that it made go again."""
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not made, or no longer empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def atomic_directory(folder):
    """Yields where to make what is to become a folder, which appears whole or not at all."""
    with ensure_parent(folder):
        # On the same disk, to be renamed. Servers poll the folder above for new numbers, and a
        # name that is no number is no version to them.
        aside = pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            yield aside / "whole"
            os.rename(aside / "whole", folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def chosen(network, exit):
    """Returns the names that `exit` stands for: one, or for None every exit and the ensemble."""
    names = [*exit_names(network), ENSEMBLE]
    if exit is None:
        return names
    if exit not in names:
        raise ValueError(f"`exit` must be None or one of {names}. Received: exit={exit!r}")
    return [exit]


def answer(network, name):
    """Returns the function of one exit, or of the ensemble.

    It takes raw float32 images `(n, height, width, channels)` and returns a dict of `logits`
    and `probabilities` `(n, classes)`. The ensemble's probabilities are the exits' mean and
    its logits the log of that.
    """
    members = exit_names(network) if name == ENSEMBLE else [name]
    model = keras.Model(network.input, {member: network.output[member] for member in members})

    def serve(image):
        outputs = model(image, training=False)
        logits = [ops.cast(outputs[member], "float32") for member in members]
        # Averaged as probabilities: in int8 the way through logarithms costs five times the error.
        mean = sum(ops.softmax(z) for z in logits) / len(logits)
        joined = logits[0] if len(logits) == 1 else ensemble_logits(logits)
        return {"logits": joined, "probabilities": mean}

    return serve


def new_path(path, ending="", argument="path"):
    """Returns a path with that ending, at which nothing exists yet."""
    path = pathlib.Path(path)
    if path.suffix != ending and ending:
        raise ValueError(f"`{argument}` must end in {ending}. Received: {argument}={str(path)!r}")
    if path.exists():
        raise FileExistsError(
            f"`{argument}` must not exist yet. Received: {argument}={str(path)!r}"
        )
    return path


def write_file(path, content):
    """Writes bytes so that the file is there wholly or not at all, its folder with it."""
    with ensure_parent(path):
        write_whole(path, lambda aside: aside.write_bytes(content))


def check_machine(function, extra=None):
    """Raises ImportError unless Keras runs on TensorFlow and an extra is installed."""
    if keras.config.backend() != "tensorflow":
        raise ImportError(
            f"`{function}` needs the tensorflow backend; load the .keras file under "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.config.backend()!r}"
        )
    for package in EXTRAS[extra] if extra else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"`{function}` needs {package}: pip install 'sd_keras[{extra}]'. Received: {error}"
            ) from error


def image_shape(network):
    """Returns `(height, width, channels)`, all of them known."""
    shape = tuple(network.input_shape[1:])
    if None in shape:
        raise ValueError(
            f"`network` must take images of a known size. Received: network with input {shape}"
        )
    return shape


def check_class_names(class_names, classes):
    """Returns one name per class, each a line without control characters, as a list."""
    names = [str(name) for name in class_names]
    kinds = {unicodedata.category(letter) for name in names for letter in name}
    if len(names) != classes or kinds & {"Cc", "Cs", "Zl", "Zp"}:
        raise ValueError(
            f"`class_names` must be None or {classes} names, one per class, without control "
            f"characters. Received: class_names={class_names!r}"
        )
    return names


def probe_image(shape):
    """One raw image `(1, height, width, channels)`, float32, from black to white."""
    pixels = np.arange(np.prod(shape)) * 97 % 256
    return pixels.reshape(1, *shape).astype("float32")


def check_answers(outputs, expected, tolerance=None):
    """Raises RuntimeError unless a converted file answers as the network, by dicts of arrays.

    `tolerance` is the largest difference, as a share of the largest value or of 1; None compares
    shapes only, for files that are rounded coarsely.
    """
    for name, value in expected.items():
        output = outputs[name]
        fits = output.shape == value.shape and np.isfinite(output).all()
        if fits and tolerance is not None:
            limit = tolerance * max(1.0, float(np.abs(value).max()))
            fits = float(np.abs(output - value).max()) <= limit
        if not fits:
            raise RuntimeError(
                f"the converted file answers otherwise than the network at {name!r}, so it is "
                f"not written. Received: {np.ravel(output)[:4]} for {np.ravel(value)[:4]}"
            )
