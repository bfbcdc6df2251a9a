"""The benchmarks on tiny settings: what their figures are made of, not how fast anything is."""

import importlib
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import answers_of

import sd_keras
from sd_keras.data import OnDevice

APPS = pathlib.Path(__file__).resolve().parents[1] / "apps"
SETTINGS = SimpleNamespace(
    model="resnet8",
    batch_size=4,
    precision=["float32"],
    num_classes=4,
    repeats=1,
    image_size=64,
    jpegs=None,
    images=8,
    methods=["baseline", "data_distortion"],
    chosen=("model", "batch_size"),
)
on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="these benchmarks are for TensorFlow"
)


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(APPS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_sides_take_turns(module):
    calls, ticks = [], iter(range(1000))
    functions = {"a": lambda: calls.append("a"), "b": (lambda: calls.append("b"), 2)}
    interleave = module("harness").interleave
    seconds = interleave(functions, 3, warm_up=1, clock=lambda: next(ticks))
    assert calls == ["a", "b", "b"] * 4
    assert seconds == {"a": [1, 1, 1], "b": [0.5, 0.5, 0.5]}
    # Each clock reading takes a second: a round takes four of them.
    seconds = interleave(functions, 9, warm_up=0, limit=7, clock=lambda: next(ticks))
    assert len(seconds["a"]) == len(seconds["b"]) == 2


def test_figures_are_ratios_within_a_round(module):
    harness = module("harness")
    seconds = {"ours": [2.0, 1.0, 3.0], "theirs": [4.0, 4.0, 3.0]}
    row = harness.ratio("x", seconds, "ours", "theirs", "<= 0.4", "more", unit="%")
    assert row["values"] == [0.5, 0.25, 1.0]
    assert (row["median"], row["min"], row["max"]) == (0.5, 0.25, 1.0)
    assert row["of_fastest"] == 1 / 3 and row["seconds"] == [2, 4]
    assert row["met"] is False and row["note"].endswith("more")
    row = harness.ratio("y", seconds, "ours", "theirs", ">= 2", images=8, precision="float32")
    assert row["values"] == [2, 4, 1] and row["of_fastest"] == 3 and row["met"] is True
    assert row["images_per_second"] == [4, 2]
    fact = harness.figure("z", [3.0], unit="s")
    assert fact["bar"] is None and fact["met"] is None
    lines = harness.table([row | {"part": "p"}, fact | {"part": "q"}]).splitlines()
    assert len(lines) == 3
    assert all(word in lines[1].split() for word in ("p", "y", "float32", "2.000", ">=", "yes"))
    assert lines[2].split() == ["q", "z", *["3.000", "s"] * 3]


@pytest.mark.large
@on_tensorflow
def test_the_report_holds_settings_and_figures(tmp_path):
    output = tmp_path / "results.json"
    tiny = ("--model=resnet8", "--batch_size=4", "--repeats=1", "--precision=float32")
    command = ("build", *tiny, f"--output={output}")
    code, printed = answers_of("benchmark.py", [command])[command]
    assert code == 0, printed
    report = json.loads(output.read_text())
    assert list(report["settings"]) == ["build"]
    settings = report["settings"]["build"]
    assert (settings["model"], settings["batch_size"], settings["repeats"]) == ("resnet8", 4, 1)
    assert settings["precision"] == ["float32"] and settings["num_classes"] == 100
    assert {"model", "batch_size"} <= set(settings["chosen"]) <= {*settings}
    assert report["machine"]["processor"] and report["machine"]["cores"] >= 1
    assert {"python", "keras", "tensorflow", "jax", "numpy", "torch"} == set(report["versions"])
    figures = report["figures"]
    assert [row["part"] for row in figures] == ["build", "build"]
    assert all(row["name"] in printed for row in figures)
    for row in figures:
        assert row["min"] == row["median"] == row["max"] > 0
        direction, limit = row["bar"].split()
        assert row["met"] is (
            row["median"] <= float(limit) if direction == "<=" else row["median"] >= float(limit)
        )


WRONG = {
    ("speed",): "analysis, import, all. Received: ['speed']",
    ("steps", "speed"): "Received: ['speed', 'steps']",
    (): "what to measure must be of: steps, torch,",
    ("steps", "--precision=float8"): "`--precision` must be of float32, mixed_bfloat16. Received",
    ("train", "--image_size=16"): "16 is not integer >= 32",
    ("train", "--workers=2"): "--workers",
    ("train", "--images=100"): "`--images` needs device. Received: --images=100",
    ("steps", "--jpegs=DIR"): "`--jpegs` needs input. Received: --jpegs=DIR",
    ("steps", "train", "--device"): "`--device` is for train alone. Received: ['steps', 'train']",
    ("train", "--device", "--workers"): "`--workers` must not be given with `--device`",
    ("steps", "device"): "`device` must be measured alone. Received: ['device', 'steps']",
    ("device", "--images=100"): "`--images` must be at least the batch size",
    ("device", "--methods=byot"): "`--methods` must be of baseline,",
    ("steps", "--output=nowhere/results.json"): "`--output` must be in a folder",
}


def test_wrong_requests_are_refused():
    for arguments, (code, printed) in answers_of("benchmark.py", WRONG).items():
        assert code == 1 and WRONG[arguments] in printed, (arguments, printed)


def large(*values):
    return pytest.param(*values, marks=pytest.mark.large)


@on_tensorflow
@pytest.mark.parametrize(
    "function,count",
    [
        ("cifar.distortion", 5 + 4 + 5),
        large("cifar.steps", 3),
        large("cifar.losses", 1 + 4),
        large("cifar.precision", 1),
        large("cifar.companions", 2),
        large("imagenet.input_pipeline", 3 + 3 + 1),
        pytest.param("cifar.import_time", 1, marks=pytest.mark.process),
        pytest.param("imagenet.train", 1 + 4 * 2, marks=pytest.mark.process),
        pytest.param("imagenet.workers", 1, marks=pytest.mark.process),
        pytest.param("imagenet.backup", 2, marks=pytest.mark.process),
        # Size, load, first answer; three signatures at two batch sizes; mixes.
        large("inference.exported", 3 + 3 * 2 + 6),
    ],
)
def test_every_figure_is_positive(module, monkeypatch, function, count):
    name, function = function.split(".")
    part = module(name)
    settings = SimpleNamespace(**vars(SETTINGS))
    if name == "inference":  # as where LiteRT and ONNX Runtime are not installed
        finder = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
        monkeypatch.setattr(part, "importlib", finder)
    if function == "input_pipeline":
        monkeypatch.setattr(part, "INPUT_STEPS", 2)
    if function == "companions":
        monkeypatch.setattr(part, "TEACHER", "resnet8")
    figures = list(getattr(part, function)(settings))
    assert len(figures) == len({row["name"] for row in figures}) == count
    for row in figures:
        if function != "input_pipeline":  # differences of two passes, of a few images here
            assert all(math.isfinite(value) and value > 0 for value in row["values"]), row
    if function == "steps":
        byot, two_views, both = (row["macs_ratio"] for row in figures)
        assert two_views == 2 and both == 2 * byot > 2


@on_tensorflow
@pytest.mark.large
def test_as_many_noisy_evaluations_as_plain_ones(module, monkeypatch):
    part, calls = module("cifar"), []
    original = part.Evaluation.__call__

    def counted(self, *arguments):
        calls.append(bool(self.variables))
        return original(self, *arguments)

    monkeypatch.setattr(part.Evaluation, "__call__", counted)
    sizes = {"NOISE_LEVELS": 2, "NOISE_DRAWS": 2, "NOISE_IMAGES": 8, "GRADIENT_BATCHES": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(part, name, value)
    noise, by_layer = part.analyses(SimpleNamespace(**vars(SETTINGS) | {"repeats": 2}))
    assert (len(noise["values"]), len(by_layer["values"])) == (2, 2)
    assert all(value > 0 for value in noise["values"] + by_layer["values"])
    # One to compile, then 2 × 2 of either kind in each of two rounds.
    assert calls == [False, *([True] * 4 + [False] * 4) * 2]


@on_tensorflow
def test_a_step_counts_three_passes_over_every_view(module, monkeypatch):
    part = module("imagenet")
    seconds = {"float32": [2.0, 4.0], "mixed_bfloat16": [1.0, 1.0]}
    monkeypatch.setattr(part, "interleave", lambda *arguments, **options: seconds)
    settings = SimpleNamespace(**vars(SETTINGS) | {"precision": list(seconds)})
    peaks = {"float32": 50.0, "mixed_bfloat16": 100.0}
    network = sd_keras.models.resnet8((64, 64, 3), stem="imagenet")
    network = sd_keras.attach_exits(network, 4, at=[])
    operations = sd_keras.analysis.costs(network)["exit_1"]["flops"] * 3 * 2 / 1e9
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(part, "machine", lambda has=has_bfloat16: {"avx512_bf16": has})
        figures = list(part._method_figures("data_distortion", peaks, settings))
        for speed, share in (figures[:2], figures[2:4]):
            name = share["precision"]
            assert speed["values"] == [4 / value for value in seconds[name]]
            assert share["gflop_per_image"] == pytest.approx(operations)
            expected = [value * operations / peaks[name] for value in speed["values"]]
            assert share["values"] == pytest.approx(expected)
        assert figures[4]["values"] == [2, 4]
        assert figures[4]["met"] is (True if has_bfloat16 else None)


@on_tensorflow
def test_the_bar_of_an_exit_is_a_share_of_what_its_cost_promises(module, monkeypatch):
    part = module("inference")
    seconds = {"plain": [8.0, 4.0], "exit_1": [2.0, 2.0], "exit_2": [4.0, 4.0]}
    seconds |= {"exit_3": [8.0, 8.0], "exit_4": [9.0, 9.0], "ensemble": [16.0, 8.0]}
    monkeypatch.setattr(part, "interleave", lambda functions, repeats: seconds)
    macs = {"exit_1": 10, "exit_2": 20, "exit_3": 30, "exit_4": 40, "ensemble": 50, "plain": 40}
    rows = list(part.exit_figures("SavedModel", lambda *_: None, 32, macs, 2))
    assert [row["name"].split()[3] for row in rows] == [
        "exit_1,",
        "exit_2,",
        "exit_3,",
        "ensemble,",
    ]
    assert rows[0]["values"] == [4.0, 2.0] and rows[0]["macs_ratio"] == 4
    assert [row["bar"] for row in rows] == [">= 2.80", ">= 1.60", ">= 1.27", ">= 0.76"]
    rows = part.exit_figures("LiteRT", lambda *_: None, 32, macs, 2)
    assert {row["bar"] for row in rows} == {None}


def test_an_epoch_is_whole_blocks_of_one_size(module):
    device = module("device")
    assert device.whole_blocks(50_000, 128) == (390, 78)
    for images in (1, 7, 100, 101, 211, 499):
        steps, block = device.whole_blocks(images, 1)
        assert steps % block == 0 and images - steps <= images % 100
        data = OnDevice(np.zeros((steps, 1)), np.zeros(steps), 1, steps=block)
        assert {len(numbers) for numbers in data.blocks()} == {block}


def answer(*seconds, memory=None, note=""):
    """A worker's answers: two that do not count, and further ones."""
    return [{"seconds": s, "memory": memory, "note": note} for s in (12.0, 3.0, *seconds)]


def test_what_the_figures_of_a_device_are_made_of(module):
    answers = {("ours", "baseline"): answer(2.0, 1.0, 4.0, memory=2**31, note="compiled")}
    macs = {"baseline": 5 * 10**8}
    rows = module("device").rows

    # Three passes of two operations: 3 GFLOP an image.
    made = list(rows(answers, macs, 1000, 6e-3, is_accelerator=True, has_bars=True))
    assert made[0]["values"] == [500, 1000, 250]
    assert made[1]["values"] == pytest.approx([250, 500, 125])
    assert [row["median"] for row in made] == pytest.approx([500, 250, 10, 2])
    assert [row["met"] for row in made] == [False, None, None, None]
    assert made[0]["note"] == "compiled" and made[3]["note"] == "of the device"
    unknown = {("ours", "baseline"): answer(1.0)}
    assert len(list(rows(unknown, macs, 1000, 6.0, True, False))) == 3


@pytest.mark.parametrize("has_bars", [True, False])
def test_ratios_are_within_rounds_and_by_view(module, has_bars):
    rows = module("device").rows
    answers = {
        ("ours", "baseline"): answer(1.0, 2.0, 1.0),
        ("torch", "baseline"): answer(2.0, 2.0, 4.0),
        ("ours", "data_distortion"): answer(2.0, 2.0, 4.0),
        ("torch", "data_distortion"): answer(1.0, 1.0, 1.0),
    }
    macs = {"baseline": 1, "data_distortion": 2}
    made = {row["name"]: row for row in rows(answers, macs, 100, 1.0, True, has_bars)}
    assert len(made) == 4 * 3 + 4
    by_view = made["ours, data_distortion / plain images/s, by view"]
    assert by_view["values"] == [1.0, 2.0, 0.5] and by_view["of_fastest"] == 1.0
    assert made["baseline, ours / torch images/s"]["values"] == [2.0, 1.0, 4.0]
    against = made["data_distortion, ours / torch images/s"]
    assert against["values"] == [0.5, 0.5, 0.25]
    expected = [">= 0.95", ">= 1.0", False] if has_bars else [None, None, None]
    assert [by_view["bar"], against["bar"], against["met"]] == expected
    assert made["torch, data_distortion / plain images/s, by view"]["bar"] is None
    alone = {key: each for key, each in answers.items() if key[1] == "data_distortion"}
    assert len(list(rows(alone, macs, 100, 1.0, True, False))) == 2 * 3 + 1  # ours / torch


@pytest.mark.process
def test_a_worker_that_fails_is_named_and_ends_the_others(module):
    harness = module("harness")
    work = {"num_classes": 4, "batch_size": 4, "steps": 2, "block": 1, "views": 1}
    work |= {"method": "baseline", "precision": "float32"}
    workers = {
        model: [harness.WorkerProcess(model, "device.train_in_turns", model=model, **work)]
        for model in ("resnet8", "resnet19")
    }
    with pytest.raises(SystemExit) as error:
        harness.take_turns(workers, 3)
    message = str(error.value)
    assert message.startswith("resnet19 failed: ")
    assert "resnet18" in message and "Traceback" not in message
    assert not any(side[0].process.is_alive() for side in workers.values())
    with (
        pytest.raises(SystemExit, match="(?s)a test failed: .*no_such_function"),
        harness.WorkerProcess("a test", "harness.no_such_function") as worker,
    ):
        worker.answer()


@pytest.mark.process
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_device_on_the_cpu(tmp_path, monkeypatch, backend):
    """On JAX nothing may need TensorFlow, and no side needs PyTorch."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    for name in {"tensorflow", "torch"} - {backend}:
        (tmp_path / f"{name}.py").write_text("raise ImportError('there is none')\n")
    output = tmp_path / "results.json"
    method = "--methods=baseline,data_distortion"
    flags = ["--model=resnet8", "--batch_size=4", "--images=8", "--repeats=1", method]
    script = """
import importlib.util, runpy, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{APPS}:{APPS.parent}")
    command = [sys.executable, "-c", script, APPS / "benchmark.py", "train", "--device", *flags]
    done = subprocess.run(
        [*command, f"--output={output}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["settings"]["device"]["precision"] == ["mixed_bfloat16"]
    figures = report["figures"]
    # Two peaks; of each method speed, share, time to compile and memory; a ratio.
    assert len(figures) == 2 + 4 * 2 + 1
    values = [value for row in figures for value in row["values"]]
    assert all(math.isfinite(value) for value in values)
    assert {row["bar"] for row in figures} == {None}
    assert {row["precision"] for row in figures} == {"mixed_bfloat16"}
    assert "ours, data_distortion / plain images/s, by view" in [row["name"] for row in figures]
    notes = " ".join(report["notes"])
    assert "PyTorch is not installed" in notes and "the bars are for H200" in notes
