"""The benchmark's part that asks exported networks: what its figures are made of."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

APPS = Path(__file__).resolve().parents[1] / "apps"


@pytest.fixture
def inference_part(monkeypatch):
    """The module, as where LiteRT and ONNX Runtime are not installed."""
    if keras.config.backend() != "tensorflow":
        pytest.skip("the benchmark is for Keras on TensorFlow")
    monkeypatch.syspath_prepend(str(APPS))
    part = importlib.import_module("benchmarks.inference")
    finder = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(part, "importlib", finder)
    return part


def test_every_exit_mix_and_size_is_measured(inference_part):
    settings = SimpleNamespace(model="resnet8", num_classes=4, repeats=1)
    figures = inference_part.inference_figures(settings)
    names = [figure["name"] for figure in figures]
    assert names[:3] == ["SavedModel / weights", "load", "first answer"]
    exits = [
        f"SavedModel {n}, batch {b}" for b in (32, 1) for n in ("exit_1", "exit_2", "ensemble")
    ]
    assert set(exits) < set(names)
    assert sum("/ expected" in name for name in names) == 6
    assert len(figures) == 3 + 6 + 6
    assert all(math.isfinite(v) and v > 0 for figure in figures for v in figure["values"])


def test_the_share_of_an_exit_is_its_speed_by_multiply_accumulates(inference_part, monkeypatch):
    seconds = {"plain": [8.0, 4.0], "exit_1": [2.0, 2.0], "exit_2": [4.0, 4.0]}
    seconds |= {"exit_3": [8.0, 8.0], "exit_4": [9.0, 9.0], "ensemble": [16.0, 8.0]}
    monkeypatch.setattr(inference_part, "interleave", lambda turns, repeats: seconds)
    settings = SimpleNamespace(model="resnet18", repeats=2)
    macs = {"exit_1": 10, "exit_2": 20, "exit_3": 30, "exit_4": 40, "ensemble": 50, "plain": 40}
    rows = inference_part.exit_figures("SavedModel", lambda *_: None, 32, macs, settings)
    assert len(rows) == 8
    first, share = rows[:2]
    assert (first["name"], first["values"]) == ("SavedModel exit_1, batch 32", [4.0, 2.0])
    assert "4.00 by MACs; table 5: 3.11" in first["beside"]
    # 2 is half of 4.
    assert share["values"] == [1.0, 0.5] and share["of_fastest"] == 0.5
    assert [row["bar"] for row in rows[1::2]] == [">= 0.70", ">= 0.80", ">= 0.95", ">= 0.95"]
