"""Costs against hand counts, measures against plain loops, calibration on made cases."""

import math

import keras
import numpy as np
import pytest
from conftest import image_folder, tiny_network
from keras import layers
from test_losses import softmax

from sd_keras import analysis, attach_exits, data, models

CLASSES = 10


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return attach_exits(models.build("resnet8", (8, 8, 1)), CLASSES)


def test_costs_equal_a_hand_count(network):
    """ResNet-8 on 8x8x1: stages of 8x8x16, 4x4x32 and 2x2x64, two convolutions each."""
    stem = 8 * 8 * (3 * 3 * 1 * 16)
    stages = [
        8 * 8 * (3 * 3 * 16 * 16 + 3 * 3 * 16 * 16),
        4 * 4 * (3 * 3 * 16 * 32 + 3 * 3 * 32 * 32),
        2 * 2 * (3 * 3 * 32 * 64 + 3 * 3 * 64 * 64),
    ]
    dense = 64 * 10
    heads = [
        8 * 8 * 16 * 128 + 2 * 2 * (4 * 4 * 128 * 128) + 2 * 2 * 128 * 64 + dense,
        4 * 4 * 32 * 128 + 2 * 2 * (2 * 2 * 128 * 128) + 2 * 2 * 128 * 64 + dense,
    ]
    # Kernels, and two trainable and two moving vectors per normalisation.
    body = [144 + 32, 2 * 2304 + 2 * 32, 4608 + 9216 + 2 * 64, 18432 + 36864 + 2 * 128]
    head = [
        (16 * 128 + 128) + (16 * 128 * 128 + 128) + (128 * 64 + 64) + 2 * 320 + 650,
        (32 * 128 + 128) + (4 * 128 * 128 + 128) + (128 * 64 + 64) + 2 * 320 + 650,
    ]
    moving = [2 * 16, 2 * 32, 2 * 64, 2 * 128]
    # What the convolutions and the classifiers put out.
    maps = [8 * 8 * 16 * 3, 4 * 4 * 32 * 2, 2 * 2 * 64 * 2]
    head_maps = [8 * 8 * 128 + 2 * 2 * (128 + 64) + 10, 4 * 4 * 128 + 2 * 2 * (128 + 64) + 10]
    # The worst moments. Normalisation of the 128 wide map of either head; the padded input of
    # stage 2, its convolution and the input again for the shortcut; Keras computes the first
    # head when stage 3 and the second head's map are there.
    peaks = [
        2 * 8 * 8 * 128,
        2 * 4 * 4 * 128,
        10 * 10 * 16 + 4 * 4 * 32 + 8 * 8 * 16,
        2 * 8 * 8 * 128 + 2 * (2 * 2 * 64),
    ]
    rows = {
        "exit_1": (
            stem + stages[0] + heads[0],
            sum(body[:2]) + head[0],
            sum(moving[:2]) + 640,
            maps[0] + head_maps[0],
        ),
        "exit_2": (
            stem + sum(stages[:2]) + heads[1],
            sum(body[:3]) + head[1],
            sum(moving[:3]) + 640,
            sum(maps[:2]) + head_maps[1],
        ),
        "exit_3": (
            stem + sum(stages) + dense,
            sum(body) + 650,
            sum(moving),
            sum(maps) + 10,
        ),
        "ensemble": (
            stem + sum(stages) + dense + sum(heads),
            sum(body) + 650 + sum(head),
            sum(moving) + 2 * 640,
            sum(maps) + 10 + sum(head_maps),
        ),
    }
    assert analysis.costs(network) == {
        name: {
            "macs": macs,
            "flops": 2 * macs,
            "parameters": trained,
            "non_trainable": others,
            "activations": activations,
            "peak_activation_bytes": 4 * peak,
        }
        for (name, (macs, trained, others, activations)), peak in zip(rows.items(), peaks)
    }


# Measures.


def reference_measures(probabilities, labels, bins):
    """The measures example by example and bin by bin."""
    right, among_five, nats, binned = 0, 0, 0.0, [[] for _ in range(bins)]
    for p, label in zip(probabilities, labels):
        order = np.argsort(-p)
        right += order[0] == label
        among_five += label in order[:5]
        nats -= math.log(p[label])
        place = min(int(p.max() * bins), bins - 1)
        binned[place].append((p.max(), order[0] == label))
    gaps = [
        len(b) * abs(np.mean([c for c, _ in b]) - np.mean([r for _, r in b])) for b in binned if b
    ]
    n = len(labels)
    return {
        "accuracy": right / n,
        "top_5": among_five / n,
        "cross_entropy": nats / n,
        "calibration_error": sum(gaps) / n,
    }


@pytest.mark.parametrize("bins", [15, 4])
def test_evaluate_exits_equals_plain_numpy(network, bins):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (37, 8, 8, 1), dtype="uint8")
    labels = generator.integers(0, CLASSES, 37)
    outputs = network.predict(images, verbose=0)
    probabilities = {f"exit_{i}": softmax(outputs[f"exit_{i}"]) for i in (1, 2, 3)}
    probabilities["ensemble"] = np.mean(list(probabilities.values()), axis=0)
    got = analysis.evaluate_exits(network, images, labels, batch_size=16, bins=bins)
    assert list(got) == ["exit_1", "exit_2", "exit_3", "ensemble"]
    for name, values in probabilities.items():
        expected = reference_measures(values, labels, bins)
        assert got[name] == pytest.approx(expected, rel=1e-4)
        assert 0 < got[name]["top_5"] < 1
    # A column of class numbers is the same.
    column = analysis.evaluate_exits(network, images, labels[:, None], batch_size=16, bins=bins)
    assert column == got


def constant_network(logits):
    """A network that answers the same logits to any image."""
    image = keras.Input((4, 4, 1), name="image")
    backbone = keras.Model(image, layers.Conv2D(2, 3)(image))
    network = attach_exits(backbone, len(logits), at=[])
    dense = network.get_layer("classifier_1")
    dense.set_weights([np.zeros(dense.kernel.shape), np.array(logits, "float32")])
    return network


@pytest.mark.parametrize(
    "logits,label,top_5",
    [
        ([5.0, 4.0], 1, 1.0),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 4, 1.0),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 4, 1.0),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 5, 0.0),
    ],
)
def test_top_5(logits, label, top_5):
    images, labels = np.zeros((3, 4, 4, 1)), np.full(3, label)
    got = analysis.evaluate_exits(constant_network(logits), images, labels)["exit_1"]
    assert got["top_5"] == top_5 and got["accuracy"] == 0.0


def test_certain_and_wrong_network():
    images, labels = np.zeros((3, 4, 4, 1)), np.full(3, 1)
    got = analysis.evaluate_exits(constant_network([1e4, -1e4, 0]), images, labels)
    for measures in got.values():
        assert measures["accuracy"] == 0 and measures["calibration_error"] == 1
        assert measures["cross_entropy"] == pytest.approx(2e4)


def two_classes(confidences):
    """Probabilities in which class 0 is believed with the given confidence."""
    confidences = np.array(confidences)
    return np.stack([confidences, 1 - confidences], 1)


@pytest.mark.parametrize(
    "confidences,labels,expected",
    [
        ([0.7] * 10, [0] * 7 + [1] * 3, 0.0),  # calibrated
        ([1.0] * 6, [0] * 6, 0.0),  # certain and right
        ([1.0] * 6, [1] * 6, 1.0),  # certain and wrong
        ([0.75] * 4, [0] * 4, 0.25),  # too modest
        # Calibrated in each of two bins.
        ([0.6] * 5 + [0.9] * 10, [0] * 3 + [1] * 2 + [0] * 9 + [1], 0.0),
        # Right on average over all, but in neither bin: gaps 0.4 and 0.4.
        ([0.6] * 5 + [1.0] * 5, [0] * 5 + [0] * 3 + [1] * 2, 0.4),
        # Bins count by their size: 0.8 of gap 0.1, 0.2 of gap 0.6.
        ([0.9] * 8 + [0.6] * 2, [0] * 8 + [1] * 2, 0.8 * 0.1 + 0.2 * 0.6),
    ],
)
def test_calibration_error_of_made_cases(confidences, labels, expected):
    got = analysis.calibration_error(two_classes(confidences), np.array(labels))
    assert got == pytest.approx(expected, abs=1e-9)


def test_gaps_of_one_bin_cancel_and_of_two_do_not():
    probabilities, labels = two_classes([0.55, 0.95]), np.array([0, 1])  # gaps −0.45 and 0.95
    assert analysis.calibration_error(probabilities, labels, bins=1) == pytest.approx(0.25)
    assert analysis.calibration_error(probabilities, labels, bins=15) == pytest.approx(0.7)


@pytest.mark.parametrize("batch_size", [4, 1])
def test_a_stream_is_measured_like_its_arrays(tmp_path, batch_size):
    """In batches that divide it unevenly, and without the image, or batch, that cannot be read."""
    name = image_folder(tmp_path, train=4, val=11)
    (tmp_path / "val/class3/bad.jpg").write_bytes(b"no image")
    stream = data.stream(name, batch_size, "validation", size=16, protocol="center")
    batches = list(stream.dataset().as_numpy_iterator())
    images, labels, weights = (np.concatenate([batch[i] for batch in batches]) for i in range(3))
    images, labels = images[weights > 0], labels[weights > 0]
    assert len(images) == 11
    network = tiny_network(input_shape=(16, 16, 3))
    expected = analysis.evaluate_exits(network, images, labels)
    found = analysis.evaluate_exits(network, stream)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"`labels` must be.*images of type ndarray"):
        analysis.evaluate_exits(tiny_network(), np.zeros((3, 8, 8, 1), "uint8"))


def test_a_stream_with_too_many_bad_images_is_refused(tmp_path):
    name = image_folder(tmp_path, train=4, val=4)
    (tmp_path / "val/class3/bad.jpg").write_bytes(b"no image")
    options = {"size": 16, "protocol": "center", "max_bad_images": 0}
    stream = data.stream(name, 4, "validation", **options)
    with pytest.raises(ValueError, match=r"^`max_bad_images` allows 0 of the 5 .*bad\.jpg"):
        analysis.evaluate_exits(tiny_network(input_shape=(16, 16, 3)), stream)
