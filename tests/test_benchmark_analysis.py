"""The benchmark's part that evaluates under noise: what its figure is made of."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

APPS = Path(__file__).resolve().parents[1] / "apps"


@pytest.fixture
def analysis_part(monkeypatch):
    if keras.config.backend() != "tensorflow":
        pytest.skip("the benchmark is for Keras on TensorFlow")
    monkeypatch.syspath_prepend(str(APPS))
    part = importlib.import_module("benchmarks.analysis")
    for name, value in (("LEVELS", 2), ("DRAWS", 2), ("IMAGES", 8)):
        monkeypatch.setattr(part, name, value)
    return part


def test_noisy_evaluations_stand_beside_as_many_plain_ones(analysis_part, monkeypatch):
    calls = []
    own = analysis_part.Evaluation.__call__

    def counted(self, *arguments):
        calls.append(self.variables)
        return own(self, *arguments)

    monkeypatch.setattr(analysis_part.Evaluation, "__call__", counted)
    monkeypatch.setattr(analysis_part, "BATCHES", 2)
    settings = SimpleNamespace(model="resnet8", num_classes=4, repeats=2, batch_size=4)
    row, by_layer = analysis_part.analysis_figures(settings)
    assert (by_layer["bar"], len(by_layer["values"])) == ("<= 1.05", 2)
    assert row["part"] == "analysis" and row["bar"] == "<= 1.1"
    assert len(row["values"]) == 2 and all(math.isfinite(v) and v > 0 for v in row["values"])
    # One to compile, then 2 × 2 of either kind in each of two rounds.
    assert [bool(variables) for variables in calls] == [False, *([True] * 4 + [False] * 4) * 2]
