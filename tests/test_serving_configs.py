"""The texts for servers: read by the servers' own messages and by a YAML parser."""

import shlex

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf import wrappers_pb2 as wrappers
from serving_fixtures import MISSING

from sd_keras.export import serving_configs


def parsed_models(text):
    """The one model of a ModelServerConfig."""
    config = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason=MISSING
    )
    parsed = text_format.Parse(text, config.ModelServerConfig())
    assert len(parsed.model_config_list.config) == 1
    return parsed.model_config_list.config[0]


def batching_message():
    """BatchingParameters as session_bundle_config.proto declares it.

    tensorflow-serving-api leaves that file out.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="test",
        syntax="proto3",
        dependency=[wrappers.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    names = "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"
    for number, name in enumerate(names, 1):
        message.field.add(
            name=name, number=number, label=1, type=11, type_name=".google.protobuf.Int64Value"
        )
    message.field.add(name="allowed_batch_sizes", number=6, label=3, type=3)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.BatchingParameters"))()


def test_models_config():
    model = parsed_models(serving_configs.models_config("digits", "/models/digits"))
    assert (model.name, model.base_path) == ("digits", "/models/digits")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 1
    text = serving_configs.models_config(
        "digits", 'gs://a "quoted" bücket', [3, 7], {"stable": 3, "canary": 7}
    )
    model = parsed_models(text)
    assert model.base_path == 'gs://a "quoted" bücket'
    assert list(model.model_version_policy.specific.versions) == [3, 7]
    assert dict(model.version_labels) == {"stable": 3, "canary": 7}


def test_batching_config():
    text = serving_configs.batching_config(8, 500, allowed_batch_sizes=[1, 2, 8])
    parsed = text_format.Parse(text, batching_message())
    assert parsed.max_batch_size.value == 8
    assert parsed.batch_timeout_micros.value == 500
    assert parsed.max_enqueued_batches.value == 128
    assert parsed.num_batch_threads.value == 4
    assert list(parsed.allowed_batch_sizes) == [1, 2, 8]
    defaults = text_format.Parse(serving_configs.batching_config(), batching_message())
    assert defaults.max_batch_size.value == 32 and not defaults.allowed_batch_sizes


def test_kserve_manifest():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    manifest = yaml.safe_load(serving_configs.kserve_manifest("123", "pvc://models/digits", cpu=1))
    assert manifest["kind"] == "InferenceService"
    assert manifest["apiVersion"] == "serving.kserve.io/v1beta1"
    assert manifest["metadata"]["name"] == "123"
    model = manifest["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "tensorflow"}
    assert "runtimeVersion" not in model
    assert model["storageUri"] == "pvc://models/digits"
    assert model["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}

    pinned = serving_configs.kserve_manifest(
        "digits", "s3://models/digits", runtime_version="2.19.0"
    )
    model = yaml.safe_load(pinned)["spec"]["predictor"]["model"]
    assert model["runtimeVersion"] == "2.19.0" and model["modelFormat"] == {"name": "tensorflow"}


def test_docker_command():
    plain = shlex.split(
        serving_configs.docker_command("digits", "/data/digits").replace("\\\n", "")
    )
    assert plain[:3] == ["docker", "run", "--rm"]
    assert "type=bind,source=/data/digits,target=/models/digits,readonly" in plain
    assert plain[-3:] == ["-e", "MODEL_NAME=digits", "tensorflow/serving"]
    text = serving_configs.docker_command("digits", "/data/digits", "/data/configs")
    words = shlex.split(text.replace("\\\n", ""))
    image = words.index("tensorflow/serving")
    assert words[image + 1 :] == [
        "--model_config_file=/configs/models.config",
        "--enable_batching",
        "--batching_parameters_file=/configs/batching.config",
    ]


@pytest.mark.parametrize("configs", [None, "/data/configs"])
def test_an_image_is_one_word_of_the_command(configs):
    image = "a/b:1 --privileged; echo 'x' $(y)"
    text = serving_configs.docker_command("digits", "/data/digits", configs, image)
    assert image in shlex.split(text.replace("\\\n", ""))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.models_config("a/b", "/m"), "`model_name` must be letters.*Received: 'a/b'"),
        (lambda c: c.models_config("a", "m"), "`base_path` must be absolute. Received: 'm'"),
        (lambda c: c.models_config("a", "/m", 0), "`versions` must be at least 1. Received: 0"),
        (lambda c: c.models_config("a", "/m", []), "`versions` must name at least one"),
        (lambda c: c.batching_config(0), "`max_batch_size` must be an integer from 1.*Received: 0"),
        (lambda c: c.batching_config(8, -1), "`batch_timeout_micros` must be an integer from 0"),
        (
            lambda c: c.batching_config(8, allowed_batch_sizes=[4]),
            r"`allowed_batch_sizes` must ascend.*Received: \[4\], max_batch_size=8",
        ),
        (lambda c: c.kserve_manifest("A", "s3://a"), "`model_name` must be up to 63.*'A'"),
        (lambda c: c.kserve_manifest("a", "/a"), "`storage_uri` must have a scheme.*'/a'"),
        (lambda c: c.docker_command("a", "/a b"), "must be absolute, of letters.*Received: '/a b'"),
    ],
)
def test_what_would_not_work_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(serving_configs)
