"""Analyses of answers and features against plain NumPy, on made cases and random ones."""

import keras
import numpy as np
import pytest
from conftest import bright_and_dark, smallest_network, tiny_network, with_mixed_answers
from test_losses import softmax

from sd_keras import analysis
from sd_keras.distortions import CropFlip


def random_features(seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(5, 5))
    return {
        "features_1": generator.normal(size=(40, 5)) @ mixing + 3,
        "features_2": generator.normal(size=(40, 7)),
        "exit_1": generator.normal(size=(40, 3)),
    }


# Principal components.


@pytest.mark.parametrize("components", [1, 2, 5])
def test_components_equal_a_decomposition_by_singular_values(components):
    features = random_features()
    found = analysis.principal_components(features, components)
    assert list(found) == ["exit_1", "exit_2"]
    for name, own in found.items():
        array = features[name.replace("exit", "features")]
        centred = array - array.mean(axis=0)
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
        np.testing.assert_allclose(own["axes"], axes[:components], atol=1e-8)
        np.testing.assert_allclose(own["variances"], (singular**2 / 40)[:components])
        shares = singular**2 / (singular**2).sum()
        np.testing.assert_allclose(own["explained"], shares[:components])
        np.testing.assert_allclose(own["projected"], centred @ axes[:components].T, atol=1e-8)
        np.testing.assert_allclose(own["projected"].var(axis=0), own["variances"])


def test_components_of_mirrored_features_are_those_of_the_features():
    features = random_features()
    mirrored = {"features_1": -features["features_1"]}
    first = analysis.principal_components(features)["exit_1"]
    second = analysis.principal_components(mirrored)["exit_1"]
    np.testing.assert_allclose(first["axes"], second["axes"], atol=1e-9)


def test_features_that_do_not_vary_explain_nothing():
    found = analysis.principal_components({"features_1": np.ones((6, 3))})["exit_1"]
    np.testing.assert_array_equal(found["explained"], 0)
    np.testing.assert_array_equal(found["variances"], 0)


# Separability.


def test_separability_equals_loops():
    features, labels = random_features(), np.arange(40) % 3
    found = analysis.separability(features, labels)
    for index, name in enumerate(("features_1", "features_2")):
        array, within, between = features[name], 0.0, 0.0
        for number in range(3):
            own = array[labels == number]
            within += sum(np.sum((row - own.mean(axis=0)) ** 2) for row in own)
            between += len(own) * np.sum((own.mean(axis=0) - array.mean(axis=0)) ** 2)
        assert found["sse"][index] == pytest.approx(within / 40)
        assert found["ssb"][index] == pytest.approx(between / 40)
        assert found["ratio"][index] == pytest.approx(within / between)
        assert found["sse"][index] + found["ssb"][index] == pytest.approx(array.var(axis=0).sum())


def test_separability_of_points_and_of_one_class():
    labels = np.array([0, 0, 7, 7])
    points = {"features_1": np.array([[0.0], [0], [2], [2]])}
    found = analysis.separability(points, labels)
    assert (found["sse"][0], found["ssb"][0], found["ratio"][0]) == (0, 1, 0)
    assert analysis.separability(points, labels * 0)["ratio"][0] == np.inf


def test_the_ratio_is_free_of_scale():
    features, labels = random_features(), np.arange(40) % 4
    larger = {"features_1": 10 * features["features_1"] + 5}
    small, large = (analysis.separability(each, labels) for each in (features, larger))
    assert large["ratio"][0] == pytest.approx(small["ratio"][0])
    assert large["sse"][0] == pytest.approx(100 * small["sse"][0])


# Agreement.


def test_agreement_counted_by_hand():
    def answers(*numbers):
        return 9 * np.eye(3)[list(numbers)]

    logits = {"exit_1": answers(0, 1, 2, 1), "exit_2": answers(0, 2, 2, 1)}
    # Ties of the ensemble go to the lower class number.
    found = analysis.agreement(logits, np.array([0, 2, 0, 1]))
    assert found["names"] == ["exit_1", "exit_2", "ensemble"]
    np.testing.assert_array_equal(found["same"][:2, :2], [[1, 0.75], [0.75, 1]])
    assert found["both_right"][0, 1] == 0.5
    assert found["row_right"][0, 1] == 0 == found["column_right"][1, 0]
    assert found["column_right"][0, 1] == 0.25 == found["row_right"][1, 0]
    assert found["both_wrong"][0, 1] == 0.25 == found["both_wrong_alike"][0, 1]
    assert found["any_right"] == 0.75
    parts = ("both_right", "row_right", "column_right", "both_wrong")
    np.testing.assert_allclose(sum(found[key] for key in parts), 1)
    np.testing.assert_array_equal(found["same"], found["same"].T)
    assert set(analysis.agreement(logits)) == {"names", "same"}


# Calibration.


def test_reliability_holds_what_the_calibration_error_is_made_of():
    generator = np.random.default_rng(0)
    logits = {"exit_1": generator.normal(size=(50, 4)), "exit_2": generator.normal(size=(50, 4))}
    labels = generator.integers(0, 4, 50)
    found = analysis.reliability(logits, labels, bins=7)
    measured = analysis.evaluate_logits(logits, labels, bins=7)
    assert list(found) == ["exit_1", "exit_2", "ensemble"]
    for name, own in found.items():
        assert own["count"].sum() == 50 and len(own["count"]) == 7
        assert np.isnan(own["accuracy"][own["count"] == 0]).all()
        gaps = np.nan_to_num(np.abs(own["accuracy"] - own["confidence"]))
        error = (gaps * own["count"]).sum() / 50
        assert error == pytest.approx(measured[name]["calibration_error"])
        places = own["confidence"][own["count"] > 0] * 7
        assert (places.astype(int) == np.flatnonzero(own["count"])).all()


# Consistency.


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return with_mixed_answers(tiny_network(), bright_and_dark())


def test_the_identity_is_consistent(network):
    found = analysis.consistency(network, bright_and_dark(), lambda images: images, draws=2)
    assert list(found) == ["exit_1", "exit_2", "ensemble"]
    for name, own in found.items():
        np.testing.assert_array_equal(own["same_answer"], [1, 1])
        for key in own.keys() - {"same_answer"}:
            np.testing.assert_array_equal(own[key], [0, 0]), (name, key)


def test_consistency_equals_plain_numpy(network):
    images = bright_and_dark()
    found = analysis.consistency(network, images, CropFlip(2, seed=3), draws=1, batch_size=32)
    distortion = CropFlip(2, seed=3)
    views = [keras.ops.convert_to_numpy(distortion(images)) for _ in range(2)]
    a, b = (network.predict(view, verbose=0) for view in views)
    for index in (1, 2):
        own = {key: values[0] for key, values in found[f"exit_{index}"].items()}
        p, q = (softmax(outputs[f"exit_{index}"].astype("float64")) for outputs in (a, b))
        both = (p * np.log(p / q)).sum(axis=1) + (q * np.log(q / p)).sum(axis=1)
        assert own["symmetric_kl"] == pytest.approx(both.mean(), rel=1e-5)
        assert own["same_answer"] == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
        h_a, h_b = (outputs[f"features_{index}"].astype("float64") for outputs in (a, b))
        discrepancy = ((h_a.mean(axis=0) - h_b.mean(axis=0)) ** 2).sum()
        assert own["mmd"] == pytest.approx(discrepancy, rel=1e-5)
        distance = ((h_a - h_b) ** 2).sum(axis=1).mean()
        assert own["distance"] == pytest.approx(distance, rel=1e-5)
        pairs = (h_a.var(axis=0) + h_b.var(axis=0)).sum()
        assert own["relative_distance"] == pytest.approx(distance / pairs, rel=1e-5)


def test_draws_differ_and_layers_distort(network):
    """A Keras layer that distorts in training only is called as in training."""
    layer = keras.layers.RandomTranslation(0.3, 0.3, seed=0)
    found = analysis.consistency(network, bright_and_dark(), layer, draws=3)
    assert len(set(found["exit_2"]["symmetric_kl"])) == 3
    assert (found["exit_2"]["distance"] > 0).all()


# Ablation.


@pytest.mark.parametrize("replace", ["zero", "mean"])
def test_ablation_equals_loops(network, replace):
    images, labels = bright_and_dark(), np.arange(32) % 4
    shares = [0.0, 0.4, 1.0]
    found = analysis.unit_ablation(network, images, labels, shares, 3, 5, replace)
    outputs = network.predict(images, verbose=0)
    for index in (1, 2):
        features = outputs[f"features_{index}"]
        kernel, bias = network.get_layer(f"classifier_{index}").get_weights()
        generator = np.random.default_rng(5)
        for draw in range(3):
            turns = generator.permutation(features.shape[1])
            for place, share in enumerate(shares):
                changed = features.copy()
                off = turns < round(share * features.shape[1])
                changed[:, off] = features.mean(axis=0)[off] if replace == "mean" else 0
                right = ((changed @ kernel + bias).argmax(axis=1) == labels).mean()
                assert found[f"exit_{index}"][place, draw] == pytest.approx(right)
    whole = analysis.evaluate_exits(network, images, labels)
    assert found["exit_1"][0] == pytest.approx([whole["exit_1"]["accuracy"]] * 3)


def test_many_draws_are_worked_off_in_turn(network, monkeypatch):
    images, labels = bright_and_dark(), np.arange(32) % 4
    whole = analysis.unit_ablation(network, images, labels, [0.5], 7)
    # Three draws of 32 images and 4 classes at once.
    monkeypatch.setattr("sd_keras.analysis.perturbations.MOST_LOGITS", 3 * 32 * 4)
    parts = analysis.unit_ablation(network, images, labels, [0.5], 7)
    for name, own in whole.items():
        np.testing.assert_array_equal(parts[name], own)


def test_what_does_not_fit_is_refused(network):
    images, labels = bright_and_dark(), np.arange(32) % 4
    features = random_features()
    wrong = {
        r"`components` must be at most 5": lambda: analysis.principal_components(features, 6),
        r"`components` must be an integer": lambda: analysis.principal_components(features, 0),
        r"`features` must hold": lambda: analysis.principal_components({"exit_1": images}),
        r"`features` must be finite": lambda: analysis.separability(
            {"features_1": np.full((2, 2), np.nan)}, [0, 1]
        ),
        r"`labels` must be class numbers": lambda: analysis.separability(features, [0, 1]),
        r"`bins` must be": lambda: analysis.reliability([np.eye(2)], [0, 1], 0),
        r"`shares` must be": lambda: analysis.unit_ablation(network, images, labels, [1.5]),
        r"`replace` must be": lambda: analysis.unit_ablation(
            network, images, labels, [0.5], replace="one"
        ),
        r"`seed` must be": lambda: analysis.unit_ablation(network, images, labels, [0.5], seed=-1),
        r"`draws` must be": lambda: analysis.consistency(network, images, CropFlip(), 0),
        r"`images` must be raw": lambda: analysis.consistency(network, images[0], CropFlip()),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message + ".*Received: "):
            call()


def test_what_is_no_answer_is_named():
    """Mistakes that are easy to make: the network, one array, labels in the place of others."""
    network, array = smallest_network(), np.zeros((4, 3))
    for call, message in (
        (lambda: analysis.agreement(network), "`logits` must be what a network predicts"),
        (lambda: analysis.separability(network, []), "`features` must be a dict with features_1"),
        (lambda: analysis.principal_components(array), "`features` must be a dict.*ndarray"),
        (
            lambda: analysis.principal_components({"features_1": array}, array),
            "`components` must be an integer of at least 1. Received: components=ndarray",
        ),
        (lambda: analysis.consistency(network, array, None), "`distortion` must be callable"),
        (
            lambda: analysis.calibration_error(array, np.zeros(4, "int32")),
            "`probabilities` must be softmax probabilities",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    even = keras.ops.convert_to_tensor(np.full((4, 2), 0.5, "float32"))
    assert analysis.calibration_error(even, np.array([0, 1, 0, 1])) == 0
