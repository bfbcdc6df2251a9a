"""A trained network as LiteRT (TensorFlow Lite) files for phones and small machines."""

import tempfile
import warnings

import keras
import numpy as np

from sd_keras.checkpoints import write_json
from sd_keras.export.parts import (
    answer,
    atomic_directory,
    check_answers,
    check_class_names,
    check_machine,
    chosen,
    image_shape,
    inference_form,
    new_path,
    probe_image,
    write_file,
)
from sd_keras.inference import Policy
from sd_keras.inference.policy import check_exits
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.models.exits import exit_names
from sd_keras.models.sections import sections

PRECISIONS = ("float32", "float16", "dynamic", "int8")
# Of what a file answers to the test image; the integer ones may be off by what they like.
TOLERANCES = {"float32": 1e-3, "float16": 5e-2, "dynamic": None, "int8": None}


def lite(network, path, exit=None, precision="float32", representative=None, batch=None):
    """Writes one LiteRT file with a signature per exit.

    Each signature takes `image`, raw pixels 0…255 `(n, height, width, channels)`, uint8 with
    precision `"int8"` and float32 otherwise, and returns `logits` and `probabilities`
    `(n, classes)`, float32. Several share one copy of the weights. The file is run once under
    LiteRT and compared with the network before it gets its name.

    Args:
        network: made by `attach_exits`.
        path: file to create, `….tflite`; it appears whole or not at all.
        exit: one of `exit_names(network)`, for a file that holds nothing deeper, `"ensemble"`,
            or None for all of these in one file.
        precision: `"float32"`; `"float16"`, weights of half the size; `"dynamic"`, int8 weights;
            `"int8"`, integers throughout, for accelerators that know nothing else.
        representative: for `"int8"`, raw images `(k, height, width, channels)` that give every
            tensor its range: a hundred or more training images.
        batch: number of images in a call, for compilers that need fixed shapes; None for any:
            one till the caller resizes the input, which signature runners do.

    Raises:
        ValueError, FileExistsError: for an argument that does not fit; if `path` exists.
        ImportError: without the extra `lite`, or on another backend than tensorflow.
        RuntimeError: if the file answers otherwise than the network.
    """
    check_machine("lite", "lite")
    path = new_path(path, ".tflite")
    names = chosen(network, exit)
    options = Options(image_shape(network), precision, representative, batch)
    form = inference_form(network)
    endpoints = {name: (answer(form, name), options.specifications) for name in names}
    content = convert(endpoints, precision, options.samples)
    verify(content, endpoints, {"image": options.probe}, precision)
    write_file(path, content)


def lite_cascade(
    network,
    folder,
    precision="float32",
    policy=None,
    representative=None,
    class_names=None,
    batch=1,
):
    """Writes one LiteRT file per section, to be run one after the other until an exit is sure.

    `section_1.tflite` takes `image` and returns `logits` `(n, classes)` of exit 1 and tensors
    `handed_on_1`, …; each other section takes what the one before it handed on, float32.
    `cascade.json` tells files, tensors, shapes, policy and class names. `apps/run_cascade.py`
    runs the folder with NumPy and ai-edge-litert alone.

    Args:
        network, precision, representative: as `lite`.
        folder: folder to create; it appears whole or not at all.
        policy: a `sd_keras.inference.Policy`, when an image leaves; None for none before the
            deepest exit, till thresholds are written into `cascade.json`.
        class_names: one name per class; None for none.
        batch: number of images in a call, 1 for early exit; None for any, see `lite`.

    Raises:
        ValueError, FileExistsError: for an argument that does not fit; if `folder` exists.
        ImportError, RuntimeError: as `lite`.
    """
    check_machine("lite_cascade", "lite")
    folder = new_path(folder, argument="folder")
    options = Options(image_shape(network), precision, representative, batch)
    names = exit_names(network)
    policy = Policy("max_probability", [None] * (len(names) - 1)) if policy is None else policy
    check_exits(policy, len(names))
    if class_names is not None:
        class_names = check_class_names(class_names, network.output[names[-1]].shape[-1])
    content = {
        "image": {
            "shape": list(image_shape(network)),
            "dtype": "uint8" if precision == "int8" else "float32",
        },
        "policy": policy.to_dict(),
        "class_names": class_names,
        "sections": [],
    }
    with atomic_directory(folder) as aside:
        aside.mkdir()
        for entry, data in _section_files(network, options):
            content["sections"].append(entry)
            (aside / entry["file"]).write_bytes(data)
        write_json(aside / "cascade.json", content)


def _section_files(network, options):
    """Yields each section's entry in cascade.json and its LiteRT file."""
    inputs, samples = {"image": options.probe}, options.samples
    specifications = options.specifications
    for name, section in zip(exit_names(network), sections(inference_form(network))):
        endpoint = (_function(section), specifications)
        data = convert({name: endpoint}, options.precision, samples)
        verify(data, {name: endpoint}, inputs, options.precision)
        handed_on = _handed_on(section, options.batch)
        entry = {
            "exit": name,
            "file": f"section_{name.removeprefix('exit_')}.tflite",
            "signature": name,
            # Shapes without the batch.
            "inputs": [{"name": s.name, "shape": list(s.shape[1:])} for s in specifications],
            "logits": "logits",
            "handed_on": [spec.name for spec in handed_on],
        }
        yield entry, data
        inputs = _next_inputs(endpoint, inputs, handed_on)
        samples = [_next_inputs(endpoint, sample, handed_on) for sample in samples]
        specifications = handed_on


def _function(section):
    """Returns the function of a section: tensors in, a dict of named tensors out."""
    is_first = not isinstance(section.input, (list, tuple))

    def run(*tensors):
        outputs = section(tensors[0] if is_first else list(tensors), training=False)
        numbered = enumerate(outputs["handed_on"], start=1)
        return {"logits": outputs["logits"]} | {f"handed_on_{i}": t for i, t in numbered}

    return run


def _handed_on(section, batch):
    """Returns what the next section takes, as tensor specifications."""
    return [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=f"handed_on_{index}")
        for index, tensor in enumerate(section.output["handed_on"], start=1)
    ]


def _next_inputs(endpoint, inputs, handed_on):
    function, specifications = endpoint
    outputs = function(*(inputs[spec.name] for spec in specifications))
    return {spec.name: np.asarray(outputs[spec.name]) for spec in handed_on}


class Options:
    """The checked arguments of `lite` and `lite_cascade`.

    Attributes:
        precision, batch: the arguments.
        specifications: arguments of a function that takes images, a list of `tf.TensorSpec`.
        probe: raw images `(batch or 1, height, width, channels)` to try a file with, float32.
        samples: the representative images as inputs of such a function, one at a time.
    """

    def __init__(self, shape, precision, representative, batch):
        if batch is not None and (type(batch) is not int or batch < 1):
            raise ValueError(
                f"`batch` must be None or a positive integer. Received: batch={batch!r}"
            )
        if precision not in PRECISIONS:
            raise ValueError(
                f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}"
            )
        self.precision = precision
        self.batch = batch
        self.specifications = [tf.TensorSpec((batch, *shape), tf.float32, name="image")]
        self.probe = probe_image(shape).repeat(batch or 1, 0)
        images = _representative_images(precision, representative, shape)
        self.samples = [{"image": image[None].repeat(batch or 1, 0)} for image in images]


def _representative_images(precision, representative, shape):
    """Returns the representative images, float32; none where none are needed."""
    if precision != "int8":
        if representative is not None:
            raise ValueError(
                "`representative` images serve precision 'int8' alone. "
                f"Received: precision={precision!r}"
            )
        return []
    images = np.asarray([] if representative is None else representative)
    if images.shape[1:] != tuple(shape) or not len(images) or images.dtype.kind not in "uif":
        raise ValueError(
            f"`representative` must be raw images (n, {', '.join(map(str, shape))}) for precision "
            f"'int8'. Received: representative of shape {images.shape}, {images.dtype}"
        )
    images = images.astype("float32")
    if not (images.min() >= 0 and 1 < images.max() <= 255):
        raise ValueError(
            "`representative` must hold raw pixels, 0…255. "
            f"Received: representative from {images.min():g} to {images.max():g}"
        )
    # With both ends among them the input's scale is 1 and its zero 0: pixels go in as they are.
    images[0, 0, 0, 0], images[0, -1, -1, -1] = 0, 255
    return images


def convert(endpoints, precision, samples):
    """Returns the bytes of a LiteRT file with one signature per function, weights stored once.

    `endpoints` maps a signature's name to a function, which returns a dict of tensors, and the
    list of its arguments as `tf.TensorSpec` with names. `samples` are, for `"int8"`, inputs that
    every signature takes, a list of dicts of arrays.
    """
    archive = keras.export.ExportArchive()
    for name, (function, specifications) in endpoints.items():
        archive.add_endpoint(name, function, specifications)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The converter's own calibration announces that it uses what is to be replaced.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(endpoints))
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            # Integers all the way, or an error.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: (
                (name, sample) for name in endpoints for sample in samples
            )
            takes_images = all(spec[0].name == "image" for _, spec in endpoints.values())
            converter.inference_input_type = tf.uint8 if takes_images else tf.float32
        return converter.convert()


def verify(content, endpoints, inputs, precision):
    """Runs each signature of a file once under LiteRT and compares it with its function.

    Some graphs convert and then fail, or answer wrongly, where they run. `inputs` is a dict of
    float32 arrays, what every signature takes.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    for name, (function, specifications) in endpoints.items():
        runner = interpreter.get_signature_runner(name)
        kinds = {key: detail["dtype"] for key, detail in runner.get_input_details().items()}
        outputs = runner(**{key: inputs[key].astype(kind) for key, kind in kinds.items()})
        expected = function(*(inputs[spec.name] for spec in specifications))
        expected = {key: np.asarray(value) for key, value in expected.items()}
        check_answers(outputs, expected, TOLERANCES[precision])
