"""The benchmark's part that trains at ImageNet's size: what its figures are made of."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

import sd_keras

APPS = Path(__file__).resolve().parents[1] / "apps"


@pytest.fixture
def train_part(monkeypatch):
    """The module of the part that trains at ImageNet's size."""
    if keras.config.backend() != "tensorflow":
        pytest.skip("the benchmark is for Keras on TensorFlow")
    monkeypatch.syspath_prepend(str(APPS))
    return importlib.import_module("benchmarks.train")


class Given(SimpleNamespace):
    """Flags, some of them left at their defaults, in the forms in which the app reads them."""

    left_out = ()

    def __getitem__(self, name):
        return SimpleNamespace(using_default_value=name in self.left_out)


def test_a_step_counts_three_passes_over_every_view(train_part):
    precisions = ["float32", "mixed_bfloat16"]
    settings = Given(model="resnet8", batch_size=2, num_classes=10, image_size=32, repeats=2)
    peaks = {"float32": 50.0, "mixed_bfloat16": 100.0}
    figures = train_part._method_figures("data_distortion", precisions, peaks, settings)
    assert len(figures) == 5
    backbone = sd_keras.models.resnet8((32, 32, 3), stem="imagenet")
    network = sd_keras.attach_exits(backbone, 10, at=[])
    operations = sd_keras.analysis.costs(network)["exit_1"]["flops"] * 3 * 2 / 1e9
    for speed, share in (figures[:2], figures[2:4]):
        assert share["gflop_per_image"] == pytest.approx(operations)
        expected = [v * operations / peaks[share["precision"]] for v in speed["values"]]
        assert share["values"] == pytest.approx(expected) and min(expected) > 0
    ratio = [a / b for a, b in zip(figures[2]["values"], figures[0]["values"])]
    assert figures[4]["values"] == pytest.approx(ratio)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_has_a_bar_where_the_processor_has_it(train_part, monkeypatch, has_bfloat16):
    monkeypatch.setattr(train_part, "machine", lambda: {"avx512_bf16": has_bfloat16})
    speeds = {"mixed_bfloat16": [3.0, 4.0, 5.0], "float32": [2.0, 2.0, 2.0]}
    ratio = train_part._ratio("baseline", speeds)
    assert ratio["median"] == 2 and ratio["of_fastest"] == 2.5
    assert ratio["met"] is (True if has_bfloat16 else None)
    assert has_bfloat16 or "does not apply" in ratio["beside"]
    both = ["float32", "mixed_bfloat16"]
    asked, default = (Given(precision=both, left_out=names) for names in ((), ("precision",)))
    assert train_part.precisions_of("data_distortion", asked) == both
    assert train_part.precisions_of("baseline", default) == both
    few = train_part.precisions_of("data_distortion", default)
    assert few == (both if has_bfloat16 else ["float32"])
