"""The benchmark's part that trains on the device: its arithmetic and its processes."""

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from sd_keras.data import OnDevice

ROOT = Path(__file__).resolve().parents[1]
APPS = ROOT / "apps"
METHODS = (
    "baseline",
    "be_your_own_teacher",
    "data_distortion",
    "be_your_own_teacher+data_distortion",
)


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(APPS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


class Flags(SimpleNamespace):
    """Flags as the app reads them, some of them given."""

    defaults = {
        "model": "resnet18",
        "num_classes": 100,
        "batch_size": 64,
        "precision": ["float32", "mixed_bfloat16"],
        "repeats": 10,
        "images": 50_000,
        "device": True,
        "methods": list(METHODS),
        **{"workers": False, "image_size": 224, "piece_batch_size": 128},
    }

    def __init__(self, **given):
        super().__init__(**self.defaults | given)
        self.given = given

    def __getitem__(self, name):
        return SimpleNamespace(
            using_default_value=name not in self.given,
            value=getattr(self, name),
            default=self.defaults[name],
        )


def test_an_epoch_is_whole_blocks_of_one_size(module):
    device = module("device")
    assert device.whole_blocks(50_000, 128) == (390, 78)
    for images in (1, 7, 100, 101, 211, 499):
        steps, block = device.whole_blocks(images, 1)
        assert steps % block == 0 and images - steps <= images % 100
        data = OnDevice(np.zeros((steps, 1)), np.zeros(steps), 1, steps=block)
        assert {len(numbers) for numbers in data.blocks()} == {block}
    with pytest.raises(SystemExit, match="Received: --images=7, batches of 8"):
        device.whole_blocks(7, 8)


def test_the_defaults_are_those_that_the_bars_are_for(module):
    settings_of = module("device").settings_of
    settings = settings_of(Flags())
    assert settings.are_defaults and settings.images == 49_920
    assert (settings.batch_size, settings.precision) == (128, ["mixed_bfloat16"])
    assert settings_of(Flags(batch_size=128, precision=["mixed_bfloat16"])).are_defaults
    for given in ({"batch_size": 64}, {"precision": ["float32"]}, {"model": "resnet34"}):
        assert not settings_of(Flags(**given)).are_defaults
    assert settings.shown()["images"] == 49_920


def test_flags_that_do_not_go_together(module):
    check = module("device").check
    for given, message in (
        (
            {"methods": ["byot"]},
            r"`--methods` must be of baseline, .*Received: --methods=\['byot'\]",
        ),
        ({"methods": []}, r"Received: --methods=\[\]"),
        ({"device": False, "methods": ["baseline"]}, "`--methods` needs `--device`"),
        ({"device": False, "images": 9}, "`--images` needs `--device`. Received: --images=9"),
        ({"workers": True}, "`--workers` does not go with `--device`"),
    ):
        with pytest.raises(SystemExit, match=message):
            check(Flags(**given), ["train"])
    check(Flags(methods=["data_distortion"]), ["train"])


def test_where_pytorch_is_left_out_a_note_says_why(module, monkeypatch):
    device, notes = module("device"), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    settings = device.settings_of(Flags())
    assert device.has_torch(settings, notes) and not notes
    assert not device.has_torch(settings._replace(model="vgg16"), notes)
    assert notes.pop() == "torch is left out: vgg16 is not written in PyTorch here"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not device.has_torch(settings, notes)
    assert "pip install '.[torch]'" in notes.pop()


def test_what_the_figures_are_made_of(module):
    rows = module("device_rows")
    measured = rows.Measured(1000, 5 * 10**8, 12.0, [2.0, 1.0, 4.0], 2**31, "compiled")
    assert measured.speeds == [500, 1000, 250] and measured.compile_seconds == 10
    # Three passes of two operations: 3 GFLOP an image.
    assert measured.shares(peak=6.0) == pytest.approx([0.25, 0.5, 0.125])
    made = rows.side_rows("ours, x", measured, 6.0, True, "float32", ">= 600")
    assert [row["median"] for row in made] == pytest.approx([500, 0.25, 10, 2])
    assert [row["met"] for row in made] == [False, None, None, None]
    assert made[3]["beside"] == "of the device"
    unknown = measured._replace(memory=None)
    assert len(rows.side_rows("ours, x", unknown, 6.0, True, "float32")) == 3


@pytest.mark.parametrize("has_bars", [True, False])
def test_ratios_are_within_rounds_and_by_view(module, has_bars):
    rows = module("device_rows")

    def side(*seconds):
        return rows.Measured(100, 1, 9.0, list(seconds), 1)

    results = {
        ("ours", "baseline"): side(1.0, 2.0, 1.0),
        ("torch", "baseline"): side(2.0, 2.0, 4.0),
        ("ours", "data_distortion"): side(2.0, 2.0, 4.0),
        ("torch", "data_distortion"): side(1.0, 1.0, 1.0),
    }
    made = {row["name"]: row for row in rows.ratio_rows(results, "float32", has_bars)}
    by_view = made["ours, data_distortion / plain images/s, by view"]
    assert by_view["values"] == [1.0, 2.0, 0.5] and by_view["of_fastest"] == 1.0
    assert made["baseline, ours / torch images/s"]["values"] == [2.0, 1.0, 4.0]
    against = made["data_distortion, ours / torch images/s"]
    assert against["values"] == [0.5, 0.5, 0.25]
    expected = [">= 0.95", ">= 1.0", False] if has_bars else [None, None, None]
    assert [by_view["bar"], against["bar"], against["met"]] == expected
    assert made["torch, data_distortion / plain images/s, by view"]["bar"] is None
    assert len(made) == 4
    alone = {key: each for key, each in results.items() if key[1] == "data_distortion"}
    assert len(rows.ratio_rows(alone, "float32", has_bars)) == 1  # ours / torch


def test_a_rate_counts_the_calls_of_a_round(module):
    peak = module("peak")
    ticks = iter(range(1000))
    calls = []
    work = peak.Work(10, 1, 2, 3, calls=4)
    functions = {"matrix product": lambda: calls.append(1)}
    found = peak.rates(functions, lambda made: None, work, clock=lambda: next(ticks))
    # 2000 operations a call, four calls a second of this clock.
    assert set(found["matrix product"]) == {8e-9}
    assert len(calls) == 2 + 4 * len(found["matrix product"])
    assert work.operations["3x3 convolution"] == 2 * 4 * 9 * 9


@pytest.fixture
def processes(module, monkeypatch, tmp_path):
    """The part, whose processes find neither PyTorch nor another backend."""

    def prepare(backend):
        device = module("device")
        monkeypatch.setattr(device, "has_torch", lambda settings, notes: False)
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        if backend != "tensorflow":
            (tmp_path / "tensorflow.py").write_text("raise ImportError('there is none')\n")
            path.insert(0, str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        monkeypatch.setenv("KERAS_BACKEND", backend)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        return device

    return prepare


SMALL = {"model": "resnet8", "batch_size": 4, "images": 8, "repeats": 1}


@pytest.mark.parametrize(
    "backend,names",
    [
        pytest.param("tensorflow", ["baseline", "data_distortion"], marks=pytest.mark.slow),
        ("jax", ["data_distortion"]),  # on which nothing may need TensorFlow
    ],
)
def test_a_run_on_the_cpu(processes, backend, names):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    device = processes(backend)
    figures, notes = device.device_figures(Flags(**SMALL, methods=names))
    # Two peaks; of each method speed, share, time to compile and memory; against the plain one,
    # where it is among them, a ratio.
    assert len(figures) == 2 + 4 * len(names) + len(names) - 1
    assert all(math.isfinite(v) and v > 0 for figure in figures for v in figure["values"])
    assert {figure["bar"] for figure in figures} == {None}
    assert f"{backend} on cpu" in notes[0] and "the bars are for H200" in notes[1]


@pytest.mark.slow
def test_the_command_without_tensorflow(processes, tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    processes("jax")
    output = tmp_path / "results.json"
    flags = [f"--{name}={value}" for name, value in SMALL.items()] + [f"--output={output}"]
    command = [sys.executable, APPS / "benchmark.py", "train", "--device", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["settings"]["images"] == 8 and report["settings"]["precision"] == [
        "mixed_bfloat16"
    ]
    names = [row["name"] for row in report["figures"]]
    assert all(f"  {name}  " in done.stdout for name in names)
    assert {f"ours, {method}, images/s" for method in METHODS} <= set(names)


def test_a_process_that_fails_is_named_and_ends_the_others(processes, monkeypatch):
    backend = keras.config.backend()
    device = processes(backend)
    started = []
    own = device.Side

    def start(*args, **kwargs):
        started.append(own(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(device, "Side", start)
    settings = device.settings_of(Flags(**SMALL | {"model": "resnet19", "methods": ["baseline"]}))
    with pytest.raises(SystemExit) as error:
        device._trained(["ours"], settings, "float32")
    message = str(error.value)
    assert message.startswith("ours, baseline failed with exit code 1:")
    assert "resnet18" in message and "Traceback" not in message
    assert all(side.process.returncode is not None for side in started)
