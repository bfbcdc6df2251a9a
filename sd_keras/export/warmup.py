"""Requests that a server answers once before it lets clients in."""

import os
import pathlib

from sd_keras.keras_internals import tensorflow as tf

FILE = pathlib.Path("assets.extra/tf_serving_warmup_requests")
# TF Serving refuses to load a model with more.
MOST_RECORDS = 1000
# Name and method of the signature that TF Serving's Classify asks.
CLASSIFY = "classify"
CLASSIFY_METHOD = "tensorflow/serving/classify"


def write_warmup(saved_model_folder, requests, model_name):
    """Writes `assets.extra/tf_serving_warmup_requests` into a SavedModel.

    TF Serving and KServe replay the file when they load the version, so that the first
    client does not wait for memory and kernels. A request that fails, fails the load.

    Args:
        saved_model_folder: holds `saved_model.pb`.
        requests: pairs `(signature, inputs)`; `inputs` maps each input of the signature to an
            array whose shape fits, batch first. One pair for each batch size that will be
            asked for is best. Images as bytes are lists of `bytes`; for a classify signature
            `{"inputs": [serialized tf.train.Example, …]}`.
        model_name: under which the model is served.

    Returns:
        The path of the file.

    Raises:
        ValueError: if a request does not fit its signature, or there are too many.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    folder = pathlib.Path(saved_model_folder)
    requests = list(requests)
    if not 1 <= len(requests) <= MOST_RECORDS:
        raise ValueError(
            f"`requests` must be 1 to {MOST_RECORDS} pairs. Received: {len(requests)} pairs"
        )
    graph = folder / "saved_model.pb"
    if not graph.exists():
        raise ValueError(
            f"`saved_model_folder` must hold saved_model.pb. Received: {str(folder)!r}"
        )
    (first, *_) = saved_model_pb2.SavedModel.FromString(graph.read_bytes()).meta_graphs
    signatures = first.signature_def
    records = [_record(signatures, name, inputs, model_name) for name, inputs in requests]
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    # A server may load the folder at any moment: the file appears whole.
    aside = path.with_name(f".{path.name}")
    with tf.io.TFRecordWriter(str(aside)) as writer:
        for record in records:
            writer.write(record)
    os.replace(aside, path)
    return path


def _record(signatures, name, inputs, model_name):
    """Returns one serialized PredictionLog.

    Its messages belong to TF Serving's API package, which is not needed to export: they are a
    few nested fields, written here as they go over the wire. The numbers are those of
    prediction_log.proto, predict.proto, classification.proto, input.proto and model.proto.
    """
    if name not in signatures:
        raise ValueError(
            f"`requests` must name signatures among {sorted(signatures)}. Received: {name!r}"
        )
    signature, tensors = signatures[name], {}
    if set(inputs) != set(signature.inputs):
        raise ValueError(
            f"`requests` must give {sorted(signature.inputs)} to signature {name!r}. "
            f"Received: {sorted(inputs)}"
        )
    for key, info in signature.inputs.items():
        shape = tf.TensorShape(info.tensor_shape)
        tensors[key] = tf.make_tensor_proto(inputs[key], tf.as_dtype(info.dtype))
        received = tf.TensorShape(tensors[key].tensor_shape)
        if not shape.is_compatible_with(received):
            raise ValueError(
                f"`requests` must give {key!r} of signature {name!r} as {shape}. "
                f"Received: {received}"
            )
    model_spec = _field(1, _field(1, model_name.encode()) + _field(3, name.encode()))
    if signature.method_name == CLASSIFY_METHOD:
        examples = b"".join(_field(1, text) for text in tensors["inputs"].string_val)
        request = model_spec + _field(2, _field(1, examples))
        return _field(2, _field(1, request))
    entries = (
        _field(2, _field(1, key.encode()) + _field(2, tensor.SerializeToString()))
        for key, tensor in tensors.items()
    )
    return _field(6, _field(1, model_spec + b"".join(entries)))


def _field(number, payload):
    """A length-delimited field of the protocol buffer wire format."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number):
    """Seven bits a byte, lowest first; all but the last have the high bit."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
