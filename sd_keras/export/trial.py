"""Requests that a new export answers before it gets its name, and once more in each server."""

import re

import numpy as np

from sd_keras import keras_internals
from sd_keras.export.parts import check_answers, probe_image
from sd_keras.export.signatures import CLASSIFY

# Largest difference of logits, as a share of the largest, that folding may make.
TOLERANCE = 1e-2


def requests_of(names, shape):
    """Returns pairs of a signature and its inputs by name: one image, and eight, of each.

    Args:
        names: of the signatures.
        shape: `(h, w, c)` of the images.
    """
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


def try_out(signatures, requests, network):
    """Raises RuntimeError unless all requests are answered, and the exits' as by the network.

    Args:
        signatures: concrete functions by name.
        requests: of `requests_of`.
        network: that was exported.
    """
    import tensorflow as tf

    outputs = None
    for name, inputs in requests:
        kinds = signatures[name].structured_input_signature[0]
        given = (tf.constant(value, kind.dtype) for value, kind in zip(inputs.values(), kinds))
        answer = {key: np.asarray(value) for key, value in signatures[name](*given).items()}
        if name in network.output and len(answer["logits"]) == 1:
            if outputs is None:
                outputs = network(inputs["image"], training=False)
            expected = np.asarray(outputs[name]).astype("float32")
            check_answers(answer, {"logits": expected}, _tolerance(network))


def _tolerance(network):
    """A network of half precision answers otherwise than its float32 form, and may."""
    half = any("16" in layer.compute_dtype for layer in keras_internals.flatten_layers(network))
    return None if half else TOLERANCE


def _encoded(image):
    """Returns an image as a PNG file, and as a serialized tf.train.Example of that."""
    import tensorflow as tf

    png = tf.io.encode_png(image).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return png, tf.train.Example(features=features).SerializeToString()
