"""Asks a running TF Serving about image files.

    python apps/client.py --model=digits photo.png other.jpg
    python apps/client.py --model=digits --rest --signature=early_exit --thresholds=0.9,0.8 *.png

Sends the files as they are, encoded, in batches; prints the likeliest classes of each, and
the exit that answered where there is one. gRPC needs `pip install 'sd_keras[serving]'`;
`--rest` needs nothing but NumPy and absl. Exits with code 1 and one line on any failure.
"""

import base64
import http.client
import json
import pathlib
import sys
import urllib.error
import urllib.request

import numpy as np
from absl import app, flags
from app_start import quiet_native_stderr

FLAGS = flags.FLAGS
flags.DEFINE_string("address", None, "host:port; localhost with TF Serving's port by default")
flags.DEFINE_bool("rest", False, "JSON over HTTP instead of gRPC")
flags.DEFINE_string("model", None, "the name under which it is served", required=True)
flags.DEFINE_integer("version", None, "a certain version instead of the newest", 0)
flags.DEFINE_string("signature", "serving_default", "which one; its _bytes form is taken")
flags.DEFINE_list("thresholds", [], "confidences at which exits answer, for early_exit")
flags.DEFINE_integer("top", 5, "classes to print", 1)
flags.DEFINE_string("labels", None, "text file with the name of one class a line")
flags.DEFINE_integer("batch_size", 32, "images per request", 1)
flags.DEFINE_float("timeout", 30, "seconds to wait for an answer", 0)


class ClientError(Exception):
    """What went wrong, in words for the user."""


class RefusedError(ClientError):
    """The server took the request for wrong: of a kind that a bad file may cause."""


def main(argv):
    """Reads the files, asks, prints."""
    try:
        classify(argv[1:])
    except ClientError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def classify(files):
    """Prints the answer to each file."""
    if not files:
        raise ClientError("name image files behind the flags")
    missing = [name for name in files if not pathlib.Path(name).is_file()]
    if missing:
        raise ClientError(f"no such file: {', '.join(missing)}")
    thresholds = thresholds_of_flags()
    labels = FLAGS.labels and read(FLAGS.labels).decode(errors="replace").splitlines()
    address = FLAGS.address or f"localhost:{8501 if FLAGS.rest else 8500}"
    host, separator, port = address.rpartition(":")
    if "/" in address:
        raise ClientError(f"`address` must be host:port, without http://. Received: {address!r}")
    if not (host and separator and port.isdigit()):
        raise ClientError(f"`address` must be host:port. Received: {address!r}")
    ask = ask_rest if FLAGS.rest else ask_grpc
    signature = FLAGS.signature.removesuffix("_bytes")
    if thresholds:
        signature = signature.removesuffix("_with_thresholds") + "_with_thresholds"
    signature += "_bytes"  # takes encoded files
    for start in range(0, len(files), FLAGS.batch_size):
        batch = files[start : start + FLAGS.batch_size]
        encoded = [read(name) for name in batch]
        try:
            answer = ask(address, signature, encoded, thresholds)
        except RefusedError as error:
            singly = ((name, data) for name, data in zip(batch, encoded) if len(batch) > 1)
            refused = refused_of(singly, lambda data: ask(address, signature, [data], thresholds))
            # Where all are refused, alone too, it is not about the files.
            about = batch if len(batch) == 1 else refused if len(refused) < len(batch) else []
            others = f" (and {len(about) - 1} more)" if len(about) > 1 else ""
            raise ClientError(f"{about[0]}{others}: {error}" if about else str(error)) from error
        for name, line in zip(batch, lines_of(answer, labels, len(batch))):
            print(f"{name}  {line}", flush=True)


def refused_of(files, ask_one):
    """Returns the names of those files that are refused when they come alone."""
    refused = []
    for name, data in files:
        try:
            ask_one(data)
        except RefusedError:
            refused.append(name)
    return refused


def thresholds_of_flags():
    """Returns the thresholds as numbers."""
    try:
        thresholds = [float(value) for value in FLAGS.thresholds]
    except ValueError as error:
        raise ClientError(f"`thresholds` must be numbers. Received: {FLAGS.thresholds}") from error
    if not all(value >= 0 for value in thresholds):
        raise ClientError(f"`thresholds` must be at least 0. Received: {FLAGS.thresholds}")
    if thresholds and not FLAGS.signature.startswith("early_exit"):
        raise ClientError(
            f"`thresholds` need --signature=early_exit. Received: {FLAGS.signature!r}"
        )
    return thresholds


def read(name):
    """Returns a file's bytes."""
    try:
        return pathlib.Path(name).read_bytes()
    except OSError as error:
        raise ClientError(f"{name} cannot be read: {error.strerror}") from error


def lines_of(answer, labels, count):
    """Returns a line per image from the arrays of an answer."""
    if "probabilities" not in answer:
        raise ClientError(f"the signature must answer probabilities. Received: {sorted(answer)}")
    probabilities = np.asarray(answer["probabilities"])
    if probabilities.ndim != 2 or len(probabilities) != count:
        raise ClientError(f"{count} images got an answer of shape {probabilities.shape}")
    classes = probabilities.shape[1]
    if labels and len(labels) != classes:
        raise ClientError(f"`labels` must name {classes} classes. Received: {len(labels)} lines")
    for row, values in enumerate(probabilities):
        order = np.argsort(-values, kind="stable")[: FLAGS.top]
        named = [f"{labels[i] if labels else i} {100 * values[i]:.1f} %" for i in order]
        line = printable(", ".join(named))
        if "exit" in answer:
            line += f"  (exit {answer['exit'][row]}, confidence {answer['confidence'][row]:.3f})"
        yield line


def printable(text):
    """Returns a text with its control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def ask_rest(address, signature, encoded, thresholds):
    """Returns the answer's arrays by name, over HTTP."""
    images = [{"b64": base64.b64encode(data).decode()} for data in encoded]
    columns = {"image_bytes": images}
    if thresholds:
        columns["thresholds"] = [thresholds] * len(encoded)
    version = "" if FLAGS.version is None else f"/versions/{FLAGS.version}"
    request = urllib.request.Request(
        f"http://{address}/v1/models/{FLAGS.model}{version}:predict",
        json.dumps({"signature_name": signature, "inputs": columns}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=FLAGS.timeout) as response:
            return json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        kind = RefusedError if error.code == 400 else ClientError
        raise kind(f"the server refused ({error.code}): {text_of(error)}") from error
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"no answer from http://{address}: {reason}") from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise ClientError(f"http://{address} does not answer as TF Serving does") from error


def text_of(error):
    """Returns the words of a refused HTTP request."""
    body = error.read().decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body[:200] or error.reason


def ask_grpc(address, signature, encoded, thresholds):
    """Returns the answer's arrays by name, over gRPC."""
    try:
        with quiet_native_stderr():
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise ClientError(
            f"gRPC needs `pip install 'sd_keras[serving]'`, or use --rest ({error})"
        ) from error
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = FLAGS.model, signature
    if FLAGS.version is not None:
        request.model_spec.version.value = FLAGS.version
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(encoded, tf.string))
    if thresholds:
        rows = tf.make_tensor_proto([thresholds] * len(encoded), tf.float32)
        request.inputs["thresholds"].CopyFrom(rows)
    # Its own limit of 4 MB would refuse answers that the server may give.
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, unlimited) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = stub.Predict(request, timeout=FLAGS.timeout)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ClientError(f"no answer from {address}: {error.details()}") from error
            kind = RefusedError if code == grpc.StatusCode.INVALID_ARGUMENT else ClientError
            raise kind(f"the server refused ({code.name}): {error.details()}") from error
    return {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}


if __name__ == "__main__":
    app.run(main)
