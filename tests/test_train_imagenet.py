"""apps/train_imagenet.py: what it leaves, and that no run is lost."""

import csv
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import answers_of, image_folder
from test_distribute import free_ports

import sd_keras

APP = pathlib.Path(__file__).parents[1] / "apps/train_imagenet.py"
pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="the strategies are TensorFlow's"
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A run of 3 epochs of 5 steps that every strategy brings to the same end."""
    folder = image_folder(tmp_path_factory.mktemp("images"), train=45, val=13)
    shape = ("--model=resnet8", "--stem=cifar", "--image_size=32", "--batch_size=8")
    return (f"--dataset={folder}", *shape, "--epochs=3", "--backup_steps=2", "--synchronize")


def start(flags, workdir, task=None, log=None):
    environment = os.environ | ({"TF_CONFIG": json.dumps(task)} if task else {})
    command = [sys.executable, APP, *flags, f"--workdir={workdir}"]
    command += ["--strategy=multi_worker"] if task else []
    out = subprocess.PIPE if log is None else log.open("a")
    return subprocess.Popen(
        command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
    )


def start_workers(flags, workdir, count=2):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [start(flags, workdir, task) for task in tasks]


def finish(processes, code=0):
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [p.returncode for p in processes] == [code] * len(processes), printed[0][-3000:]
    return printed[0]


def wait_for(process, workdir, pattern):
    deadline = time.time() + 200
    while not list(workdir.glob(f"backup/{pattern}")):
        assert time.time() < deadline
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)


def weights(workdir):
    return keras.models.load_model(workdir / "network.keras").get_weights()


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    command = (*flags, f"--workdir={workdir}")
    code, printed = answers_of("train_imagenet.py", [command])[command]
    assert code == 0, printed[-3000:]
    return workdir, printed


def test_what_a_run_leaves(finished):
    workdir, printed = finished
    assert "epoch 3/3" in printed and "images/s" in printed and " left" in printed
    results = json.loads((workdir / "results.json").read_text())
    exits = ["exit_1", "exit_2", "exit_3", "ensemble"]
    assert list(results["measured"]) == exits
    assert {"accuracy", "top_5"} < set(results["measured"]["exit_3"])
    assert results["bad_images"]["train"] == {"count": 0, "names": []}
    assert results["recipe"]["batch_size"] == 8 and results["recipe"]["weight_decay"] == 1e-4
    assert results["flags"]["model"] == "resnet8"
    with (workdir / "log.csv").open() as log:
        rows = list(csv.DictReader(log))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    # The same figures by two ways: Keras's metrics in fit, and each exit's own at the end.
    for name in exits:
        logged = float(rows[-1][f"val_{name}_accuracy"])
        np.testing.assert_allclose(logged, results["measured"][name]["accuracy"], rtol=1e-5)
    assert list(workdir.glob("tensorboard/**/events*"))
    assert (workdir / "saved_model/1/saved_model.pb").is_file()
    network = keras.models.load_model(workdir / "network.keras")
    assert sd_keras.exit_names(network) == exits[:3]


@pytest.mark.process
def test_sigterm_saves_and_the_same_command_goes_on(flags, finished, tmp_path):
    process = start(flags, tmp_path)
    wait_for(process, tmp_path, "*_step_000002.npz")
    process.send_signal(signal.SIGTERM)
    assert "stopped as requested; rerun the same command to resume" in finish([process], code=75)
    # The folder of the images may be called otherwise, as after a move.
    printed = finish(
        [start((f"{flags[0]}/../{flags[0].rpartition('/')[2]}", *flags[1:]), tmp_path)]
    )
    assert "resuming after epoch" in printed
    for a, b in zip(weights(finished[0]), weights(tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)
    logs = [(workdir / "log.csv").read_text() for workdir in (finished[0], tmp_path)]
    assert logs[0] == logs[1]


def stopped_by_one_worker(flags, workdir):
    """Two workers of which one gets SIGTERM, and two that go on."""
    workers = start_workers(flags, workdir)
    wait_for(workers[0], workdir, "*_step_000002.npz")
    workers[1].send_signal(signal.SIGTERM)
    finish(workers, code=75)
    # Some steps more may be made until all know of it.
    went_on = finish(start_workers(flags, workdir))
    assert re.search(r"resuming after epoch \d and \d steps of 3", went_on), went_on


@pytest.mark.process
def test_sigterm_of_one_worker_stops_all_and_they_go_on(flags, tmp_path):
    stopped_by_one_worker([*flags, "--method=baseline"], tmp_path)
    with (tmp_path / "log.csv").open() as log:
        rows = list(csv.DictReader(log))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(0 < float(row["loss"]) < 10 for row in rows)
    measured = json.loads((tmp_path / "results.json").read_text())["measured"]
    assert float(rows[-1]["val_exit_1_accuracy"]) == pytest.approx(measured["exit_1"]["accuracy"])


@pytest.mark.process
def test_workers_that_were_stopped_come_to_the_same_bits(flags, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    stopped_by_one_worker(flags, stopped)
    finish(start_workers(flags, whole))
    for a, b in zip(weights(whole), weights(stopped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole / "log.csv").read_text() == (stopped / "log.csv").read_text()


@pytest.mark.slow
def test_twenty_kills_of_a_worker_change_no_bit(flags, tmp_path):
    """kill -9 at random moments of one of two workers, and both are started again."""
    flags = [*(flag for flag in flags if flag != "--synchronize"), "--epochs=30"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    finish(start_workers(flags, whole))
    choose = random.Random(0)
    for kill in range(20):
        known = {path.name for path in killed.glob("backup/epoch*")}
        processes = start_workers(flags, killed)
        while not {path.name for path in killed.glob("backup/epoch*")} - known:
            assert processes[0].poll() is None, (kill, processes[0].communicate()[0][-3000:])
            time.sleep(0.01)
        time.sleep(choose.random() * 0.5)
        victim = choose.choice(processes)
        victim.send_signal(signal.SIGKILL)
        for process in processes:
            if kill == 0 and process is not victim:
                # It notices by itself, so that what supervises it can start it again.
                process.communicate(timeout=120)
                assert process.returncode == 75
            process.kill()
            process.communicate()
    finish(start_workers(flags, killed))
    for a, b in zip(weights(whole), weights(killed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()


WRONG_FLAGS = {
    ("--dataset=folder:/nowhere",): "`name` must give an existing folder",
    ("--dataset=cifar1000",): "`name` must be one of",
    ("--recipe=newest",): "recipe",
    ("--model=resnet9",): "`model` must be one of alexnet",
    ("--learning_rate=nan",): "`learning_rate` must be finite. Received: learning_rate=nan",
    ("--accumulate=16",): "`accumulate` must be at most the 15 steps of the run",
    ("--batch_size=64",): "`batch_size` must be at most the number of images, 45",
    ("--eval_split=tset",): "`split` must be one that the folder",
    ("--recipe=modern", "--xla"): "`xla` must be false for a recipe with RandAugment",
    ("--max_loss=0",): "`max_loss` must be above 0",
    ("--strategy=multi_worker",): "TF_CONFIG lists the",
    ("--epoch=3",): "epoch",
    ("--workdir=/proc/w",): "error: ",
    ("imagenet",): "--name=value",
}


@pytest.fixture(scope="module")
def refusals(flags, tmp_path_factory):
    """What the app answers, in one process: to each of WRONG_FLAGS, and to a bad image."""
    folder = tmp_path_factory.mktemp("refused")
    images = image_folder(folder / "images", train=16, val=4)
    (folder / "images/train/class2/bad.jpg").write_bytes(b"no image")
    bad = (f"--dataset={images}", "--max_bad_images=0", f"--workdir={folder / 'bad'}")
    commands = [(*flags, f"--workdir={folder / 'w'}", *wrong) for wrong in WRONG_FLAGS]
    answers = answers_of("train_imagenet.py", [*commands, (*flags, *bad)]).values()
    return folder, dict(zip([*WRONG_FLAGS, "bad"], answers))


@pytest.mark.parametrize("wrong", WRONG_FLAGS, ids=lambda wrong: wrong[0])
def test_wrong_flags_end_with_a_sentence(refusals, wrong):
    folder, answers = refusals
    code, printed = answers[wrong]
    assert code == 1
    assert WRONG_FLAGS[wrong] in printed
    assert "Traceback" not in printed
    assert not (folder / "w").exists(), "a wrong flag must not claim the workdir"


def test_too_many_bad_images_end_the_run_with_a_sentence(refusals):
    code, printed = refusals[1]["bad"]
    assert code == 1
    assert re.search(r"error: `max_bad_images` allows 0 of the 17 images .*bad\.jpg", printed)
    assert "Traceback" not in printed
