"""A SavedModel with every signature, and a server process that serves it."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
MISSING = "needs tensorflow-serving-api: pip install '.[serving]'"


class Contract:
    """A SavedModel, and what Python's own loader answers to its signatures."""

    def __init__(self, path):
        import tensorflow as tf

        self.path = path
        self.loaded = tf.saved_model.load(str(path))
        self.signatures = self.loaded.signatures
        self.shape = tuple(self.inputs("serving_default")["image"].shape[1:])
        self.exits = sum(name.startswith("exit_") for name in self.signatures) // 2

    def inputs(self, signature):
        """Specifications of a signature's inputs by name."""
        return self.signatures[signature].structured_input_signature[1]

    def images(self, count=3, seed=0):
        """Raw images."""
        return np.random.default_rng(seed).integers(0, 256, (count, *self.shape)).astype("uint8")

    def encoded(self, count=3, seed=0):
        """The same images as PNG files, without loss."""
        import tensorflow as tf

        return [tf.io.encode_png(image).numpy() for image in self.images(count, seed)]

    def examples(self, count=3, seed=0):
        """The same images in serialized tf.Examples."""
        import tensorflow as tf

        def example(text):
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
            features = tf.train.Features(feature={"image/encoded": feature})
            return tf.train.Example(features=features).SerializeToString()

        return [example(text) for text in self.encoded(count, seed)]

    def example_inputs(self, signature, count=3, seed=0):
        """What a signature takes, for `count` images."""
        makers = {"image": self.images, "image_bytes": self.encoded, "inputs": self.examples}
        names = self.inputs(signature)
        values = {name: makers[name](count, seed) for name in names if name in makers}
        if "thresholds" in names:
            # One that lets all out at the first exit, one that holds all, in turn.
            rows = np.tile([[0.0], [1.1]], (count, self.exits - 1))[:count]
            values["thresholds"] = rows.astype("float32")
        return values

    def expected(self, signature, inputs):
        """The answer as arrays by name."""
        import tensorflow as tf

        specifications = self.inputs(signature)
        feeds = {k: tf.constant(v, specifications[k].dtype) for k, v in inputs.items()}
        return {name: value.numpy() for name, value in self.signatures[signature](**feeds).items()}


class Served:
    """A running server and clients of it."""

    def __init__(self, contract, base, ports):
        import grpc
        from tensorflow_serving.apis import (
            model_service_pb2_grpc,
            prediction_service_pb2_grpc,
        )

        self.contract, self.base, self.ports = contract, base, ports
        self.channel = grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}")
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def request(self, signature, inputs, name="mini"):
        """Returns a PredictRequest of inputs by name."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return request

    def predict(self, signature, inputs, name="mini"):
        """Predict over gRPC, as arrays by name."""
        import tensorflow as tf

        answer = self.prediction.Predict(self.request(signature, inputs, name), timeout=30)
        return {key: tf.make_ndarray(tensor) for key, tensor in answer.outputs.items()}

    def rest(self, path, document=None):
        """GET, or POST of a document; returns the HTTP status and the answer."""
        body = document if document is None or isinstance(document, bytes) else None
        if document is not None and body is None:
            body = json.dumps(document).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['rest']}{path}", body)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def states(self):
        """State by version number."""
        _, answer = self.rest("/v1/models/mini")
        return {int(v["version"]): v["state"] for v in answer["model_version_status"]}

    def add_version(self, change=lambda folder: None):
        """Puts the model under the next number, changed, as an export appears: by a rename."""
        number = max(self.states()) + 1
        aside = self.base / f".writing-{number}"
        shutil.copytree(self.contract.path, aside)
        change(aside)
        os.rename(aside, self.base / str(number))
        return number


@pytest.fixture(scope="session")
def model_base(tmp_path_factory):
    """The folder of the numbered versions."""
    base = tmp_path_factory.mktemp("served") / "mini"
    (base / "not-a-version").mkdir(parents=True)
    return base


@pytest.fixture(scope="session")
def contract(model_base):
    """The model that is served. Any SavedModel with the same signatures will do."""
    import serving_model

    aside = serving_model.write(model_base / ".being-written")
    os.rename(aside, model_base / "1")
    return Contract(model_base / "1")


@pytest.fixture(scope="session")
def served(model_base, request):
    """A server in a process of its own; it must live till the end and stop when told."""
    pytest.importorskip("tensorflow_serving", reason=MISSING)
    command = [sys.executable, TESTS / "serving_server.py", "mini", model_base]
    with open(model_base.parent / "server.log", "w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            # It starts while the model is being written, and takes it up when it appears.
            contract = request.getfixturevalue("contract")
            # readline ends too where the process dies.
            with concurrent.futures.ThreadPoolExecutor(1) as reader:
                line = reader.submit(server.stdout.readline).result(timeout=120)
            assert line, pathlib.Path(log.name).read_text()[-2000:]
            client = Served(contract, model_base, json.loads(line))
            wait_for(lambda: "AVAILABLE" in client.states().values())
            yield client
            client.channel.close()
        finally:
            server.terminate()
            code = server.wait(timeout=120)
        assert code == 0, pathlib.Path(log.name).read_text()[-2000:]


def wait_for(condition, seconds=180):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
