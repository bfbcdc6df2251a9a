"""Discrepancies between two batches of features against float64 NumPy, and over replicas."""

import keras
import numpy as np
import pytest
from keras import ops
from test_distribute import finish
from test_losses import HALF_TYPES, close, gradients, normal, numpy

from sd_keras import losses

N, WIDTH = 7, 6
FACTORS = (0.5, 1.0, 3.0)


def reference_multi_kernel(a, b, factors=FACTORS, mean=None):
    """Every pair by itself."""
    both = [*np.asarray(a, "float64"), *np.asarray(b, "float64")]
    squares = np.array([[((x - y) ** 2).sum() for y in both] for x in both])
    n = len(a)
    if mean is None:
        mean = squares.sum() / (2 * n * (2 * n - 1))
    kernel = np.mean([np.exp(-squares / (f * mean)) for f in factors], axis=0)
    within = kernel[:n, :n].mean() + kernel[n:, n:].mean()
    return within - 2 * kernel[:n, n:].mean(), mean


def reference_coral(a, b):
    difference = np.cov(np.asarray(a, "float64").T) - np.cov(np.asarray(b, "float64").T)
    return (difference**2).sum() / (4 * a.shape[1] ** 2)


def reference_top_k(a, b, k=3):
    a, b = np.asarray(a, "float64").mean(0), np.asarray(b, "float64").mean(0)
    largest = np.argsort(a + b)[-k:]
    return ((a - b)[largest] ** 2).sum()


def fixed_bandwidth(a, b):
    """The bandwidth is detached: it stays that of the point where the gradient is asked."""
    _, mean = reference_multi_kernel(a, b)
    return lambda a, b: reference_multi_kernel(a, b, mean=mean)[0]


# The loss, and a reference for values near a pair, detached like the loss.
CASES = {
    "multi_kernel": (
        lambda a, b: losses.multi_kernel_discrepancy(a, b, FACTORS),
        fixed_bandwidth,
    ),
    "coral": (losses.coral, lambda a, b: reference_coral),
    "top_k": (lambda a, b: losses.top_k_discrepancy(a, b, 3), lambda a, b: reference_top_k),
}


def differences(function, a, b, step=1e-5):
    """Central differences with respect to both arguments."""
    found = []
    for which, array in enumerate((a, b)):
        gradient = np.zeros(array.shape)
        for at in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = [a.astype("float64"), b.astype("float64")]
                moved[which][at] += sign * step
                values.append(function(*moved))
            gradient[at] = (values[0] - values[1]) / (2 * step)
        found.append(gradient)
    return found


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    loss, reference_at = CASES[name]
    reference = reference_at(a, b)
    got = loss(a, b)
    assert tuple(got.shape) == ()
    close(got, reference(a, b), rtol=1e-5)
    close(loss(b, a), numpy(got))
    for gradient, expected in zip(gradients(loss, a, b), differences(reference, a, b)):
        close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_order_of_the_examples_does_not_matter(name):
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    loss, _ = CASES[name]
    close(loss(a, b[::-1].copy()), numpy(loss(a, b)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_equal_views_give_0_and_no_gradient(name, scale):
    a = normal(N, WIDTH, scale=scale)
    loss, _ = CASES[name]
    assert 0 <= float(numpy(loss(a, a.copy()))) <= 1e-6
    for gradient in gradients(loss, a, a.copy()):
        # In units of a gradient with respect to features of the size 1.
        close(gradient * max(scale, 1e-6), 0.0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_single_example_is_finite(name):
    a, b = normal(1, WIDTH), normal(1, WIDTH, seed=1)
    loss, _ = CASES[name]
    assert np.isfinite(numpy(loss(a, b)))
    assert all(np.isfinite(gradient).all() for gradient in gradients(loss, a, b))


def test_multi_kernel_is_0_to_2_and_sees_spread():
    a, b = normal(64, 2), normal(64, 2, seed=1)
    near = float(numpy(losses.multi_kernel_discrepancy(a, b)))
    far = float(numpy(losses.multi_kernel_discrepancy(a - 1000, b + 1000)))
    wide = float(numpy(losses.multi_kernel_discrepancy(a - a.mean(0), 5 * (a - a.mean(0)))))
    assert 0 <= near < 0.05 < wide < far <= 2
    # The same means: nothing to see for the linear MMD.
    assert float(numpy(losses.mean_discrepancy(a - a.mean(0), 5 * (a - a.mean(0))))) < 1e-9


def test_multi_kernel_keeps_its_precision_far_from_0():
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    got = losses.multi_kernel_discrepancy(a + 1024, b + 1024, FACTORS)
    close(got, reference_multi_kernel(a + 1024, b + 1024)[0], rtol=1e-4)


def test_coral_does_not_see_a_shift():
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    close(losses.coral(a, b + 3), numpy(losses.coral(a, b)), rtol=1e-4)


def test_all_features_in_top_k_are_the_linear_mmd():
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    close(losses.top_k_discrepancy(a, b, WIDTH), numpy(losses.mean_discrepancy(a, b)))
    # Of equals exactly k are taken.
    ones, zeros = np.ones((N, WIDTH), "float32"), np.zeros((N, WIDTH), "float32")
    close(losses.top_k_discrepancy(ones, zeros, 2), 2.0)


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("name", CASES)
def test_trap_14_sixteen_bit_inputs_are_computed_in_float32(name, dtype):
    pair = [ops.cast(normal(N, WIDTH, seed=s, scale=5.0), dtype) for s in (0, 1)]
    loss, _ = CASES[name]
    got = loss(*pair)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    np.testing.assert_array_equal(numpy(got), numpy(loss(*(ops.cast(v, "float32") for v in pair))))


@pytest.mark.parametrize("k", [0, WIDTH + 1, 2.0, True])
def test_bad_k_is_named(k):
    with pytest.raises(ValueError, match=rf"`k`.*1 to {WIDTH}.*Received: k={k}"):
        losses.top_k_discrepancy(normal(N, WIDTH), normal(N, WIDTH), k)


@pytest.mark.parametrize("factors", [(), (1.0, 0.0), 1.0])
def test_bad_factors_are_named(factors):
    with pytest.raises(ValueError, match="`factors`.*positive number.*Received: factors="):
        losses.multi_kernel_discrepancy(normal(N, WIDTH), normal(N, WIDTH), factors)


@pytest.mark.process
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_of_uneven_size_compute_what_one_device_does(tmp_path):
    """Value and gradient of the global batch, 5 examples on one and 3 on the other."""
    import pathlib
    import subprocess
    import sys

    program = pathlib.Path(__file__).parent / "discrepancy_run.py"
    output = tmp_path / "found.npz"
    process = subprocess.Popen(
        [sys.executable, program, output],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    finish([process])
    found = dict(np.load(output))
    a, b = found["a"], found["b"]
    for name, (loss, _) in CASES.items():
        np.testing.assert_allclose(found[f"{name} value"], numpy(loss(a, b)), rtol=1e-5)
        for side, expected in zip("ab", gradients(loss, a, b)):
            np.testing.assert_allclose(found[f"{name} {side}"], expected, rtol=1e-4, atol=1e-7)
