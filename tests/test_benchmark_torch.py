"""The benchmarks' network and training step in plain PyTorch are those of ours."""

import importlib
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from sd_keras import SelfDistillModel, attach_exits, methods, models
from sd_keras.optimizers import SGD

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

APPS = Path(__file__).resolve().parents[1] / "apps"
METHODS = {
    "baseline": ("one", 1),
    "be_your_own_teacher": ("all", 1),
    "data_distortion": ("one", 2),
    "be_your_own_teacher+data_distortion": ("all", 2),
}


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(APPS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_crops_of_pytorch_are_crops(module):
    step = module("pytorch")
    images = torch.arange(2 * 6 * 6 * 3, dtype=torch.uint8).reshape(2, 6, 6, 3) + 1
    chosen = torch.tensor([1, 0, 1])
    draws = torch.tensor([[4, 0, 7], [4, 1, 8], [0, 0, 1]])
    made = step.crop_flip(step.pad(images), chosen, draws, 6)
    assert made.shape == (3, 3, 6, 6) and made.dtype == torch.uint8
    padded = np.pad(images.numpy(), [(0, 0), (4, 4), (4, 4), (0, 0)])
    expected = [padded[1, 4:10, 4:10], padded[0, 0:6, 1:7], padded[1, 7:13, 8:14][:, ::-1]]
    np.testing.assert_array_equal(made.permute(0, 2, 3, 1).numpy(), expected)
    drawn = step.draw(1000, "cpu")
    assert drawn.shape == (3, 1000)
    assert drawn.min(1).values.tolist() == [0, 0, 0] and drawn.max(1).values.tolist() == [8, 8, 1]


@pytest.mark.parametrize("method", METHODS)
def test_the_step_in_pytorch_is_ours(module, method):
    step = module("pytorch")
    exits, num_views = METHODS[method]
    assert module("device").VIEWS[method] == num_views
    backbone = models.build("resnet8", input_shape=(32, 32, 3))
    network = attach_exits(backbone, 10, at=[] if exits == "one" else None)
    model = SelfDistillModel(network, methods.get(method))
    model.compile(SGD(0.1, momentum=0.9, weight_decay=5e-4))
    trained, expected = (step.TorchNetwork("resnet8", 10, exits) for _ in range(2))
    step.copy_weights(network, trained)
    trained = trained.to(memory_format=torch.channels_last).train()
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    generator = np.random.default_rng(0)
    views = [generator.integers(0, 256, (16, 32, 32, 3), dtype="uint8") for _ in range(num_views)]
    labels = generator.integers(0, 10, 16, dtype="int32")
    images = torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2)
    of_torch = torch.from_numpy(labels).long()
    optimizer = step.optimizer_of(trained)

    def loss():
        return step.views_loss(trained, images, of_torch, num_views, is_mixed=False)

    for _ in range(2):  # the second one has momentum
        x = tuple(views) if num_views > 1 else views[0]
        ours = model.train_on_batch(x, labels, return_dict=True)["loss"]
        assert step.train(loss, optimizer).item() == pytest.approx(float(ours), rel=1e-4)
    step.copy_weights(network, expected)
    after = dict(trained.named_parameters())
    for name, value in expected.named_parameters():
        # Of the whole tensor: single entries differ where rounding moved a ReLU across zero.
        moved, apart = ((value - other[name]).norm().item() for other in (before, after))
        assert apart <= 3e-2 * moved + 1e-6, name


def test_two_views_pull_each_other_as_the_paper_says(module):
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(4, size)) for size in (5, 5, 7, 7)]
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    loss = module("pytorch").consistency(*tensors)
    loss.backward()
    a, b = (np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True) for z in values[:2])
    divergence = np.sum((a - b) * np.log(a / b), axis=1).mean()
    difference = (values[2] - values[3]).mean(0)
    assert loss.item() == pytest.approx(divergence + 5e-4 * np.sum(difference**2))
    # Each divergence moves the side that is not its target.
    np.testing.assert_allclose(tensors[0].grad, (a - b) / 3 / 4)
    np.testing.assert_allclose(tensors[1].grad, (b - a) / 3 / 4)
    of_features = np.broadcast_to(5e-4 * 2 * difference / 4, (4, 7))
    np.testing.assert_allclose(tensors[2].grad, of_features)
    np.testing.assert_allclose(tensors[3].grad, -of_features)


def test_without_a_compiler_steps_are_eager_and_say_so(module, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: _fails)
    settings = {"model": "resnet8", "num_classes": 10, "batch_size": 4, "steps": 2, "views": 2}
    settings |= {"method": "be_your_own_teacher+data_distortion", "precision": "mixed_bfloat16"}
    training = module("pytorch").Training(SimpleNamespace(**settings))
    assert len(training.network.exits) == 3  # one a stage, as ours
    assert math.isfinite(training.epoch())
    assert training.note == "eager: no compiler found"


def _fails(*args):
    raise RuntimeError("\n no compiler found\nand more lines")


def test_only_networks_written_in_pytorch_are_compared(module, monkeypatch):
    without_torch = module("device").without_torch
    assert without_torch("resnet18") is without_torch("resnet20") is None
    assert without_torch("vgg16") == "vgg16 is not written in PyTorch here"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install '.[torch]'" in without_torch("resnet18")


@pytest.mark.parametrize("exits", ["one", "all"])
@pytest.mark.parametrize("model", ["resnet18", "resnet20", "resnet50"])
def test_the_torch_network_is_ours(module, model, exits):
    pytorch = module("pytorch")
    at = [] if exits == "one" else None
    network = attach_exits(models.build(model, (32, 32, 3)), 100, at=at)
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) == 1:  # biases, normalization: start values would hide a mix-up
            noise = generator.uniform(-0.1, 0.1, weight.shape)
            weight.assign(keras.ops.convert_to_numpy(weight) + noise)
    torch_network = pytorch.TorchNetwork(model, 100, exits)
    parameters = sum(value.numel() for value in torch_network.parameters())
    assert parameters == sum(math.prod(weight.shape) for weight in network.trainable_weights)

    pytorch.copy_weights(network, torch_network)
    images = generator.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    ours = {name: keras.ops.convert_to_numpy(v) for name, v in network(images).items()}
    torch_network = torch_network.to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        logits, features = torch_network(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert len(logits) == len(features) == len(ours) // 2
    for index, (z, vector) in enumerate(zip(logits, features), start=1):
        for name, value in ((f"exit_{index}", z), (f"features_{index}", vector)):
            scale = max(1.0, np.abs(ours[name]).max())
            np.testing.assert_allclose(value.numpy() / scale, ours[name] / scale, atol=1e-4)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="for Keras on TensorFlow")
def test_images_per_second_against_pytorch(module, monkeypatch):
    """Both sides start from the same weights and see the same batch."""
    part, pytorch = module("cifar"), module("pytorch")
    monkeypatch.setattr(part, "trainer", lambda *args: own(*args, distortion=None))
    own, losses = module("training").trainer, []
    step_of = {"ours": part.step_of, "torch": pytorch.step_of}

    def record(function):
        return lambda: losses.append(function())

    monkeypatch.setattr(part, "step_of", lambda *args: record(step_of["ours"](*args)))
    monkeypatch.setattr(pytorch, "step_of", lambda *args: record(step_of["torch"](*args)))
    settings = {"model": "resnet8", "num_classes": 4, "batch_size": 16, "repeats": 1}
    settings |= {"precision": ["float32"]}
    rows = list(part.torch_steps(SimpleNamespace(**settings)))
    names = [f"{name}, ours / torch images/s" for name in ("baseline", "be_your_own_teacher")]
    assert [row["name"] for row in rows] == names
    for row in rows:
        ours, theirs = row["images_per_second"]
        assert row["values"] == pytest.approx([ours / theirs]) and row["bar"] == ">= 0.95"
    # Two rounds of warm-up and one that counts, of both methods; metrics are means of all steps.
    for ours, theirs in (losses[:2], losses[6:8]):
        assert theirs == pytest.approx(float(ours[0]), rel=1e-4)
