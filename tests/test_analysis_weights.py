"""Noise on weights and gradients by layer: exact, repeatable, and nothing is changed."""

import keras
import numpy as np
import pytest
from conftest import bright_and_dark, tiny_model, tiny_network, with_mixed_answers

from sd_keras import analysis, methods
from sd_keras.analysis import inputs
from sd_keras.distortions import CropFlip

IMAGES, LABELS = bright_and_dark(), np.arange(32) % 4
BOTH = "be_your_own_teacher+data_distortion"


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return with_mixed_answers(tiny_network(), IMAGES)


def values_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def assert_unchanged(model, before):
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)


# Evaluation by one compiled function.


@pytest.mark.parametrize("batch_size", [5, 32, 100])
def test_evaluation_equals_evaluate_exits(network, batch_size):
    found = inputs.Evaluation(network, batch_size=batch_size)(IMAGES, LABELS)
    expected = analysis.evaluate_exits(network, IMAGES, LABELS)
    for row, measures in zip(found, expected.values()):
        np.testing.assert_allclose(row[0], measures["accuracy"])
        np.testing.assert_allclose(row[1], measures["cross_entropy"], rtol=1e-5)


def test_evaluation_reads_weights_as_they_are():
    keras.utils.set_random_seed(1)
    network = tiny_network()
    evaluate = inputs.Evaluation(network)
    before = evaluate(IMAGES, LABELS)
    network.get_layer("classifier_2").bias.assign([50.0, 0, 0, 0])
    after = evaluate(IMAGES, LABELS)
    assert after[1, 0] == 0.25 and before[1, 1] < 2 < after[1, 1]
    assert after[0, 1] == before[0, 1]


def test_answers_that_are_not_finite_are_wrong():
    network = tiny_network()
    network.get_layer("classifier_1").bias.assign([np.nan] * 4)
    found = inputs.Evaluation(network)(IMAGES, LABELS)
    assert found[0, 0] == 0 and np.isnan(found[0, 1]) and np.isfinite(found[1]).all()


# Noise.


def by_hand(network, variables, deviation, draw, relative, seed=0):
    """Adds the noise to the weights themselves, measures, and puts them back."""
    generator, own = np.random.default_rng([seed, draw]), [v.numpy() for v in variables]
    for variable, value in zip(variables, own):
        noise = generator.standard_normal(value.shape, "float32")
        scale = np.sqrt(np.mean(value**2)) if relative else 1.0
        variable.assign(value + deviation * scale * noise)
    measured = analysis.evaluate_exits(network, IMAGES, LABELS)
    for variable, value in zip(variables, own):
        variable.assign(value)
    return measured


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("variables", ["kernels", "trainable"])
def test_noise_equals_noise_added_by_hand(network, relative, variables):
    before = values_of(network)
    found = analysis.weight_noise(
        network, IMAGES, LABELS, [0.0, 0.1, 0.3], 2, 0, relative, variables
    )
    assert_unchanged(network, before)
    noisy = network.trainable_weights
    if variables == "kernels":
        noisy = [weight for weight in noisy if len(weight.shape) > 1]
    for draw in range(2):
        for level, deviation in enumerate([0.0, 0.1, 0.3]):
            expected = by_hand(network, noisy, deviation, draw, relative)
            for name, own in found.items():
                got = own["cross_entropy"][level, draw]
                assert got == pytest.approx(expected[name]["cross_entropy"], rel=1e-3), name
                assert own["accuracy"][level, draw] == expected[name]["accuracy"]
    assert found["exit_1"]["accuracy"].shape == (3, 2)
    assert len(set(found["exit_1"]["cross_entropy"][1])) == 2


def test_all_levels_and_draws_are_traced_once(network, monkeypatch):
    traces = []
    own = inputs.Evaluation._batch_sums

    def counted(self, *batch):
        traces.append(1)
        return own(self, *batch)

    monkeypatch.setattr(inputs.Evaluation, "_batch_sums", counted)
    analysis.weight_noise(network, IMAGES, LABELS, [0.0, 0.1, 0.2], 3, batch_size=13)
    assert len(traces) == 1


def test_weights_stay_when_an_evaluation_fails(network, monkeypatch):
    before, calls = values_of(network), []
    own = inputs.Evaluation.__call__

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return own(self, *arguments)

    monkeypatch.setattr(inputs.Evaluation, "__call__", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        analysis.weight_noise(network, IMAGES, LABELS, [0.1, 0.2], 3)
    assert_unchanged(network, before)


def test_noise_is_drawn_by_the_seed(network):
    first, again, other = (
        analysis.weight_noise(network, IMAGES, LABELS, [0.2], 1, seed)["exit_1"]["cross_entropy"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


# Gradients.


def plain_gradients(model):
    """Of the loss of one step on all images, whose draws are then put back."""
    before = values_of(model)
    kernels = [v for v in model.network.trainable_weights if len(v.shape) > 1]
    import tensorflow as tf

    views, targets = model.begin_step(IMAGES, LABELS, None)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(views, targets, model(views, training=True), None)
    found = tape.gradient(loss, [kernel.value for kernel in kernels])
    for variable, value in zip(model.variables, before):
        variable.assign(value)
    for metric in model.metrics:
        metric.reset_state()
    return [0.0 if g is None else float(np.abs(g.numpy()).mean()) for g in found]


@pytest.mark.parametrize("method", ["baseline", "be_your_own_teacher", BOTH])
@pytest.mark.filterwarnings("ignore:method 'baseline' trains")
def test_gradients_equal_plain_differentiation(method):
    if keras.config.backend() != "tensorflow":
        pytest.skip("differentiates by TensorFlow")
    model = tiny_model(methods.get(method), CropFlip(1, seed=3))
    found = analysis.gradient_magnitudes(model, IMAGES, LABELS)
    expected = plain_gradients(model)
    np.testing.assert_allclose(found["mean"], expected, rtol=2e-4, atol=1e-9)
    assert found["names"][0] == "stem_conv/kernel" and found["convolution"][0]
    assert found["names"][-1] == "classifier_2/kernel" and not found["convolution"][-1]
    np.testing.assert_array_equal(found["deviation"], 0)  # one batch
    # Without self-distillation nothing reaches the shallow exit.
    shallow = found["mean"][found["names"].index("classifier_1/kernel")]
    assert (shallow == 0) == (method == "baseline")


def test_nothing_of_the_model_changes():
    model = tiny_model(methods.get(BOTH), CropFlip(1, seed=0))
    model.step.assign(3)
    for variable in model.metrics_variables:
        variable.assign(variable + 1)
    before = values_of(model)
    metrics = [variable.numpy() for variable in model.metrics_variables]
    first = analysis.gradient_magnitudes(model, IMAGES, LABELS, 8)
    assert_unchanged(model, before)
    assert [variable.numpy() for variable in model.metrics_variables] == metrics
    again = analysis.gradient_magnitudes(model, IMAGES, LABELS, 8)
    np.testing.assert_array_equal(first["mean"], again["mean"])
    assert (first["deviation"] > 0).all()


def test_batches_have_draws_of_their_own():
    """Four times the same images in four batches: only the distortion differs."""
    images, labels = np.tile(IMAGES[:8], (4, 1, 1, 1)), np.tile(LABELS[:8], 4)
    distorted = tiny_model(methods.get("deep_supervision"), CropFlip(3, seed=0))
    alike = tiny_model(methods.get("deep_supervision"))
    assert (analysis.gradient_magnitudes(distorted, images, labels, 8)["deviation"] > 0).all()
    np.testing.assert_array_equal(
        analysis.gradient_magnitudes(alike, images, labels, 8)["deviation"], 0
    )


@pytest.mark.filterwarnings("ignore:method 'data_distortion' trains")
def test_ready_made_views_and_soft_labels_are_taken():
    model = tiny_model(methods.get("data_distortion"))
    soft = np.eye(4, dtype="float32")[LABELS]
    found = analysis.gradient_magnitudes(model, (IMAGES, IMAGES[:, ::-1]), soft, 16)
    assert (found["mean"][: len(found["mean"]) - 2] > 0).any()


@pytest.mark.filterwarnings("ignore:method 'baseline' trains")
def test_what_does_not_fit_is_refused(network):
    noise, magnitudes = analysis.weight_noise, analysis.gradient_magnitudes
    model = tiny_model()
    wrong = {
        "`deviations` must be": lambda: noise(network, IMAGES, LABELS, [-1.0]),
        "`draws` must be": lambda: noise(network, IMAGES, LABELS, [1.0], 0),
        "`seed` must be": lambda: noise(network, IMAGES, LABELS, [1.0], 1, -1),
        "`variables` must be": lambda: noise(network, IMAGES, LABELS, [1.0], variables="all"),
        "`batch_size` must be": lambda: noise(network, IMAGES, LABELS, [1.0], batch_size=0),
        "`labels` must be": lambda: noise(network, IMAGES, LABELS + 4, [1.0]),
        "`images` must be raw": lambda: noise(network, IMAGES[:, :4], LABELS, [1.0]),
        "`model` must be a compiled": lambda: magnitudes(network, IMAGES, LABELS),
        "`x` and `y` must hold": lambda: magnitudes(model, IMAGES, LABELS[:3]),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message + ".*Received: "):
            call()
