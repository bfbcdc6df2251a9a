"""The benchmark's part that trains on the device: its arithmetic, its processes, its PyTorch."""

import importlib
import math
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from sd_keras import SelfDistillModel, attach_exits, methods, models
from sd_keras.data import OnDevice
from sd_keras.optimizers import SGD

ROOT = Path(__file__).resolve().parents[1]
APPS = ROOT / "apps"
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
    """The part with few methods, whose processes find neither PyTorch nor another backend."""

    def prepare(backend, names):
        device = module("device")
        monkeypatch.setattr(device, "VIEWS", {name: device.VIEWS[name] for name in names})
        monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
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
    [("tensorflow", ["baseline", "data_distortion"]), ("jax", ["baseline"])],
)
def test_a_run_on_the_cpu(processes, backend, names):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    device = processes(backend, names)
    figures, notes = device.device_figures(Flags(**SMALL))
    # Two peaks; of each method speed, share, time to compile and memory; of all but the plain
    # one a ratio.
    assert len(figures) == 2 + 4 * len(names) + len(names) - 1
    assert all(math.isfinite(v) and v > 0 for figure in figures for v in figure["values"])
    assert {figure["bar"] for figure in figures} == {None}
    assert "torch is left out" in notes[0] and f"{backend} on cpu" in notes[1]
    assert "the bars are for H200" in notes[2]


def test_a_process_that_fails_is_named_and_ends_the_others(processes, monkeypatch):
    backend = keras.config.backend()
    device = processes(backend, ["baseline"])
    started = []
    own = device.Side

    def start(*args, **kwargs):
        started.append(own(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(device, "Side", start)
    settings = device.settings_of(Flags(**SMALL | {"model": "resnet19"}))
    with pytest.raises(SystemExit) as error:
        device._trained(["ours"], settings, "float32")
    message = str(error.value)
    assert message.startswith("ours, baseline failed with exit code 1:")
    assert "resnet18" in message and "Traceback" not in message
    assert all(side.process.returncode is not None for side in started)


@pytest.mark.torch
def test_crops_of_pytorch_are_crops(module):
    torch = pytest.importorskip("torch")
    step = module("torch_step")
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


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_the_step_in_pytorch_is_ours(module, method):
    torch = pytest.importorskip("torch")
    networks, step = module("torch_network"), module("torch_step")
    exits, num_views = METHODS[method]
    assert module("device_rows").VIEWS[method] == num_views
    backbone = models.build("resnet8", input_shape=(32, 32, 3))
    network = attach_exits(backbone, 10, at=[] if exits == "one" else None)
    model = SelfDistillModel(network, methods.get(method))
    model.compile(SGD(0.1, momentum=0.9, weight_decay=5e-4))
    trained, expected = (networks.TorchNetwork("resnet8", 10, exits) for _ in range(2))
    networks.copy_weights(network, trained)
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

    for _ in range(3):
        x = tuple(views) if num_views > 1 else views[0]
        ours = model.train_on_batch(x, labels, return_dict=True)["loss"]
        assert step.train(loss, optimizer).item() == pytest.approx(float(ours), rel=1e-4)
    networks.copy_weights(network, expected)
    after = dict(trained.named_parameters())
    for name, value in expected.named_parameters():
        # Of the whole tensor: single entries differ where rounding moved a ReLU across zero.
        moved, apart = ((value - other[name]).norm().item() for other in (before, after))
        assert apart <= 1e-2 * moved + 1e-6, name


@pytest.mark.torch
def test_without_a_compiler_steps_are_eager_and_say_so(module, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda function: _fails)
    training = module("device_torch").Training(
        {
            "model": "resnet8",
            "num_classes": 10,
            "batch_size": 4,
            "steps": 2,
            "views": 2,
            "all_exits": True,
            "precision": "mixed_bfloat16",
        }
    )
    assert math.isfinite(training.epoch())
    assert training.beside == "eager: no compiler found"


def _fails(*args):
    raise RuntimeError("\n no compiler found\nand more lines")
