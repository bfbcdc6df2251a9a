"""A trained network as a TensorFlow SavedModel with a signature for every way to ask it.

`exit_1 … exit_C`, `serving_default` (the deepest) and `ensemble` take `image`, raw uint8 pixels
`(n, height, width, channels)`, and return `logits` and `probabilities` `(n, classes)`, float32.
`early_exit` answers each image by the first exit that is sure enough, and also returns `exit`
`(n,)`, int32, 1 for exit_1, and its `confidence` `(n,)`; `early_exit_with_thresholds` also takes
`thresholds` `(n, C − 1)`. Each has a form `…_bytes` that takes `image_bytes` `(n,)`, encoded JPEG,
PNG or BMP images. `classify` takes `inputs` `(n,)`, serialized tf.train.Example with
`image/encoded`, and returns `classes` and `scores` of the deepest exit: TF Serving's Classify.

`assets.extra` holds `model_card.json`, `model_card.md`, `class_names.txt`, `models.config`,
`batching.config` and `tf_serving_warmup_requests`.
"""

import json
import re

import numpy as np

from sd_keras import keras_internals
from sd_keras.data.batches import check_whole
from sd_keras.data.decoding import MAX_PIXELS
from sd_keras.export import model_card, serving_configs
from sd_keras.export.encoded_images import check_preprocessing
from sd_keras.export.parts import (
    atomic_directory,
    check_answers,
    check_class_names,
    check_machine,
    image_shape,
    inference_form,
    new_path,
    probe_image,
)
from sd_keras.export.signatures import SignatureFunctions, signatures_of
from sd_keras.export.warmup import CLASSIFY, CLASSIFY_METHOD, write_warmup
from sd_keras.inference import ensemble_logits
from sd_keras.inference.policy import check_exits, temperatures_of
from sd_keras.keras_internals import tensorflow as tf
from sd_keras.models import sections
from sd_keras.models.exits import exit_names

# Largest difference of logits, as a share of the largest, that folding may make.
TOLERANCE = 1e-2


def saved_model(
    network,
    path,
    policy=None,
    temperatures=None,
    ensemble_weights=None,
    class_names=None,
    preprocessing="resize",
    max_pixels=MAX_PIXELS,
    about=None,
):
    """Writes a TensorFlow SavedModel with a signature for every way to ask the network.

    The module's text lists the signatures. Batch normalisation is folded into convolutions; all
    signatures share one copy of the variables and of the graph, and compute what they need.

    Args:
        network: made by `attach_exits`.
        path: folder to create, such as `saved_models/resnet18/1`: a numbered version inside
            the model's folder, as TF Serving reads it. It appears complete or not at all.
        policy: `sd_keras.inference.Policy` of `early_exit`; None leaves that signature out.
        temperatures: of each exit, for its probabilities; None for the policy's, or 1.
        ensemble_weights: of each exit; None for equal ones.
        class_names: one per class; None for "0", "1", ….
        preprocessing: of encoded images: `"resize"` to height and width, as `data.load`; or
            `"center_crop"` of 256x256, as `data.stream(protocol="center")`.
        max_pixels: height × width above which an encoded image is refused unread.
        about: dict for the model card: "data", "method", "measured" (of
            `analysis.evaluate_exits`, or several by the name of a split), ….

    Raises:
        FileExistsError, ImportError: if `path` exists; under another backend than tensorflow.
        ValueError, RuntimeError: for an argument that does not fit; if the export answers
            otherwise than the network.
    """
    check_machine("saved_model")
    names = exit_names(network)
    classes = network.output[names[-1]].shape[-1]
    if policy is not None:
        check_exits(policy, len(names))
    check_preprocessing(preprocessing, image_shape(network))
    check_whole("max_pixels", max_pixels, 1)
    if ensemble_weights is not None:
        ensemble_logits([np.zeros((1, 2))] * len(names), ensemble_weights)
    about = about or {}
    try:
        json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`about` must hold what JSON can: {error}. Received: about={about!r}"
        ) from error
    content = {
        "policy": policy,
        "temperatures": _temperatures(temperatures, policy, len(names)),
        "ensemble_weights": ensemble_weights,
        "class_names": check_class_names(
            range(classes) if class_names is None else class_names, classes
        ),
        "preprocessing": preprocessing,
        "max_pixels": max_pixels,
        "about": about,
    }
    path = new_path(path)
    # Served by the name of the folder that holds the versions.
    name = path.absolute().parent.name if path.name.isdigit() else network.name
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "model"
    with atomic_directory(path) as aside:
        _write(network, aside, name, content)


def _write(network, folder, model_name, content):
    """Writes the SavedModel and what belongs to it into a new folder."""
    shape, policy = network.input_shape[1:], content["policy"]
    inference = inference_form(network)
    rule = policy.rule if policy else "max_probability"
    signatures = signatures_of(
        SignatureFunctions(
            sections(inference), shape, rule, content["temperatures"], content["ensemble_weights"]
        ),
        exit_names(network),
        policy and policy.thresholds,
        content["class_names"],
        content["preprocessing"],
        content["max_pixels"],
    )
    requests = requests_of(list(signatures), shape)
    verify(signatures, requests, network)
    module = tf.Module()
    module.network_variables = [variable.value for variable in inference.variables]
    tf.saved_model.save(module, str(folder), signatures)
    if CLASSIFY in signatures:
        # TF Serving's Classify asks for a method that tf.saved_model.save cannot give.
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
        updater.replace_method_name(signature_key=CLASSIFY, method_name=CLASSIFY_METHOD)
        updater.save()
    extra = folder / "assets.extra"
    extra.mkdir()
    card = model_card.card(network, model_name, content)
    texts = {
        "model_card.json": json.dumps(card, indent=1, ensure_ascii=False) + "\n",
        "model_card.md": model_card.as_markdown(card),
        "class_names.txt": "\n".join(content["class_names"]) + "\n",
        "models.config": serving_configs.models_config(model_name, f"/models/{model_name}"),
        "batching.config": serving_configs.batching_config(),
    }
    for name, text in texts.items():
        (extra / name).write_text(text)
    write_warmup(folder, requests, model_name)


def _temperatures(temperatures, policy, exits):
    """Returns a temperature per exit: the argument, the policy's, or 1."""
    if policy is None:
        return temperatures_of(temperatures, exits).tolist()
    if temperatures is not None and tuple(temperatures) != policy.temperatures:
        raise ValueError(
            f"`temperatures` must be those of `policy`, {policy.temperatures}, or None. "
            f"Received: temperatures={temperatures!r}"
        )
    return list(policy.temperatures)


def requests_of(names, shape):
    """Returns pairs of a signature and its inputs by name: one image, and eight, of each."""
    image = probe_image(shape).astype("uint8")
    contents = _encoded(image[0]) if any(name.endswith("_bytes") for name in names) else None
    shallow = len([name for name in names if re.fullmatch(r"exit_\d+", name)]) - 1
    requests = []
    for name in sorted(names):
        for count in (1, 8):
            inputs = {"image": image.repeat(count, 0)}
            if name.endswith("_bytes"):
                inputs = {"image_bytes": [contents[0]] * count}
            if name == CLASSIFY:
                inputs = {"inputs": [contents[1]] * count}
            if "thresholds" in name:  # above any: the whole network is run
                inputs["thresholds"] = np.full((count, shallow), np.inf, "float32")
            requests.append((name, inputs))
    return requests


def verify(signatures, requests, network):
    """Raises RuntimeError unless all requests are answered, and the exits' as by the network.

    `signatures` are concrete functions by name.
    """
    # A network of half precision answers otherwise than its float32 form, and may.
    half = any("16" in layer.compute_dtype for layer in keras_internals.flatten_layers(network))
    outputs = None
    for name, inputs in requests:
        kinds = signatures[name].structured_input_signature[0]
        tensors = (tf.constant(value, kind.dtype) for value, kind in zip(inputs.values(), kinds))
        answer = {key: np.asarray(value) for key, value in signatures[name](*tensors).items()}
        if name in network.output and len(answer["logits"]) == 1:
            if outputs is None:
                outputs = network(inputs["image"], training=False)
            expected = np.asarray(outputs[name]).astype("float32")
            check_answers(answer, {"logits": expected}, None if half else TOLERANCE)


def _encoded(image):
    """Returns an image as a PNG file, and as a serialized tf.train.Example of that."""
    png = tf.io.encode_png(image).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return png, tf.train.Example(features=features).SerializeToString()
