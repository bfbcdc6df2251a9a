"""The apps end to end on the embedded digits."""

import csv
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import app_in_process
import keras
import numpy as np
import pytest
from conftest import answers_of, smallest_network

import sd_keras

ROOT = pathlib.Path(__file__).parents[1]
EARLY_EXIT_FILES = ("--policy=FOLDER/policy.json", "--output=FOLDER/early.json", "--calibrate")
QUICK = ("--epochs=2", "--batch_size=128", "--fraction=0.4")


def app(name, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, ROOT / "apps" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run with both methods and its baseline."""
    workdir = tmp_path_factory.mktemp("run")
    command = (f"--workdir={workdir}", "--compare", *QUICK)
    code, printed = answers_of("train_cifar.py", [command])[command]
    assert code == 0, printed[-3000:]
    return workdir, printed


def test_the_run_ends_with_a_table_and_files(finished):
    workdir, printed = finished
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("exit  "))
    rows = [line.split("  ")[0] for line in lines[start + 2 : start + 7]]
    assert rows == ["exit_1", "exit_2", "exit_3 (deepest)", "ensemble", "plain baseline"]
    assert "retracing" not in printed
    assert "epoch 2/2" in printed
    results = json.loads((workdir / "results.json").read_text())
    about = {"seconds", "training_seconds", "resumed_after_epoch", "hardware", "command"}
    assert set(results) == {"costs", "measured", "flags", "versions", *about}
    assert 0 < results["training_seconds"] < results["seconds"]
    assert results["resumed_after_epoch"] == 0 and results["hardware"]["cores"] >= 1
    assert f"--workdir={workdir}" in results["command"]
    assert results["flags"]["seed"] == 0
    assert results["measured"]["test"]["ensemble"]["accuracy"] > 0.1
    with (workdir / "log.csv").open() as log:
        assert [row["epoch"] for row in csv.DictReader(log)] == ["0", "1"]
    assert list(workdir.glob("tensorboard/**/events*"))
    network = keras.models.load_model(workdir / "network.keras")
    assert sd_keras.exit_names(network) == ["exit_1", "exit_2", "exit_3"]
    assert (workdir / "saved_model/1/saved_model.pb").is_file()
    assert (workdir / "baseline/results.json").is_file()


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):
    """What apps/evaluate.py answers on the run's data, without a network, on data that differ."""
    folder, network = tmp_path_factory.mktemp("evaluated"), finished[0] / "network.keras"
    images = np.zeros((8, 4, 4, 1), "uint8")
    labels = np.arange(8) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "small.npz", **arrays)
    commands = [
        (f"--network={network}", f"--output={folder / 'figures.json'}"),
        (f"--network={folder / 'none.keras'}",),
        (f"--network={network}", f"--dataset=npz:{folder / 'small.npz'}"),
        (f"--network={network}", "--early_exit=margin", "--max_drop=0.2", *EARLY_EXIT_FILES),
        (f"--network={network}", "--early_exit=entropy", "--max_macs=0.1"),
        (f"--network={network}", "--max_drop=0.1"),
        (f"--network={network}", "--early_exit=entropy", "--split=validation"),
        (f"--network={network}", "--early_exit=entropy", "--validation=0"),
    ]
    commands = [tuple(word.replace("FOLDER", str(folder)) for word in each) for each in commands]
    return folder, list(answers_of("evaluate.py", commands).values())


def test_evaluate_agrees_with_the_run(finished, evaluated):
    folder, ((code, printed), *_) = evaluated
    assert code == 0, printed
    figures = json.loads((folder / "figures.json").read_text())
    assert figures == json.loads((finished[0] / "results.json").read_text())["measured"]["test"]
    assert "calibration error" in printed


def test_evaluate_names_what_does_not_fit(evaluated):
    _, (_, no_network, other_images, *_) = evaluated
    assert no_network[0] == other_images[0] == 1
    assert "`network` does not exist" in no_network[1]
    assert "`dataset` must have images of shape (8, 8, 1) and 10 classes" in other_images[1]


def test_evaluate_chooses_thresholds_and_measures_them(finished, evaluated):
    folder, (_, _, _, (code, printed), *_) = evaluated
    assert code == 0, printed
    assert "acceleration" in printed and "leaving early by margin" in printed
    figures = json.loads((folder / "early.json").read_text())["early_exit"]
    policy = sd_keras.inference.Policy.from_dict(
        json.loads((folder / "policy.json").read_text(), parse_constant=pytest.fail)
    )
    network = keras.models.load_model(finished[0] / "network.keras")
    images, labels = sd_keras.data.load("digits").test
    costs = sd_keras.inference.path_costs(network)
    logits = network.predict(images, batch_size=256, verbose=0)
    outcome = sd_keras.inference.measure(logits, labels, costs, policy)
    for name in ("accuracy", "drop", "cost", "shares"):
        assert figures["test"][name] == pytest.approx(getattr(outcome, name))
    assert figures["test"]["policy"] == policy.to_dict()


def test_evaluate_refuses_what_cannot_be_promised(evaluated):
    _, (*_, too_cheap, alone, same_images, no_images) = evaluated
    for answer, message in [
        (too_cheap, "`max_drop` and `max_cost` must be within reach"),
        (alone, "`early_exit` must be given with these flags. Received: ['max_drop']"),
        (same_images, "`split` must be 'test'"),
        (no_images, "`validation` must be 0.1, as in the run, or not be given"),
    ]:
        assert answer[0] == 1 and message in answer[1]


def stopped_by(number, workdir, pattern, flags):
    """Exit code and printed text of a run that gets a signal after a backup."""
    command = [sys.executable, ROOT / "apps/train_cifar.py", f"--workdir={workdir}", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 240
    while not list(workdir.glob(f"backup/{pattern}.npz")):
        assert time.time() < deadline
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    process.send_signal(number)
    printed, _ = process.communicate()
    return process.returncode, printed


@pytest.mark.process
def test_a_killed_run_goes_on_to_the_same_network(tmp_path):
    flags = ("--epochs=8", "--batch_size=128", "--fraction=0.4", "--method=data_distortion")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    app("train_cifar.py", f"--workdir={whole}", *flags)
    for number, pattern in (
        (signal.SIGKILL, "epoch_0000[2-4]*"),
        (signal.SIGTERM, "epoch_0000[5-7]*"),
    ):
        code, printed = stopped_by(number, killed, pattern, flags)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 75}[number]
    assert "stopped as requested; rerun the same command to resume" in printed
    done = app("train_cifar.py", f"--workdir={killed}", *flags)
    assert "resuming after epoch" in done.stdout
    networks = [keras.models.load_model(d / "network.keras") for d in (whole, killed)]
    for a, b in zip(*(network.weights for network in networks)):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    times = [json.loads((d / "seconds.json").read_text()) for d in (whole, killed)]
    assert [len(each) for each in times] == [8, 8]
    results = json.loads((killed / "results.json").read_text())
    assert results["training_seconds"] == pytest.approx(sum(times[1]), abs=0.1)
    logs = [(d / "log.csv").read_text().splitlines() for d in (whole, killed)]
    assert logs[0][-1] == logs[1][-1]


WRONG_FLAGS = {
    ("--dataset=cifar1000",): "`name` must be one of",
    ("--dataset=cifar100", "--data_dir=/nowhere"): "tfds build",
    ("--model=resnet9",): "`name` must be one of",
    ("--method=byot",): "be_your_own_teacher",
    ("--alpha=2",): "alpha",
    ("--precision=float8",): "precision",
    ("--epoch=2",): "epoch",
    ("--drops=10,20",): "shares of the epochs",
    ("--method=baseline", "--alpha=0.2"): "`alpha` must be given for a method that takes it",
    ("--method=knowledge_distillation",): "`teacher` must be given for knowledge_distillation",
    ("--method=fitnet", "--teacher=no.keras"): "`teacher` must be a .keras file",
    ("--method=baseline", "--teacher=resnet8"): "`teacher` must go with one of",
    ("--method=deep_mutual_learning", "--peer=resnet9"): "`peer` must be one of",
    ("--distortion=blur",): "`distortion` must be of crop_flip, affine",
    ("--deepest_last=60",): "`deepest_last` must be below the 60 epochs",
    ("--method=be_your_own_teacher", "--exits=one"): "needs at least 2 exits",
    ("--mixup=-1",): "mixup",
    ("--method=class_wise", "--on_device"): "`on_device` must be left out for class_wise",
    ("--minutes=nan",): "`minutes` must be finite",
    ("digits",): "--name=value",
}


@pytest.fixture(scope="module")
def answers(finished, tmp_path_factory):
    """What the app answers, in one process: to each of WRONG_FLAGS, and to the others below."""
    run, folder = finished[0], tmp_path_factory.mktemp("answers")
    own = (f"--workdir={folder / 'refused'}",)
    commands = {flags: (*own, *flags) for flags in WRONG_FLAGS}
    diverging = ("--learning_rate=1e20", "--method=be_your_own_teacher")
    commands["diverging"] = (f"--workdir={folder / 'diverging'}", *diverging, *QUICK)
    commands["other"] = (f"--workdir={run}", "--seed=3", *QUICK)
    short = ("--method=baseline", "--epochs=2", "--fraction=0.1", "--noexport", "--on_device")
    pieces = (f"--workdir={folder / 'pieces'}", *short, "--checkpoint_minutes=9")
    commands["in one"] = (f"--workdir={folder / 'whole'}", *short)
    commands["too short"] = (*pieces, "--minutes=0")
    commands["goes on"] = (*pieces, "--minutes=9")
    commands["longer"] = (*pieces, "--epochs=3")
    extended = (f"--workdir={folder / 'extended'}", *short, "--schedule=constant")
    commands["begun"] = (*extended, "--epochs=1")
    commands["extended"] = (*extended, "--epochs=2")
    commands["again"] = (f"--workdir={run}", "--compare", *QUICK)
    before = (run / "network.keras").read_bytes()
    answers = answers_of("train_cifar.py", list(commands.values()))
    assert (run / "network.keras").read_bytes() == before
    return folder, dict(zip(commands, answers.values()))


@pytest.mark.parametrize("flags", WRONG_FLAGS, ids=lambda flags: flags[0])
def test_wrong_flags_end_with_a_sentence(answers, flags):
    folder, answers = answers
    code, printed = answers[flags]
    assert code == 1
    assert WRONG_FLAGS[flags] in printed
    assert "Traceback" not in printed
    assert not (folder / "refused").exists(), "a wrong flag must not claim the workdir"


def test_a_finished_run_is_shown_again_without_training(finished, answers):
    code, printed = answers[1]["again"]
    assert code == 0
    assert printed.splitlines()[-9:-2] == finished[1].splitlines()[-9:-2]
    assert "epoch 1/2" not in printed


def test_a_run_ends_in_time_and_goes_on(answers):
    folder, told = answers
    code, printed = told["too short"]
    assert code == 75 and "time limit reached after epoch 1 of 2" in printed
    code, printed = told["goes on"]
    assert code == 0 and "resuming after epoch 1 of 2" in printed and "Traceback" not in printed
    assert len(json.loads((folder / "pieces/seconds.json").read_text())) == 2
    results = json.loads((folder / "pieces/results.json").read_text())
    assert results["flags"]["epochs"] == 2 and "on_device" not in results["flags"]
    whole = json.loads((folder / "whole/results.json").read_text())
    assert results["measured"] == whole["measured"]


def test_a_finished_run_is_extended_where_its_schedule_allows_it(answers):
    folder, told = answers
    code, printed = told["longer"]
    assert code == 1 and "`epochs` must stay 2, which the schedule of the learning rate" in printed
    code, printed = told["extended"]
    assert code == 0 and "extending the run from 1 to 2 epochs" in printed
    assert "resuming after epoch 1 of 2" in printed
    assert json.loads((folder / "extended/flags.json").read_text())["epochs"] == 2
    assert len(json.loads((folder / "extended/seconds.json").read_text())) == 2


@pytest.fixture
def run_training(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "apps"))
    return importlib.import_module("run_training")


def test_sigterm_before_and_after_training_has_its_code_too(run_training, monkeypatch, capsys):
    monkeypatch.setattr(run_training, "FLAGS", types.SimpleNamespace(workdir="run"))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run_training.run_app(["app"], lambda workdir: signal.raise_signal(signal.SIGTERM))
    assert left.value.code == 75 and signal.getsignal(signal.SIGTERM) is before
    assert "stopped as requested; rerun the same command to resume" in capsys.readouterr().err


def test_a_workdir_is_used_by_one_process_until_it_is_finished(run_training, tmp_path):
    with run_training.RunFolder(tmp_path / "w", {"flags.json": {"seed": 0}}) as folder:
        assert not (tmp_path / "w").exists(), "nothing is claimed before training begins"
        folder.on_train_begin()
        with (
            pytest.raises(ValueError, match="`workdir` must be used by one process at a time"),
            run_training.RunFolder(tmp_path / "w", {"flags.json": {"seed": 1}}) as other,
        ):
            other.on_train_begin()
    assert json.loads((tmp_path / "w/flags.json").read_text()) == {"seed": 0}
    with run_training.RunFolder(tmp_path / "w", {}) as folder:
        folder.on_train_begin()


def test_logged_epochs_without_backup_are_forgotten(run_training, tmp_path):
    log = tmp_path / "log.csv"
    run_training.forget_epochs(log, 3)
    assert not log.exists()
    log.write_text("epoch,loss\n0,3.0\n1,2.5\n2,2.0\n\u0000,\n3,1.")
    run_training.forget_epochs(log, 2)
    assert log.read_text() == "epoch,loss\n0,3.0\n1,2.5\n"


def test_what_is_compiled_wrongly_is_not_trained(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "apps"))
    training = importlib.import_module("run_recipe")
    network = smallest_network()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype("uint8")
    training.check_compiled(network, pixels)
    answers = network.predict(pixels, verbose=0)
    for wrong in (answers["exit_1"] * 1.5, answers["exit_1"] * np.nan):
        predict = lambda *arguments, w=wrong: answers | {"exit_1": w}  # noqa: E731
        monkeypatch.setattr("sd_keras.inference.compiled.predict", predict)
        with pytest.raises(ArithmeticError, match="in float32 gives other exit_1"):
            training.check_compiled(network, pixels)


def test_other_flags_are_refused_and_shown(answers):
    code, printed = answers[1]["other"]
    assert code == 1
    assert "`workdir` holds a run with other flags (seed: 0 → 3)" in printed
    assert "Traceback" not in printed


def test_a_diverging_run_stops_and_says_where(answers):
    code, printed = answers[1]["diverging"]
    assert code == 1
    assert "the loss is not finite at training step" in printed
    assert "exit_3_loss" in printed
    assert not list((answers[0] / "diverging").glob("network.keras"))


COMPARED_SHORT = ("--epochs=1", "--fraction=0.1", "--noexport", "--validation=0")
COMPARED = {
    "taught": ("--method=knowledge_distillation", "--teacher=resnet8", "--temperature=2"),
    "together": ("--method=deep_mutual_learning", "--peer=resnet8", "--exits=all"),
    "pairs": ("--method=class_wise", "--weight=0.5"),
    "past": ("--method=progressive", "--share=0.5", "--cutmix=1"),
    "ramped": ("--method=be_your_own_teacher", "--ramp=0.5", "--alternating=2"),
    "attacked": ("--method=data_distortion", "--adversarial=2", "--kl_weight=0.5"),
    "last": ("--method=deep_supervision", "--label_weight=0.5", "--deepest_last=1", "--epochs=2"),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Short runs of methods with other networks, pairs, steps; each alone in its folder."""
    folder = tmp_path_factory.mktemp("compared")
    runs = COMPARED | {
        "again": ("--method=attention_transfer", f"--teacher={folder / 'taught/teacher'}")
    }
    commands = [(f"--workdir={folder / name}", *COMPARED_SHORT, *own) for name, own in runs.items()]
    answers = answers_of("train_cifar.py", commands)
    return folder, dict(zip(runs, answers.values()))


@pytest.mark.large
def test_methods_to_compare_with_are_trained(compared):
    folder, answers = compared
    for name, (code, printed) in answers.items():
        assert code == 0, printed[-3000:]
        results = json.loads((folder / name / "results.json").read_text())
        assert list(results["measured"]) == ["test"]
        assert not (folder / name / "saved_model").exists()
    teacher = json.loads((folder / "taught/teacher/results.json").read_text())
    assert teacher["flags"]["method"] == "baseline"
    assert "with 3 exits; deep_mutual_learning" in answers["together"][1]


@pytest.mark.large
def test_flags_reach_the_method(compared):
    folder, _ = compared
    models = {}
    for name in ("taught", "pairs", "past", "ramped", "attacked", "last"):
        arguments = [*COMPARED_SHORT, *COMPARED[name]]
        if name == "taught":
            arguments.append(f"--teacher={folder / 'taught/teacher'}")
        with app_in_process.parsed("train_cifar.py", arguments) as train_cifar:
            splits = sd_keras.data.load("digits", validation=0)
            teacher = train_cifar["teacher_of_run"](splits, None)
            flags = train_cifar["FLAGS"]
            models[name] = train_cifar["build_model"](splits, flags.method, flags.model, teacher)
    taught, pairs, past = (models[n].method.objectives[0] for n in ("taught", "pairs", "past"))
    assert taught.temperature == 2 and pairs.weight == 0.5
    assert float(past.weight(10**6)) == pytest.approx(0.5)
    assert float(past.weight(0)) == 0.0
    kl = models["ramped"].method.objectives[0]
    # 144 images are 3 steps; turns of 2 steps begin with the method, whose α rises from 0.
    assert [float(kl.at(step).weight) for step in (0, 2, 4)] == [0.0, 0.0, 0.5]
    assert models["attacked"].adversary.epsilon == 2
    assert models["attacked"].method.objectives[0].weight == 0.5
    weights = [list(map(float, models["last"].method.label_weights(2, s))) for s in (2, 3)]
    assert weights == [[0.5, 1.0], [0.0, 1.0]]


@pytest.mark.process
@pytest.mark.parametrize("backend", ["jax"])
def test_the_main_job_runs_on_another_backend(tmp_path, backend, monkeypatch):
    pytest.importorskip(backend)
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", backend)
    done = app("train_cifar.py", f"--workdir={tmp_path}", *QUICK)
    assert "ensemble" in done.stdout
    assert not (tmp_path / "saved_model").exists()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["versions"]["backend"] == backend
