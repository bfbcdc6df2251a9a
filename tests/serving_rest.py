"""TF Serving's REST interface: JSON to the messages of the gRPC interface, and back."""

import base64
import binascii
import http.server
import json
import re

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from serving_engine import INVALID_ARGUMENT, ServingError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

# INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAVAILABLE.
HTTP_STATUS = {3: 400, 5: 404, 9: 400, 11: 400, 12: 501, 14: 503}
MOST_DIMENSIONS = 64  # of an array in NumPy
ADDRESS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?::(predict|classify)|(/metadata))?")


def refuse(text):
    """Raises what TF Serving answers to a bad document."""
    raise ServingError(INVALID_ARGUMENT, text)


def tensor_of(value, kind):
    """Parses nested lists of numbers, texts or {"b64": text} as a TensorProto."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > MOST_DIMENSIONS:
        refuse(f"JSON Value: nested more than {MOST_DIMENSIONS} lists deep")
    leaves = []

    def collect(item, level):
        if isinstance(item, list):
            if level >= len(shape) or len(item) != shape[level]:
                refuse(f"Encountered list at unexpected size: {len(item)} at level: {level}")
            for part in item:
                collect(part, level + 1)
        elif level != len(shape):
            refuse(f"JSON Value: {item} found at incorrect level: {level + 1}")
        else:
            leaves.append(leaf(item, kind))

    collect(value, 0)
    array = np.empty(len(leaves), object) if kind is tf.string else None
    if array is None:
        try:
            # Wraps where a number is out of range, as TF Serving's conversion does.
            array = np.array(leaves, "int64" if kind.is_integer else "float64")
        except OverflowError:
            refuse(f"JSON Value: a number that no {kind.name} holds")
        array = array.astype(kind.as_numpy_dtype)
    else:
        array[:] = leaves
    return tf.make_tensor_proto(array.reshape(shape), kind)


def leaf(item, kind):
    """Returns one value, or refuses it for its type."""
    if kind is tf.string and isinstance(item, dict) and set(item) == {"b64"}:
        try:
            return base64.b64decode(item["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            refuse("Unable to base64 decode")
    if kind is tf.string and isinstance(item, str):
        return item.encode()
    is_number = isinstance(item, int) or (isinstance(item, float) and kind.is_floating)
    if kind is tf.string or isinstance(item, bool) or not is_number:
        refuse(f"JSON Value: {json.dumps(item)[:80]} is not of expected type: {kind.name}")
    return item


def is_named(item):
    """Whether a JSON value names inputs, and is not bytes."""
    return isinstance(item, dict) and set(item) != {"b64"}


def columns_of(document, kinds):
    """Returns each input's JSON value, batch first, and whether it was given row by row."""
    if ("instances" in document) == ("inputs" in document):
        refuse("expecting one of 'inputs' or 'instances' keys to exist")
    rows = document.get("instances")
    if "instances" in document:
        if not isinstance(rows, list) or not rows:
            refuse("No values in 'instances' array")
        if not is_named(rows[0]):
            if len(kinds) > 1:
                refuse("instances is a plain list, but expecting list of objects")
            return {next(iter(kinds)): rows}, True
        if any(not is_named(row) or set(row) != set(kinds) for row in rows):
            refuse(f"Failed to process 'instances' list: keys must be equal to: {sorted(kinds)}")
        return {name: [row[name] for row in rows] for name in kinds}, True
    columns = document["inputs"]
    if not is_named(columns):
        if len(kinds) > 1:
            refuse("inputs is a plain value/list, but expecting an object")
        return {next(iter(kinds)): columns}, False
    for name in kinds:
        if name not in columns:
            refuse(f"Missing named input: {name} in 'inputs' object.")
    return {name: columns[name] for name in kinds}, False


def json_of(array, name):
    """Nested lists; texts as {"b64": …} where the output's name ends in _bytes."""
    if array.dtype != object:
        return array.tolist()
    encoded = [
        {"b64": base64.b64encode(text).decode()} if name.endswith("_bytes") else text.decode()
        for text in array.ravel()
    ]
    return np.array(encoded, object).reshape(array.shape).tolist()


def predict(models, spec, document):
    """Answers :predict."""
    version = models.find(spec)
    signature = version.signature(spec.signature_name, INVALID_ARGUMENT)
    kinds = {name: tf.as_dtype(info.dtype) for name, info in signature.inputs.items()}
    columns, by_row = columns_of(document, kinds)
    request = predict_pb2.PredictRequest(model_spec=spec)
    for name, value in columns.items():
        request.inputs[name].CopyFrom(tensor_of(value, kinds[name]))
    answers = {name: json_of(a, name) for name, a in version.predict(request).items()}
    alone = next(iter(answers.values())) if len(answers) == 1 else None
    if not by_row:
        return {"outputs": answers if alone is None else alone}
    rows = [dict(zip(answers, row)) for row in zip(*answers.values())]
    return {"predictions": rows if alone is None else alone}


def classify(models, spec, document):
    """Answers :classify, for features of bytes."""
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        refuse("key 'examples' is expected to be a list of values")
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    for example in examples:
        if not isinstance(example, dict):
            refuse("Example must be JSON object")
        features = request.input.example_list.examples.add().features.feature
        for name, value in example.items():
            for item in value if isinstance(value, list) else [value]:
                features[name].bytes_list.value.append(leaf(item, tf.string))
    classes, scores = models.find(spec).classify(request)
    pairs = [
        [[label.decode(), float(score)] for label, score in zip(*row)]
        for row in zip(classes, scores)
    ]
    return {"results": pairs}


def answer_to(method, path, body, services):
    """Returns the document for one request."""
    match = ADDRESS.fullmatch(path)
    if not match or (method == "POST") != bool(match[3]):
        refuse(f"Malformed request: {method} {path}")
    spec = predict_pb2.PredictRequest().model_spec
    spec.name = match[1]
    if match[2]:
        spec.version.value = int(match[2])
    if method == "GET":
        if match[4]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=spec, metadata_field=["signature_def"]
            )
            answer = services.metadata(request)
        else:
            answer = services.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
        return json_format.MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        refuse(f"JSON Parse error: {error}")
    if not isinstance(document, dict):
        refuse("JSON Value: Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        refuse("'signature_name' key must be a string value.")
    spec.signature_name = document.get("signature_name", "")
    try:
        return (predict if match[3] == "predict" else classify)(services.models, spec, document)
    except RecursionError:
        refuse("JSON Value: nested too deeply")


def handler(services):
    """Returns the request handler of one server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, answer = 200, answer_to(self.command, self.path, body, services)
            except ServingError as error:
                status, answer = HTTP_STATUS.get(error.code, 500), {"error": str(error)}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            """Says nothing: the tests read the answers."""

    return Handler
