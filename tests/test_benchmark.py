"""The benchmark on tiny settings: what it writes, not how fast it is; and its PyTorch twin."""

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
from conftest import answers_of
from keras import ops

ROOT = Path(__file__).resolve().parents[1]
APPS = ROOT / "apps"
TINY = ["--model=resnet8", "--batch_size=4", "--piece_batch_size=4", "--repeats=1"]
# The app as it runs where PyTorch is not installed.
WITHOUT_TORCH = """
import importlib.util, runpy, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments, before=()):
    path = os.pathsep.join([str(ROOT), str(APPS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *before, str(APPS / "benchmark.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"},
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All parts but the one that needs PyTorch: what was printed and the JSON file."""
    output = tmp_path_factory.mktemp("benchmark") / "results.json"
    arguments = ["all", *TINY, "--precision=float32", f"--output={output}"]
    result = run(*arguments, before=["-c", WITHOUT_TORCH])
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(output.read_text())


def test_every_figure_is_positive_and_stands_beside_its_bar(measured):
    _, report = measured
    parts = [figure["part"] for figure in report["figures"]]
    assert {part: parts.count(part) for part in parts} == {
        "steps": 3,
        "precision": 1,
        "distortion": 14,
        "losses": 5,
        "build": 2,
        "input": 7,
        "import": 1,
    }
    for figure in report["figures"]:
        values = [figure[key] for key in ("median", "min", "max")] + figure["values"]
        assert all(math.isfinite(value) and value > 0 for value in values), figure
        assert figure["min"] <= figure["median"] <= figure["max"]
        if figure["bar"] is None:
            continue
        direction, limit = figure["bar"].split()
        reached = {"<=": figure["median"] <= float(limit), ">=": figure["median"] >= float(limit)}
        assert figure["met"] is reached[direction]


def test_the_report_says_what_was_measured(measured):
    _, report = measured
    assert report["settings"] == {
        "model": "resnet8",
        "batch_size": 4,
        "piece_batch_size": 4,
        "num_classes": 100,
        "precision": ["float32"],
        "repeats": 1,
    }
    assert report["machine"]["processor"] and report["machine"]["cores"] >= 1
    assert {"python", "keras", "tensorflow", "jax", "numpy", "torch"} == set(report["versions"])
    byot, two_views, both = report["figures"][:3]
    assert two_views["macs_ratio"] == 2
    assert both["macs_ratio"] == 2 * byot["macs_ratio"] > 2


def test_the_table_holds_every_figure_and_what_was_left_out(measured):
    printed, report = measured
    for figure in report["figures"]:
        line = next(line for line in printed.splitlines() if f"  {figure['name']}  " in line)
        assert figure["bar"] is None or figure["bar"].split()[0] in line
    assert "torch is left out" in printed and "pip install '.[torch]'" in printed


@pytest.mark.slow
def test_the_parts_that_take_minutes(tmp_path):
    output = tmp_path / "results.json"
    arguments = ["train", "backup", *TINY, "--image_size=64", "--workers", f"--output={output}"]
    result = run(*arguments, "--precision=float32")
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())["figures"]
    parts = [figure["part"] for figure in figures]
    # The peak; of four methods speed and share of the peak; the workers.
    assert {part: parts.count(part) for part in parts} == {"train": 10, "backup": 2}
    assert all(math.isfinite(v) and v > 0 for figure in figures for v in figure["values"])
    bars = {figure["name"]: figure["bar"] for figure in figures if figure["bar"]}
    assert sorted(bars.values()) == ["<= 0.03", "<= 1.2", ">= 0.85"]


def test_the_torch_part_alone_names_what_to_install():
    result = run("torch", before=["-c", WITHOUT_TORCH])
    assert result.returncode == 1
    assert "pip install '.[torch]'" in result.stderr


UNKNOWN_PARTS = [("speed",), ("--what=steps,speed",), ()]
CHOICES = dict.fromkeys(
    UNKNOWN_PARTS,
    "losses, build, input, companions, train, backup, inference, analysis, import, all",
)
CHOICES[("steps", "--precision=float8")] = "float32, mixed_bfloat16"
CHOICES[("steps", "--model=resnet19")] = "resnet18"
CHOICES[("train", "--image_size=16")] = "16 is not integer >= 32"
CHOICES[("train", "--workers=2")] = "--workers"
CHOICES[("train", "--images=100")] = "`--images` needs `--device`. Received: --images=100"
CHOICES[("steps", "train", "--device")] = "`--device` is for train alone. Received: steps, train"
CHOICES[("train", "--device", "--workers")] = "`--workers` does not go with `--device`."
CHOICES[("train", "--device", "--images=100")] = "`--images` must be at least the batch size"


@pytest.fixture(scope="module")
def refusals():
    """What the app answers to what is not among the choices."""
    return answers_of("benchmark.py", CHOICES)


@pytest.mark.parametrize("arguments", CHOICES)
def test_what_is_unknown_lists_the_choices(refusals, arguments):
    code, printed = refusals[arguments]
    assert code == 1
    assert CHOICES[arguments] in printed


@pytest.fixture
def twin(monkeypatch):
    """The module of the PyTorch part."""
    pytest.importorskip("torch")
    if keras.config.backend() != "tensorflow":
        pytest.skip("the benchmark is for Keras on TensorFlow")
    monkeypatch.syspath_prepend(str(APPS))
    return pytest.importorskip("benchmarks.torch")


def settings_of(model):
    return SimpleNamespace(model=model, num_classes=100, batch_size=4)


def parameters_of(torch_network):
    return {name: value.detach().numpy() for name, value in torch_network.named_parameters()}


@pytest.mark.torch
@pytest.mark.parametrize("exits", ["one", "all"])
@pytest.mark.parametrize("model", ["resnet18", "resnet20", "resnet50"])
def test_the_torch_network_is_ours(twin, model, exits):
    import torch

    network = twin.trainer(settings_of(model), "float32", "baseline", exits).network
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) == 1:  # biases, normalisation: start values would hide a mix-up
            noise = generator.uniform(-0.1, 0.1, weight.shape)
            weight.assign(weight.numpy() + noise)
    torch_network = twin.TorchNetwork(model, 100, exits)
    parameters = sum(value.numel() for value in torch_network.parameters())
    assert parameters == sum(math.prod(weight.shape) for weight in network.trainable_weights)

    twin.copy_weights(network, torch_network)
    images, _ = twin.batch(settings_of(model), 4)
    ours = {name: ops.convert_to_numpy(v) for name, v in network(images).items()}
    torch_network = torch_network.to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        logits, features = torch_network(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert len(logits) == len(features) == len(ours) // 2
    for index, (z, vector) in enumerate(zip(logits, features), start=1):
        for name, value in ((f"exit_{index}", z), (f"features_{index}", vector)):
            scale = max(1.0, np.abs(ours[name]).max())
            np.testing.assert_allclose(value.numpy() / scale, ours[name] / scale, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("method", ["baseline", "be_your_own_teacher"])
def test_the_torch_step_trains_as_ours(twin, method):
    settings = settings_of("resnet8")
    model = twin.trainer(settings, "float32", method, distort=False)
    exits = "one" if method == "baseline" else "all"
    trained, expected = (twin.TorchNetwork("resnet8", 100, exits) for _ in range(2))
    twin.copy_weights(model.network, trained)
    before = {name: value.copy() for name, value in parameters_of(trained).items()}
    images, labels = twin.batch(settings, 16)
    step = twin.torch_step_of(trained, images, labels, "float32")
    for _ in range(2):  # the second one has momentum
        logs = model.train_on_batch(images, labels, return_dict=True)
        assert step() == pytest.approx(float(logs["loss"]), rel=1e-4)
    twin.copy_weights(model.network, expected)
    after, ours = parameters_of(trained), parameters_of(expected)
    for name, value in ours.items():
        # Of the whole tensor: single entries differ where rounding moved a ReLU across zero.
        moved, apart = (np.linalg.norm(value - x) for x in (before[name], after[name]))
        assert apart <= 1e-2 * moved + 1e-6, name
