"""An exported SavedModel behind TF Serving's gRPC and REST interfaces, asked by real clients."""

import base64
import concurrent.futures
import json
import threading
import time

import numpy as np
import pytest
import serving_batching
import serving_model
from serving_fixtures import MISSING, wait_for

pytest.importorskip("tensorflow_serving", reason=MISSING)

PIXELS = [*(f"exit_{index + 1}" for index in range(serving_model.EXITS)), "serving_default"]
PIXELS += ["ensemble", "early_exit", "early_exit_with_thresholds"]
SIGNATURES = [*PIXELS, *(f"{name}_bytes" for name in PIXELS), "classify"]
PREDICT = "/v1/models/mini:predict"


def assert_equal(answer, expected):
    """Compares answers by output name."""
    assert set(answer) == set(expected)
    for name, value in expected.items():
        given = np.asarray(answer[name])
        assert given.shape == value.shape
        if value.dtype == object:
            assert [str(v) for v in given.ravel()] == [str(v) for v in value.ravel()]
        else:
            np.testing.assert_allclose(given, value, atol=1e-5)


def as_json(value):
    """An input as REST takes it."""
    if isinstance(value, list):
        return [{"b64": base64.b64encode(text).decode()} for text in value]
    return value.tolist()


def text_answers(expected):
    """Texts are no bytes in JSON."""
    return {
        name: np.vectorize(bytes.decode, otypes=[object])(value) if value.dtype == object else value
        for name, value in expected.items()
    }


@pytest.mark.parametrize("signature", SIGNATURES)
def test_grpc_predict(served, signature):
    for count in (1, 5):
        inputs = served.contract.example_inputs(signature, count)
        expected = served.contract.expected(signature, inputs)
        assert_equal(served.predict(signature, inputs), expected)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_rest_predict_by_row_and_by_column(served, signature):
    inputs = served.contract.example_inputs(signature, 2)
    expected = text_answers(served.contract.expected(signature, inputs))
    columns = {name: as_json(value) for name, value in inputs.items()}
    status, answer = served.rest(PREDICT, {"signature_name": signature, "inputs": columns})
    assert status == 200, answer
    assert_equal(answer["outputs"], expected)
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    status, answer = served.rest(PREDICT, {"signature_name": signature, "instances": rows})
    assert status == 200, answer
    by_column = {name: [row[name] for row in answer["predictions"]] for name in expected}
    assert_equal(by_column, expected)


def test_the_default_signature_of_one_input_needs_no_names(served):
    images = served.contract.images(2)
    expected = served.contract.expected("serving_default", {"image": images})
    assert_equal(served.predict("", {"image": images}), expected)
    number = max(served.states())
    path = f"/v1/models/mini/versions/{number}:predict"
    status, answer = served.rest(path, {"instances": images.tolist()})
    assert status == 200
    assert_equal({n: [row[n] for row in answer["predictions"]] for n in expected}, expected)
    assert_equal(served.rest(path, {"inputs": images.tolist()})[1]["outputs"], expected)


def test_classify(served):
    from tensorflow_serving.apis import classification_pb2

    expected = served.contract.expected("classify", {"inputs": served.contract.examples(2)})
    labels = [[label.decode() for label in row] for row in expected["classes"]]
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "mini", "classify"
    for text in served.contract.examples(2):
        request.input.example_list.examples.add().MergeFromString(text)
    rows = served.prediction.Classify(request, timeout=30).result.classifications
    assert [[c.label for c in row.classes] for row in rows] == labels
    scores = [[c.score for c in row.classes] for row in rows]
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-5)
    examples = [{"image/encoded": text} for text in as_json(served.contract.encoded(2))]
    document = {"signature_name": "classify", "examples": examples}
    status, answer = served.rest("/v1/models/mini:classify", document)
    assert status == 200, answer
    assert [[label for label, _ in row] for row in answer["results"]] == labels


def test_status_and_metadata(served):
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "mini"
    states = served.models.GetModelStatus(request, timeout=30).model_version_status
    names = get_model_status_pb2.ModelVersionStatus.State
    assert {s.version: names.Name(s.state) for s in states} == served.states()
    assert served.states()[max(served.states())] == "AVAILABLE"
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "mini"
    answer = served.prediction.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    by_rest = served.rest("/v1/models/mini/metadata")[1]["metadata"]["signature_def"]
    own = {name for name in by_rest["signature_def"] if not name.startswith("__")}
    assert own == set(SIGNATURES) == set(served.contract.signatures)
    default = signatures.signature_def["serving_default"]
    assert [d.size for d in default.inputs["image"].tensor_shape.dim] == [
        -1,
        *served.contract.shape,
    ]
    methods = {name: signatures.signature_def[name].method_name for name in own}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert set(methods.values()) == {"tensorflow/serving/predict"}


@pytest.mark.parametrize("signature", PIXELS)
def test_no_images_get_no_answers_or_a_refusal(served, signature):
    import grpc

    inputs = served.contract.example_inputs(signature, 0)
    classes = served.contract.expected("exit_1", {"image": served.contract.images(1)})["logits"]
    try:
        answer = served.predict(signature, inputs)
    except grpc.RpcError as error:
        assert error.code().name == "INVALID_ARGUMENT", error.details()
    else:
        assert answer["logits"].shape == answer["probabilities"].shape == (0, classes.shape[1])
        assert all(len(value) == 0 for value in answer.values())
    alive(served)


def alive(served):
    """The server still answers rightly, on both ways."""
    inputs = {"image": served.contract.images(1)}
    expected = served.contract.expected("exit_1", inputs)
    assert_equal(served.predict("exit_1", inputs), expected)
    document = {"signature_name": "exit_1", "inputs": inputs["image"].tolist()}
    assert served.rest(PREDICT, document)[0] == 200


def bad_messages(contract):
    """Name, PredictRequest's signature and inputs, and the code of the refusal."""
    images, file = contract.images(2), contract.encoded(1)[0]
    few = np.zeros((1, contract.exits - 1), "float32")
    wide = np.zeros((2, contract.exits), "float32")
    early, bad = "early_exit_with_thresholds", "INVALID_ARGUMENT"
    return [
        ("signature", "exit_99", {"image": images}, "FAILED_PRECONDITION"),
        ("input name", "exit_1", {"picture": images}, "INVALID_ARGUMENT"),
        ("extra input", "exit_1", {"image": images, "b": images}, "INVALID_ARGUMENT"),
        ("no input", "exit_1", {}, "INVALID_ARGUMENT"),
        ("type", "exit_1", {"image": images.astype("float32")}, "INVALID_ARGUMENT"),
        ("texts for pixels", "exit_1", {"image": [file]}, "INVALID_ARGUMENT"),
        ("pixels for texts", "exit_1_bytes", {"image_bytes": images}, "INVALID_ARGUMENT"),
        ("rank", "exit_1", {"image": images[0]}, "INVALID_ARGUMENT"),
        ("scalar", "exit_1", {"image": np.uint8(1)}, "INVALID_ARGUMENT"),
        ("size", "exit_1", {"image": images[:, 1:]}, "INVALID_ARGUMENT"),
        ("channels", "exit_1", {"image": images[..., :1]}, "INVALID_ARGUMENT"),
        ("a text alone", "exit_1_bytes", {"image_bytes": file}, "INVALID_ARGUMENT"),
        ("corrupt", "exit_1_bytes", {"image_bytes": [file, b"\x89PNG"]}, "INVALID_ARGUMENT"),
        ("cut off", "exit_1_bytes", {"image_bytes": [file[:50]]}, "INVALID_ARGUMENT"),
        ("empty file", "exit_1_bytes", {"image_bytes": [b""]}, "INVALID_ARGUMENT"),
        ("thresholds", early, {"image": images, "thresholds": wide}, "INVALID_ARGUMENT"),
        *(
            (f"{value}", early, {"image": images, "thresholds": wide[:, 1:] + value}, bad)
            for value in (np.float32(np.nan), np.float32(-np.inf))
        ),
        ("no thresholds", early, {"image": images}, "INVALID_ARGUMENT"),
        (
            "rows",
            early,
            {"image": images[[0, 1, 0]], "thresholds": wide[:2, 1:]},
            "INVALID_ARGUMENT",
        ),
        ("examples", "classify", {"inputs": [b"\xff\xff"]}, "INVALID_ARGUMENT"),
        ("model", "exit_1", {"image": images, "thresholds": few}, "NOT_FOUND"),
    ]


def test_bad_messages_are_refused_and_the_server_stays(served):
    import grpc

    for name, signature, inputs, code in bad_messages(served.contract):
        with pytest.raises(grpc.RpcError) as caught:
            served.predict(signature, inputs, "other" if name == "model" else "mini")
        assert caught.value.code().name == code, (name, caught.value.details())
        assert caught.value.details(), name
        alive(served)


def test_malformed_tensors_and_wrong_calls(served):
    import grpc
    from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2

    torn = served.request("exit_1", {"image": served.contract.images(2)})
    torn.inputs["image"].tensor_content = torn.inputs["image"].tensor_content[:-1]
    untyped = served.request("exit_1", {"image": served.contract.images(2)})
    untyped.inputs["image"].dtype = 0
    old = served.request("exit_1", {"image": served.contract.images(2)})
    old.model_spec.version.value = 99999
    unknown_output = served.request("exit_1", {"image": served.contract.images(2)})
    unknown_output.output_filter.append("features")
    empty = classification_pb2.ClassificationRequest()
    empty.model_spec.name, empty.model_spec.signature_name = "mini", "classify"
    no_classify = classification_pb2.ClassificationRequest()
    no_classify.CopyFrom(empty)
    no_classify.model_spec.signature_name = "exit_1"
    nothing = get_model_metadata_pb2.GetModelMetadataRequest()
    calls = [
        (served.prediction.Predict, torn, "INVALID_ARGUMENT"),
        (served.prediction.Predict, untyped, "INVALID_ARGUMENT"),
        (served.prediction.Predict, old, "NOT_FOUND"),
        (served.prediction.Predict, unknown_output, "INVALID_ARGUMENT"),
        (served.prediction.Classify, empty, "INVALID_ARGUMENT"),
        (served.prediction.Classify, no_classify, "INVALID_ARGUMENT"),
        (served.prediction.GetModelMetadata, nothing, "INVALID_ARGUMENT"),
    ]
    for place, (call, request, code) in enumerate(calls):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        assert caught.value.code().name == code, (place, caught.value.details())
        alive(served)


def bad_documents(contract):
    """HTTP status, path and body."""
    image, file = contract.images(1).tolist(), as_json(contract.encoded(1))
    texts = {"signature_name": "exit_1_bytes"}
    early = {"signature_name": "early_exit_with_thresholds"}
    row = {"image": image[0], "thresholds": [0.5] * (contract.exits - 1)}
    deep = json.dumps({"inputs": image}).replace("[[[[", "[[[[[", 1).replace("]]]]", "]]]]]", 1)
    return [
        (400, PREDICT, b"{"),
        (400, PREDICT, b""),
        (400, PREDICT, b"[]"),
        (400, PREDICT, {}),
        (400, PREDICT, {"instances": []}),
        (400, PREDICT, {"instances": image, "inputs": image}),
        (400, PREDICT, {"instances": image, "signature_name": "exit_99"}),
        (400, PREDICT, {"instances": image, "signature_name": 3}),
        (400, PREDICT, {"instances": [{"picture": image[0]}]}),
        (400, PREDICT, {"instances": [{"image": image[0]}, image[0]]}),
        (400, PREDICT, {"inputs": {"picture": image}}),
        (400, PREDICT, {"instances": [[[1, 2], [3]]]}),
        (400, PREDICT, {"instances": [0.5]}),
        (400, PREDICT, {"instances": [None]}),
        (400, PREDICT, {"instances": image[0]}),
        (400, PREDICT, {"inputs": []}),
        (400, PREDICT, deep.encode()),
        *((400, PREDICT, b'{"inputs": ' + b"[" * n + b"]" * n + b"}") for n in (65, 300, 900)),
        (400, PREDICT, b'{"inputs": [' + b'{"a": ' * 900 + b"1" + b"}" * 900 + b"]}"),
        (400, PREDICT, {"inputs": [10**30]}),
        (400, PREDICT, json.dumps({"instances": image}).replace("[[[[", f"[[[[{10**29}").encode()),
        (400, PREDICT, early | {"instances": [row | {"thresholds": [10**400, 1]}]}),
        (400, PREDICT, json.dumps(early | {"instances": [row]}).replace("0.5", "NaN").encode()),
        (400, PREDICT, json.dumps(early | {"instances": [row]}).replace("0.5", "-1e999").encode()),
        (400, PREDICT, texts | {"instances": [1]}),
        (400, PREDICT, texts | {"instances": [{"b64": "*"}]}),
        (400, PREDICT, texts | {"instances": ["no image"]}),
        (400, PREDICT, texts | {"instances": [*file, {"b64": "AAAA"}]}),
        (400, PREDICT, {"signature_name": "early_exit_with_thresholds", "instances": image}),
        (400, "/v1/models/mini:classify", {"signature_name": "classify", "examples": []}),
        (400, "/v1/models/mini:classify", {"signature_name": "classify", "examples": [{}]}),
        (400, "/v1/models/mini:classify", {"examples": [{"image/encoded": file[0]}]}),
        (400, "/v1/models/mini:guess", {"instances": image}),
        (400, "/v2/models", None),
        (404, "/v1/models/other:predict", {"instances": image}),
        (404, "/v1/models/mini/versions/99999:predict", {"instances": image}),
        (404, "/v1/models/other", None),
        (404, "/v1/models/mini/versions/99999", None),
        (404, "/v1/models/other/metadata", None),
    ]


def test_bad_documents_are_refused_and_the_server_stays(served):
    for status, path, document in bad_documents(served.contract):
        answer = served.rest(path, document)
        assert answer[0] == status, (path, str(document)[:200], answer)
        assert set(answer[1]) == {"error"} and answer[1]["error"]
        alive(served)


def ask_all(served, client, count, times, model="mini"):
    """One client's requests over gRPC or REST, each with images of its own."""
    for number in range(count):
        signature = PIXELS[number % len(PIXELS)]
        inputs = served.contract.example_inputs(signature, 1 + number % 3, 100 * client + number)
        start = time.perf_counter()
        if client % 2:
            answer = served.predict(signature, inputs, model)
        else:
            columns = {name: value.tolist() for name, value in inputs.items()}
            document = {"signature_name": signature, "inputs": columns}
            status, answer = served.rest(f"/v1/models/{model}:predict", document)
            assert status == 200, answer
            answer = answer["outputs"]
        times.append(time.perf_counter() - start)
        assert_equal(answer, served.contract.expected(signature, inputs))
    return count


@pytest.mark.parametrize("model", ["mini", "mini_batched"])
def test_eight_clients_at_once_each_get_their_own_answers(served, capsys, model):
    times = []
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask_all, served, client, 25, times, model) for client in range(8)]
        assert sum(done.result() for done in asked) == len(times) == 200
    p50, p99 = 1000 * np.percentile(times, [50, 99])
    with capsys.disabled():
        print(f"\n{model}, 8 clients, 200 requests: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def test_the_batcher_joins_requests_and_hands_each_its_rows():
    sizes, start = [], threading.Barrier(8)

    def double(feeds, fetches):
        sizes.append(len(feeds["a"]))
        return [2 * feeds["a"]]

    batcher = serving_batching.Batcher(double, most=6, seconds=0.2)

    def ask(number):
        start.wait()
        return batcher.run({"a": np.full((2, 3), number)}, ["b"])[0]

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        for number, answer in enumerate(clients.map(ask, range(8))):
            assert (answer == np.full((2, 3), 2 * number)).all()
    assert sum(sizes) == 16 and max(sizes) <= 6 and len(sizes) < 8


def test_a_new_version_takes_over_and_no_request_is_lost(served):
    times = []
    (served.base / ".writing-x").mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(ask_all, served, client, 40, times) for client in range(2)]
        number = served.add_version()
        wait_for(lambda: served.states().get(number) == "AVAILABLE")
        assert sum(done.result() for done in asked) == 80
    assert served.states()[number - 1] == "END"
    alive(served)
