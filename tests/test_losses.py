"""The losses against float64 NumPy transcriptions of the papers' equations."""

import keras
import numpy as np
import pytest
from keras import ops

from sd_keras import losses

N, CLASSES, WIDTH = 7, 5, 6
HALF_TYPES = ("float16", "bfloat16")


def normal(*shape, seed=0, scale=2.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def numpy(tensor):
    if isinstance(tensor, keras.Variable):
        tensor = ops.convert_to_tensor(tensor)
    return np.asarray(ops.convert_to_numpy(tensor))


def gradients(function, *arguments):
    """Gradients of the sum of `function(*arguments)`, zeros where it does not depend."""
    if keras.backend.backend() == "jax":
        import jax

        numbers = tuple(range(len(arguments)))
        return [numpy(g) for g in jax.grad(lambda *a: function(*a).sum(), numbers)(*arguments)]
    tensors = [ops.convert_to_tensor(argument) for argument in arguments]
    if keras.backend.backend() == "torch":
        tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        function(*tensors).sum().backward()
        return [0 * numpy(t.detach()) if t.grad is None else numpy(t.grad) for t in tensors]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(function(*tensors))
    return [numpy(g) for g in tape.gradient(total, tensors, unconnected_gradients="zero")]


def log_softmax(logits, temperature=1.0):
    z = np.asarray(logits, "float64") / temperature
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(logits, temperature=1.0):
    return np.exp(log_softmax(logits, temperature))


def reference_cross_entropy(labels, logits):
    """−Σ_k y_k log q_k of class numbers or probabilities."""
    labels = np.asarray(labels)
    if labels.ndim == 1:
        labels = np.eye(logits.shape[-1])[labels]
    return -(labels * log_softmax(logits)).sum(-1)


def reference_kl(target, logits, temperature):
    """Σ_k p_k log(p_k / q_k), p of the target."""
    p, q = log_softmax(target, temperature), log_softmax(logits, temperature)
    return (np.exp(p) * (p - q)).sum(-1)


def reference_hint(target, features):
    return ((np.asarray(features, "float64") - np.asarray(target, "float64")) ** 2).sum(-1)


def reference_mmd(a, b):
    difference = np.asarray(a, "float64").mean(0) - np.asarray(b, "float64").mean(0)
    return (difference**2).sum()


def close(got, want, rtol=2e-5, atol=2e-6):
    np.testing.assert_allclose(numpy(got), want, rtol=rtol, atol=atol)


LABELS = {
    "int32": np.array([0, 4, 2, 2, 1, 3, 0], "int32"),
    "int64": np.array([0, 4, 2, 2, 1, 3, 0], "int64"),
    "uint8": np.array([0, 4, 2, 2, 1, 3, 0], "uint8"),
    "one-hot": np.eye(CLASSES, dtype="float32")[[0, 4, 2, 2, 1, 3, 0]],
    "one-hot int": np.eye(CLASSES, dtype="int32")[[0, 4, 2, 2, 1, 3, 0]],
    "soft": softmax(normal(N, CLASSES, seed=9)).astype("float32"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_label_cross_entropy_and_its_gradient(kind):
    labels, logits = LABELS[kind], normal(N, CLASSES)
    got = losses.label_cross_entropy(ops.convert_to_tensor(labels), logits)
    assert tuple(got.shape) == (N,)
    close(got, reference_cross_entropy(labels, logits))
    one_hot = np.eye(CLASSES)[labels] if labels.ndim == 1 else labels
    (gradient,) = gradients(lambda z: losses.label_cross_entropy(labels, z), logits)
    close(gradient, softmax(logits) - one_hot)


def test_class_numbers_out_of_range_add_nothing():
    values = losses.label_cross_entropy(np.array([-1, CLASSES, 1]), normal(3, CLASSES))
    np.testing.assert_array_equal(numpy(values)[:2], [0, 0])
    assert numpy(values)[2] > 0


def factor(temperature, scaling):
    return {"none": 1, "T": temperature, "T2": temperature**2}[scaling]


@pytest.mark.parametrize("scaling", ["none", "T", "T2"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_divergence_and_its_gradients(temperature, scaling):
    target, logits = normal(N, CLASSES), normal(N, CLASSES, seed=1)

    def loss(p, q):
        return losses.kl_divergence(p, q, temperature, scaling)

    got, scale = loss(target, logits), factor(temperature, scaling)
    assert tuple(got.shape) == (N,)
    close(got, scale * reference_kl(target, logits, temperature))
    to_target, to_logits = gradients(loss, target, logits)
    np.testing.assert_array_equal(to_target, 0)
    expected = scale / temperature * (softmax(logits, temperature) - softmax(target, temperature))
    close(to_logits, expected)


@pytest.mark.parametrize("scaling", ["none", "T", "T2"])
def test_symmetric_kl_divergence_and_its_gradients(scaling):
    a, b, temperature = normal(N, CLASSES), normal(N, CLASSES, seed=1), 2.0

    def loss(a, b):
        return losses.symmetric_kl_divergence(a, b, temperature, scaling)

    scale = factor(temperature, scaling)
    both = reference_kl(a, b, temperature) + reference_kl(b, a, temperature)
    close(loss(a, b), scale * both)
    close(loss(a, b), numpy(loss(b, a)))
    # With each target constant, only KL(p_b ‖ p_a) moves a.
    difference = softmax(a, temperature) - softmax(b, temperature)
    for gradient, sign in zip(gradients(loss, a, b), (1, -1)):
        close(gradient, sign * scale / temperature * difference)


def test_hint_and_its_gradients():
    target, features = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    got = losses.hint(target, features)
    assert tuple(got.shape) == (N,)
    close(got, reference_hint(target, features))
    to_target, to_features = gradients(losses.hint, target, features)
    np.testing.assert_array_equal(to_target, 0)
    close(to_features, 2 * (features.astype("float64") - target))


def test_mean_discrepancy_and_its_gradients():
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    got = losses.mean_discrepancy(a, b)
    assert tuple(got.shape) == ()
    close(got, reference_mmd(a, b))
    each = 2 / N * (a.astype("float64").mean(0) - b.astype("float64").mean(0))
    for gradient, sign in zip(gradients(losses.mean_discrepancy, a, b), (1, -1)):
        close(gradient, np.broadcast_to(sign * each, (N, WIDTH)))


def test_temperature_may_be_a_tensor():
    target, logits = normal(N, CLASSES), normal(N, CLASSES, seed=1)
    got = losses.kl_divergence(target, logits, ops.convert_to_tensor(2.5), "T2")
    close(got, 2.5**2 * reference_kl(target, logits, 2.5))


def test_unknown_scaling_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"`scaling`.*'none', 'T', 'T2'.*scaling='t2'"):
        losses.kl_divergence(normal(2, 3), normal(2, 3), 2.0, "t2")


TWO_SIDED = {
    "kl": lambda a, b: losses.kl_divergence(a, b, 3.0, "T2"),
    "symmetric_kl": lambda a, b: losses.symmetric_kl_divergence(a, b, 3.0),
    "hint": losses.hint,
    "mmd": losses.mean_discrepancy,
    "cross_entropy": losses.label_cross_entropy,  # linear in the labels, so any will do
}


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("name", TWO_SIDED)
def test_trap_14_sixteen_bit_inputs_are_computed_in_float32(name, dtype):
    pair = [ops.cast(normal(N, CLASSES, seed=s, scale=5.0), dtype) for s in (0, 1)]
    got = TWO_SIDED[name](*pair)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    widened = [ops.cast(value, "float32") for value in pair]
    np.testing.assert_array_equal(numpy(got), numpy(TWO_SIDED[name](*widened)))


FLOAT64_REFERENCES = {
    "kl": lambda a, b: 9 * reference_kl(a, b, 3.0),
    "symmetric_kl": lambda a, b: reference_kl(a, b, 3.0) + reference_kl(b, a, 3.0),
    "hint": reference_hint,
    "mmd": reference_mmd,
    "cross_entropy": reference_cross_entropy,
}


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends lose float64 on the way"
)
@pytest.mark.parametrize("name", FLOAT64_REFERENCES)
def test_float64_tensors_are_computed_in_float64(name):
    pair = [normal(N, CLASSES, seed=s) for s in (0, 1)]
    got = TWO_SIDED[name](*(ops.cast(value, "float64") for value in pair))
    assert keras.backend.standardize_dtype(got.dtype) == "float64"
    close(got, FLOAT64_REFERENCES[name](*pair), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["kl", "symmetric_kl", "cross_entropy"])
def test_large_logits_stay_finite(name):
    corner = 1e4 * np.array([[1, -1, 0], [-1, 1, 1], [1, 1, 1], [0, 0, -1]], "float32")
    other = np.roll(corner, 1, axis=1)
    close(TWO_SIDED[name](corner, other), FLOAT64_REFERENCES[name](corner, other), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients(TWO_SIDED[name], corner, other))


def test_trap_1_kl_sums_over_classes():
    """A mean over 100 classes would be a hundredth."""
    target, logits = normal(4, 100), normal(4, 100, seed=1)
    whole = sum(
        softmax(target)[:, k] * (log_softmax(target) - log_softmax(logits))[:, k]
        for k in range(100)
    )
    close(losses.kl_divergence(target, logits), whole)
    # Classes that nobody believes in change nothing; a mean over classes would shrink.
    padding = np.full((4, 100), -1e3, "float32")
    wider = [np.concatenate([z, padding], 1) for z in (target, logits)]
    close(losses.kl_divergence(*wider), whole)


def test_trap_2_kl_comes_from_logits_by_log_softmax():
    """Probabilities clipped at 1e-7 could not tell more than 16 nats; neither can raw logits."""
    target, logits = np.array([[60, 0]], "float32"), np.array([[0, 60]], "float32")
    close(losses.kl_divergence(target, logits), [60.0])
    close(losses.kl_divergence(target + 7, logits - 3), [60.0])
    # Softmax twice would flatten certainty to odds of e : 1.
    twice = reference_kl(softmax(target), softmax(logits), 1.0)
    assert twice[0] < 1.0


@pytest.mark.parametrize("name", ["kl", "hint"])
def test_trap_3_targets_are_detached(name):
    target, student = normal(N, CLASSES), normal(N, CLASSES, seed=1)
    to_target, to_student = gradients(TWO_SIDED[name], target, student)
    np.testing.assert_array_equal(to_target, 0)
    assert np.abs(to_student).min() > 0


def test_trap_5_hint_is_squared_and_per_example():
    target, features = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    once = numpy(losses.hint(target, features))
    repeated = losses.hint(*(np.repeat(x, 3, axis=0) for x in (target, features)))
    close(np.mean(numpy(repeated)), once.mean())  # a sum over the batch would triple
    close(losses.hint(2 * target, 2 * features), 4 * once)  # a norm would double
    _, gradient = gradients(losses.hint, target, target)
    np.testing.assert_array_equal(gradient, 0)  # a norm has no gradient here


def test_trap_6_mmd_is_of_the_batch_means_per_dimension():
    a, b = normal(N, WIDTH), normal(N, WIDTH, seed=1)
    value = numpy(losses.mean_discrepancy(a, b))
    shuffled = b[np.random.default_rng(0).permutation(N)]
    close(losses.mean_discrepancy(a, shuffled), value)
    assert not np.isclose(reference_hint(a, b).mean(), reference_hint(a, shuffled).mean())
    # Same mean over everything, different means per dimension: 1 + 1, not 0.
    left, right = np.array([[1, 0]] * 3, "float32"), np.array([[0, 1]] * 3, "float32")
    close(losses.mean_discrepancy(left, right), 2.0)
