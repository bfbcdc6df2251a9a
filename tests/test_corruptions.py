"""Corruptions of images, and networks under them."""

import numpy as np
import pytest
from conftest import bright_and_dark, tiny_network

from sd_keras import analysis, corruptions


def pictures(size=(32, 32), channels=3, count=4):
    """Smooth pictures with edges, of all brightnesses."""
    generator = np.random.default_rng(0)
    made = corruptions.clouds((count * channels, *size), generator, 0.6)
    made = made.reshape(count, channels, *size).transpose(0, 2, 3, 1).copy()
    # An edge that is not along the rows, where the squares of a pixelated picture could end.
    rows, columns = np.indices(size)
    made[:, 3 * rows + 5 * columns > 4 * size[1]] *= 0.3
    return np.rint(255 * made).astype("uint8")


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_a_corruption_grows_with_its_severity(kind):
    images = pictures()
    before = images.copy()
    distances = []
    for severity in corruptions.SEVERITIES:
        made = corruptions.corrupt(images, kind, severity, seed=1)
        assert made.shape == images.shape and made.dtype == np.uint8
        distances.append(np.abs(made.astype(float) - images).mean())
    assert distances[0] > 0.5 and distances[-1] < 110, distances
    assert all(a < b for a, b in zip(distances, distances[1:])), distances
    np.testing.assert_array_equal(images, before)


DRAWN = ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur"]
DRAWN += ["snow", "frost", "fog", "elastic"]


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_a_corruption_is_drawn_by_the_seed(kind):
    images = pictures(count=2)
    images[1] = images[0]
    first, again, other = (corruptions.corrupt(images, kind, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (kind in DRAWN)
    # Equal images are corrupted by draws of their own.
    assert (first[0] != first[1]).any() == (kind in DRAWN)


@pytest.mark.parametrize("kind", corruptions.KINDS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (20, 33, 3), (224, 224, 3)])
def test_images_of_any_size_are_taken(kind, shape):
    images = pictures(shape[:2], shape[2], count=1)
    made = corruptions.corrupt(images, kind, 5)
    assert made.shape == images.shape and made.std() > 0


def test_large_batches_are_worked_off_in_turn(monkeypatch):
    images = pictures(count=5)
    whole = corruptions.corrupt(images, "contrast", 2)
    monkeypatch.setattr(corruptions, "MOST_VALUES", 2 * images[0].size)
    np.testing.assert_array_equal(corruptions.corrupt(images, "contrast", 2), whole)
    noisy = corruptions.corrupt(images, "gaussian_noise", 2)
    np.testing.assert_array_equal(noisy, corruptions.corrupt(images, "gaussian_noise", 2))
    assert corruptions.corrupt(images[:0], "fog", 1).shape == (0, 32, 32, 3)


# The pieces, against plain loops.


def test_sampling_equals_loops():
    images = pictures((5, 6), 2, 2).astype("float32")
    generator = np.random.default_rng(0)
    rows, columns = generator.uniform(-1, 6, (2, 2, 3, 4))
    found = corruptions.sample(images, rows, columns)
    for place in np.ndindex(2, 3, 4):
        row, column = np.clip(rows[place], 0, 4), np.clip(columns[place], 0, 5)
        expected = 0
        for r in range(5):
            for c in range(6):
                weight = max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c))
                expected = expected + weight * images[place[0], r, c]
        np.testing.assert_allclose(found[place], expected, rtol=1e-4)


def test_filters_equal_loops():
    images = pictures((7, 6), 2, 2).astype("float32")
    kernels = np.random.default_rng(0).random((2, 3, 3))
    found = corruptions.convolve(images, kernels)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="symmetric")
    for n, row, column in np.ndindex(2, 7, 6):
        part = padded[n, row : row + 3, column : column + 3]
        expected = (part * kernels[n, ::-1, ::-1, None]).sum(axis=(0, 1))
        np.testing.assert_allclose(found[n, row, column], expected, rtol=1e-3, atol=1e-2)


def test_blur_keeps_what_is_even_and_lines_have_their_length():
    even = np.full((2, 16, 16, 3), 0.4, "float32")
    generator = np.random.default_rng(0)
    for make in (
        corruptions.defocus,
        corruptions.glass,
        corruptions.motion,
        corruptions.zoom,
        corruptions.pixelate,
    ):
        np.testing.assert_allclose(make(even, 4, generator), even, atol=1e-5)
    (line,) = corruptions.lines(np.zeros(1), 5.0)
    assert line.sum() == pytest.approx(1) and line.shape == (5, 5)
    assert (line[2] > 0.1).all() and line[[0, 1, 3, 4]].sum() == 0


def test_pixelate_equals_means_of_areas():
    images = np.random.default_rng(0).random((1, 8, 8, 1)).astype("float32")
    kept = corruptions.KEPT[4]
    assert round(kept * 8) == 2
    found = corruptions.pixelate(images, 4, None)
    for row in range(2):
        for column in range(2):
            part = np.s_[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_allclose(found[part], images[part].mean(), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    images = pictures(count=1)
    wrong = {
        "`images` must be uint8": (images.astype("float32"), "fog", 1),
        "`images` must be uint8 of shape": (images[0], "fog", 1),
        "`kind` must be one of gaussian_noise": (images, "rain", 1),
        "`severity` must be an integer 1…5": (images, "fog", 6),
        "`seed` must be an integer": (images, "fog", 1, -1),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message + ".*Received: "):
            corruptions.corrupt(*arguments)


# Networks under corruptions.


def test_robustness_is_the_accuracy_on_corrupted_images():
    network, labels = tiny_network(), np.arange(32) % 4
    images, kinds = bright_and_dark(), ["contrast", "gaussian_noise"]
    found = analysis.robustness(network, images, labels, kinds, [2, 5], seed=3)
    clean = analysis.evaluate_exits(network, images, labels)
    assert list(found) == ["exit_1", "exit_2", "ensemble"]
    for name, own in found.items():
        assert own["accuracy"].shape == (2, 2)
        assert own["clean_accuracy"] == pytest.approx(clean[name]["accuracy"])
        assert own["clean_cross_entropy"] == pytest.approx(clean[name]["cross_entropy"], rel=1e-5)
    for row, kind in enumerate(kinds):
        for column, severity in enumerate((2, 5)):
            corrupted = corruptions.corrupt(images, kind, severity, seed=3)
            expected = analysis.evaluate_exits(network, corrupted, labels)
            for name, own in found.items():
                got = own["cross_entropy"][row, column]
                assert got == pytest.approx(expected[name]["cross_entropy"], rel=1e-5)
    with pytest.raises(ValueError, match="`kind` must be one of"):
        analysis.robustness(network, images, labels, ["rain"])
