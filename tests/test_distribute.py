"""The same training on one device, on two, and by real worker processes on 127.0.0.1."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import image_folder, tiny_network

from sd_keras import distribute

TESTS = pathlib.Path(__file__).parent
pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)


def start(strategy, devices, output, case="same", task=None):
    environment = os.environ | ({"TF_CONFIG": json.dumps(task)} if task else {})
    return subprocess.Popen(
        [sys.executable, TESTS / "distributed_run.py", strategy, str(devices), output, case],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    """Waits for all; returns what they printed, and fails with it if one failed."""
    printed = [process.communicate(timeout=300)[0] for process in processes]
    failed = [text for process, text in zip(processes, printed) if process.returncode]
    assert not failed, failed[0][-3000:]
    return printed


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(count, output, case="same"):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [start("multi_worker", 1, output, case, task) for task in tasks]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """What one device comes to."""
    output = tmp_path_factory.mktemp("single") / "found.npz"
    finish([start("none", 1, output)])
    return dict(np.load(output))


def check_same(output, expected):
    found = dict(np.load(output))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.process
def test_two_devices_equal_one(single, tmp_path):
    finish([start("mirrored", 2, tmp_path / "found.npz")])
    check_same(tmp_path / "found.npz", single)


@pytest.mark.process
def test_networks_beside_the_network_are_trained_alike(tmp_path):
    for strategy, devices in (("none", 1), ("mirrored", 2)):
        finish([start(strategy, devices, tmp_path / f"{devices}.npz", "beside")])
    check_same(tmp_path / "2.npz", dict(np.load(tmp_path / "1.npz")))


@pytest.mark.process
@pytest.mark.parametrize("count", [2, 3])
def test_workers_equal_one_process(single, tmp_path, count):
    """With three, the batches of 16 are divided unevenly."""
    finish(start_workers(count, tmp_path / "found.npz"))
    check_same(tmp_path / "found.npz", single)


@pytest.mark.process
@pytest.mark.parametrize("devices, workers", [(2, 1), (1, 2)])
def test_image_files_are_divided(tmp_path_factory, tmp_path, devices, workers):
    """Each replica reads its own part of every batch; 13 held images are divided unevenly."""
    name = image_folder(tmp_path_factory.mktemp("images"), train=24, val=13)
    case = name.replace("folder:", "stream:")
    finish([start("none", 1, tmp_path / "single.npz", case)])
    output = tmp_path / "found.npz"
    finish(
        start_workers(workers, output, case)
        if workers > 1
        else [start("mirrored", devices, output, case)]
    )
    check_same(output, dict(np.load(tmp_path / "single.npz")))


@pytest.mark.process
def test_replicas_roll_back_and_another_number_goes_on(tmp_path):
    name = image_folder(tmp_path / "images", train=24)
    output = tmp_path / "found.npz"
    finish([start("none", 2, output, name.replace("folder:", "backed_up:"))])
    found = dict(np.load(output))
    assert found["roll_backs"] == 1 and found["iterations"] == 6
    np.testing.assert_array_equal(found["replica_0"], found["replica_1"])
    assert np.isfinite(found["replica_0"]).all()
    assert found["resumed_at"].tolist() == [0, 1] and found["warned"] == 1
    np.testing.assert_allclose(found["resumed"], found["whole"], rtol=1e-5, atol=1e-5)


@pytest.mark.process
def test_what_goes_wrong_under_a_strategy_is_refused(tmp_path):
    finish([start("mirrored", 2, tmp_path / "found.npz", "refused")])
    found = dict(np.load(tmp_path / "found.npz"))
    expected = {
        "jit_compile": "`jit_compile` must be 'auto' or False",
        "clipnorm": "`clipnorm` must be None under MirroredStrategy",
        "global_clipnorm": "`global_clipnorm` must be None",
        "clipvalue": "`clipvalue` must be None",
        "gradient_accumulation_steps": "`gradient_accumulation_steps` must be None",
        "ema_overwrite_frequency": "`ema_overwrite_frequency` must be None",
        "mixed_float16": "`optimizer` must not scale the loss",
        "synchronized Stock": "`network` must have synchronised BatchNormalization",
        "synchronized Subclass": "`network` must have synchronised BatchNormalization",
        "synchronized Own": "`network` must have synchronised BatchNormalization",
        "empty": "`x` must give every replica an example",
        "labels": "`y` must hold class numbers 0…3",
        "nan": "the loss is not finite at training step 1",
    }
    assert found.keys() == expected.keys()
    for name, message in expected.items():
        assert message in str(found[name]), name


@pytest.mark.process
def test_options_that_work_under_a_strategy(tmp_path):
    """On two devices as on one: steps_per_execution, EMA, mixed precision."""
    finish([start("mirrored", 2, tmp_path / "found.npz", "options")])
    finish([start("none", 1, tmp_path / "single.npz", "options")])
    found, single = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("found", "single"))
    for name in ("steps_1", "steps_3", "ema"):
        np.testing.assert_allclose(found[name], single[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["steps_3"], found["steps_1"], rtol=1e-5)
    assert np.abs(found["ema"] - found["steps_1"]).max() > 0
    np.testing.assert_allclose(found["mixed_bfloat16"], found["steps_1"], rtol=0.1)


@pytest.mark.process
def test_replicas_draw_for_themselves_and_keep_one_normalisation(tmp_path):
    finish([start("mirrored", 2, tmp_path / "found.npz", "drawn")])
    found = dict(np.load(tmp_path / "found.npz"))
    assert found["replica_draws"].shape == (2, 2)
    assert (found["replica_draws"][0] != found["replica_draws"][1]).all()
    # Moving statistics without synchronisation: the same on all replicas.
    np.testing.assert_array_equal(found["moving"][0], found["moving"][1])


@pytest.mark.parametrize(
    "config",
    ["", "{", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'],
)
def test_a_cluster_must_be_told(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="variable TF_CONFIG lists the.*Received: TF_CONFIG="):
        distribute.strategy("multi_worker")


def test_names_of_strategies():
    with pytest.raises(ValueError, match=r"`name` must be one of .*'mirrored'.*name='horovod'"):
        distribute.strategy("horovod")
    assert distribute.is_chief(distribute.strategy("none"))


def test_synchronize_reaches_the_heads():
    network = distribute.synchronize(tiny_network())
    norms = [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) > 6 and all(layer.synchronized for layer in norms)
