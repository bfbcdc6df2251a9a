"""The warm-up file: read by TF Serving's own messages, replayed, and what is refused."""

import shutil

import numpy as np
import pytest
from serving_fixtures import MISSING, wait_for

from sd_keras.export.warmup import write_warmup


@pytest.fixture
def saved_model(contract, tmp_path):
    """A copy to write into."""
    return shutil.copytree(contract.path, tmp_path / "1")


def requests_of(contract):
    """Every signature, and batches whose messages have lengths of several bytes."""
    names = [*contract.signatures, "early_exit_with_thresholds", "classify"]
    counts = [1] * len(contract.signatures) + [130, 130]
    return [(name, contract.example_inputs(name, n)) for name, n in zip(names, counts)]


def logs_in(path):
    """The file's records as genuine messages."""
    import tensorflow as tf

    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason=MISSING
    )
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


@pytest.mark.large
def test_the_genuine_messages_read_what_was_written(contract, saved_model):
    import tensorflow as tf

    requests = requests_of(contract)
    path = write_warmup(saved_model, requests, "mini")
    assert path == saved_model / "assets.extra/tf_serving_warmup_requests"
    assert not list(path.parent.glob(".*"))
    logs = logs_in(path)
    assert len(logs) == len(requests)
    for log, (name, inputs) in zip(logs, requests):
        size = log.ByteSize()
        log.DiscardUnknownFields()  # on all levels
        assert log.ByteSize() == size
        kind = log.WhichOneof("log_type")
        assert kind == ("classify_log" if name == "classify" else "predict_log")
        request = getattr(log, kind).request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("mini", name)
        if name == "classify":
            examples = [tf.train.Example.FromString(text) for text in inputs["inputs"]]
            assert list(request.input.example_list.examples) == examples
            continue
        assert set(request.inputs) == set(inputs)
        for key, value in inputs.items():
            given = tf.make_ndarray(request.inputs[key])
            assert (given == np.array(value, given.dtype)).all()


def test_a_server_answers_the_requests_and_loads_a_model_with_them(served):
    import tensorflow as tf

    requests = requests_of(served.contract)
    number = served.add_version(lambda folder: write_warmup(folder, requests, "mini"))
    wait_for(lambda: served.states().get(number) == "AVAILABLE")
    path = served.base / str(number) / "assets.extra/tf_serving_warmup_requests"
    for log, (name, inputs) in zip(logs_in(path), requests):
        expected = served.contract.expected(name, inputs)
        if name == "classify":
            answer = served.prediction.Classify(log.classify_log.request, timeout=30)
            assert len(answer.result.classifications) == len(expected["scores"])
            continue
        answer = served.prediction.Predict(log.predict_log.request, timeout=30)
        logits = tf.make_ndarray(answer.outputs["logits"])
        np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


def test_a_version_that_cannot_answer_them_is_not_served(served):
    before = max(number for number, state in served.states().items() if state == "AVAILABLE")
    bad = [("exit_1_bytes", {"image_bytes": [b"no image"]})]
    number = served.add_version(lambda folder: write_warmup(folder, bad, "mini"))
    wait_for(lambda: served.states().get(number) == "END")
    assert served.states()[before] == "AVAILABLE"


def test_requests_that_do_not_fit_are_refused(contract, saved_model, tmp_path):
    image = contract.images(1)
    before = (saved_model / "assets.extra/tf_serving_warmup_requests").read_bytes()
    refused = [
        ([], r"`requests` must be 1 to 1000 pairs. Received: 0 pairs"),
        ([("exit_1", {"image": image})] * 1001, r"`requests` must be 1 to 1000.*1001 pairs"),
        ([("exit_9", {"image": image})], r"`requests` must name signatures among.*'exit_9'"),
        ([("exit_1", {"picture": image})], r"must give \['image'\] to signature.*\['picture'\]"),
        (
            [("exit_1", {"image": image[0]})],
            r"must give 'image' of signature 'exit_1' as.*Received",
        ),
    ]
    for requests, message in refused:
        with pytest.raises(ValueError, match=message):
            write_warmup(saved_model, requests, "mini")
    with pytest.raises(ValueError, match="`saved_model_folder` must hold saved_model.pb. Received"):
        write_warmup(tmp_path / "nothing", [("exit_1", {"image": image})], "mini")
    assert (saved_model / "assets.extra/tf_serving_warmup_requests").read_bytes() == before
