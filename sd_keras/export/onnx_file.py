"""A trained network as an ONNX file."""

import logging

import keras
import numpy as np

from sd_keras.export.parts import (
    ENSEMBLE,
    answer,
    check_answers,
    check_machine,
    chosen,
    image_shape,
    inference_form,
    new_path,
    probe_image,
    write_file,
)
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.models.exits import exit_names

# What tf2onnx 1.17 converts these networks to.
OPSETS = range(13, 19)
IMAGE_TYPES = ("uint8", "float32")
TOLERANCE = 1e-3


def onnx(network, path, exit=None, opset=17, image_type="uint8"):
    """Writes one ONNX file that takes any number of raw images.

    Its input is `image`, raw pixels 0…255 `(batch, height, width, channels)`. Outputs, all
    float32 `(batch, classes)`: of one exit or the ensemble `logits` and `probabilities`; of all
    together `exit_1 … exit_C`, logits, and `ensemble_probabilities`. Before the file gets its
    name, ONNX's checker reads it and ONNX Runtime compares it with the network.

    Args:
        network: made by `attach_exits`.
        path: file to create, `….onnx`; it appears whole or not at all.
        exit: one of `exit_names(network)`, for a file that holds nothing deeper, `"ensemble"`,
            or None for all of these, computed together.
        opset: version of ONNX's operators, 13…18.
        image_type: `"uint8"`, or `"float32"` for runtimes that know no other input.

    Raises:
        ValueError: for an argument that does not fit.
        FileExistsError: if `path` exists.
        ImportError: without `pip install 'sd_keras[onnx]'`, or on another backend than
            tensorflow.
        RuntimeError: if the file answers otherwise than the network.
    """
    check_machine("onnx", "onnx")
    path = new_path(path, ".onnx")
    chosen(network, exit)  # refuses another exit
    if opset not in OPSETS:
        raise ValueError(
            f"`opset` must be an integer {OPSETS[0]}…{OPSETS[-1]}. Received: opset={opset!r}"
        )
    if image_type not in IMAGE_TYPES:
        raise ValueError(
            f"`image_type` must be one of {IMAGE_TYPES}. Received: image_type={image_type!r}"
        )
    shape = image_shape(network)
    form = inference_form(network)
    serve = _all_answers(form) if exit is None else answer(form, exit)
    specification = tf.TensorSpec((None, *shape), image_type, name="image")
    function = tf.function(lambda image: serve(tf.cast(image, "float32")), [specification])
    content = _convert(function, opset).SerializeToString()
    image = probe_image(shape).repeat(2, 0).astype(image_type)
    expected = {name: np.asarray(value) for name, value in function(image).items()}
    check_answers(_run(content, image), expected, TOLERANCE)
    write_file(path, content)


def _all_answers(network):
    """Returns the function of all exits and the ensemble, each layer computed once."""
    names = exit_names(network)
    model = keras.Model(network.input, {name: network.output[name] for name in names})

    def serve(image):
        outputs = model(image, training=False)
        logits = {name: keras.ops.cast(z, "float32") for name, z in outputs.items()}
        mean = sum(keras.ops.softmax(logits[name]) for name in names) / len(names)
        return logits | {f"{ENSEMBLE}_probabilities": mean}

    return serve


def _convert(function, opset):
    """Returns the ONNX model of a `tf.function` of images."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    traced = function.get_concrete_function()
    # Frozen here: left to tf2onnx, tensors that layers hold beside variables become inputs.
    frozen = convert_variables_to_constants_v2(traced)
    names = {frozen.inputs[0].name: "image"}
    names |= {t.name: name for t, name in zip(frozen.outputs, sorted(traced.structured_outputs))}
    logger = logging.getLogger("tf2onnx")  # it reports every pass it makes
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=[tensor.name for tensor in frozen.inputs],
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=opset,
            tensors_to_rename=names,
        )
    finally:
        logger.setLevel(level)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _run(content, image):
    """Checks a file and returns by name what it answers under ONNX Runtime."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image})))
