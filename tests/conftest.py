"""What several test files share: a tiny network, tiny data."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# What JAX compiles here runs for moments: compiling takes the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers of two threads each would wait for each other. Processes that a test starts
    # inherit it, as another number of threads rounds otherwise.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import app_in_process
import keras
import numpy as np
import pytest
from serving_fixtures import contract, model_base, served  # noqa: F401  (for all files)

import sd_keras


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests of the server need its process."""
    for item in items:
        if "served" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.process)


@pytest.fixture(autouse=True)
def clean_keras():
    """Each test starts from the same seed and precision, whatever ran before."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def images():
    """32 raw images 8x8x1."""
    return np.random.default_rng(1).integers(0, 256, (32, 8, 8, 1)).astype("uint8")


@pytest.fixture
def labels():
    """32 class numbers 0…3."""
    return np.random.default_rng(2).integers(0, 4, 32).astype("int32")


def large_except(names, default):
    """Parameters for all names; those outside `default` are left to -m large."""
    return [n if n in default else pytest.param(n, marks=pytest.mark.large) for n in names]


def tiny_network(num_classes=4, at=None, widths=(4, 8), input_shape=(8, 8, 1), **kwargs):
    """A two-stage network with two exits, built in a moment."""
    backbone = sd_keras.models.resnet(input_shape, "cifar", (1, 1), widths, **kwargs)
    return sd_keras.attach_exits(backbone, num_classes, at=at)


def bright_and_dark(count=32, shape=(8, 8, 1)):
    """Raw noise of all brightnesses, on which exits differ more than on noise of one."""
    generator = np.random.default_rng(1)
    brightest = generator.integers(1, 257, (count, 1, 1, shape[-1]))
    return generator.integers(0, brightest, (count, *shape)).astype("uint8")


def with_mixed_answers(network, images):
    """The network, its classifiers changed so that each class is some image's answer."""
    names = [name for name in network.output if name.startswith("exit_")]
    for index, name in enumerate(names, start=1):
        layer = network.get_layer(f"classifier_{index}")
        logits = np.array(network(images.astype("float32"), training=False)[name])
        scale = 0.5 / logits.std(axis=0)
        layer.kernel.assign(layer.kernel * scale)
        layer.bias.assign((layer.bias - logits.mean(axis=0)) * scale)
    return network


def smallest_network(input_shape=(8, 8, 1)):
    """A convolution, a normalisation and one exit for 4 classes: little to trace."""
    image = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2)(image)
    x = keras.layers.ReLU()(sd_keras.layers.BatchNormalization()(x))
    return sd_keras.attach_exits(keras.Model(image, x), num_classes=4, at=[])


def tiny_model(
    method=None, distortion=None, at=None, compile_with=None, widths=(4, 8), eager=False, **kwargs
):
    """A compiled SelfDistillModel of the tiny network.

    A traced step takes two seconds to begin and `eager` ones a quarter of one each: they are
    for tests that run a few steps and say nothing about tracing.
    """
    network = tiny_network(at=at, widths=widths)
    model = sd_keras.SelfDistillModel(network, method, distortion, **kwargs)
    settings = {"optimizer": sd_keras.optimizers.SGD(0.05), "metrics": ["accuracy"]}
    settings |= {"run_eagerly": True} if eager else {}
    model.compile(**settings | (compile_with or {}))
    return model


def image_folder(root, **counts):
    """Writes small JPEG files of 4 classes, so many a split; returns the name for `stream`."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for index in range(count):
            pixels = generator.integers(0, 256, (4, 5, 3)).astype("uint8").repeat(5, 0).repeat(5, 1)
            path = root / split / f"class{index % 4}" / f"{index:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return f"folder:{root}"


def answers_of(app, commands):
    """Exit code and printed text of an app for each command line, in this process."""
    return {command: app_in_process.answer(app, command) for command in commands}
