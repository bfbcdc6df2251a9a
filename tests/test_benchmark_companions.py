"""The benchmark's part on teachers and peers, on tiny settings."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

APPS = Path(__file__).resolve().parents[1] / "apps"


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="bars are for TensorFlow")
def test_a_teacher_and_a_peer_are_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(APPS))
    part = importlib.import_module("benchmarks.companions")
    monkeypatch.setattr(part, "TEACHER", "resnet8")
    settings = SimpleNamespace(model="resnet8", num_classes=4, batch_size=4, repeats=1)
    settings.precision = ["float32"]
    figures = part.companions_figures(settings)
    assert [figure["bar"] for figure in figures] == ["<= 1.03", "<= 1.05"]
    for figure in figures:
        assert all(math.isfinite(value) and value > 0 for value in figure["values"])
        assert figure["beside"].count("+") == 1
