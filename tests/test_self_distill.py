"""SelfDistillModel under fit, evaluate and predict: values, data forms, options."""

import keras
import numpy as np
import pytest
from conftest import smallest_network, tiny_model, tiny_network
from keras import ops

import sd_keras
from sd_keras import methods
from sd_keras.distortions import CropFlip

BOTH = "be_your_own_teacher+data_distortion"


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(y, z):
    return -np.log(softmax(z))[np.arange(len(y)), y]


def kl(target, z, temperature):
    p, q = softmax(target / temperature), softmax(z / temperature)
    return (p * np.log(p / q)).sum(-1)


def to_numpy(outputs):
    return {name: ops.convert_to_numpy(v).astype("float64") for name, v in outputs.items()}


def test_total_loss_is_the_papers_sum(images, labels):
    """Two views x two exits, label cross entropy once per exit and view."""
    model = tiny_model(methods.get(BOTH), CropFlip(1, seed=0))
    views = tuple(CropFlip(2, seed=s)(images) for s in (1, 2))
    outputs = model(views, training=True)
    a, b = (to_numpy(view) for view in outputs)
    expected = sum(
        0.5 * cross_entropy(labels, v["exit_1"])
        + cross_entropy(labels, v["exit_2"])
        + 0.5 * 9 * kl(v["exit_2"], v["exit_1"], 3)
        + 6.4e-5 * ((v["features_1"] - v["features_2"]) ** 2).sum(-1)
        for v in (a, b)
    ).mean()
    expected += (kl(b["exit_2"], a["exit_2"], 3) + kl(a["exit_2"], b["exit_2"], 3)).mean()
    difference = (a["features_2"] - b["features_2"]).mean(0)
    expected += 5e-4 * (difference**2).sum()
    got = model.compute_loss(views, labels, outputs, training=True)
    np.testing.assert_allclose(float(got), expected, rtol=1e-5)


def test_logs_name_exits_objectives_and_ensemble(images, labels):
    model = tiny_model(methods.get(BOTH), CropFlip(1), eager=True)
    data = {"validation_data": (images, labels), "verbose": 0}
    history = model.fit(images, labels, batch_size=16, **data).history
    within = {"loss", "exit_1_loss", "exit_2_loss", "exit_kl", "exit_hint"}
    within |= {f"{name}_accuracy" for name in ("exit_1", "exit_2", "ensemble")}
    between = {"view_kl", "view_mmd"}
    assert history.keys() == within | between | {f"val_{name}" for name in within}
    assert all(np.isfinite(values).all() for values in history.values())


def test_evaluate_measures_one_undistorted_view(images, labels):
    model = tiny_model(methods.get(BOTH), CropFlip(3), eager=True)
    model.fit(images, labels, verbose=0)
    measured = model.evaluate(images, labels, batch_size=10, verbose=0, return_dict=True)
    outputs = to_numpy(model.network(images))
    for name in ("exit_1", "exit_2"):
        np.testing.assert_allclose(
            measured[f"{name}_loss"], cross_entropy(labels, outputs[name]).mean(), rtol=1e-5
        )
        accuracy = (outputs[name].argmax(-1) == labels).mean()
        np.testing.assert_allclose(measured[f"{name}_accuracy"], accuracy, rtol=1e-5)
    together = softmax(outputs["exit_1"]) + softmax(outputs["exit_2"])
    np.testing.assert_allclose(
        measured["ensemble_accuracy"], (together.argmax(-1) == labels).mean(), rtol=1e-5
    )
    assert "view_kl" not in measured


def test_predict_returns_the_logits_of_every_exit(images):
    model = tiny_model(methods.get(BOTH), CropFlip(3))
    predicted = model.predict(images, batch_size=12, verbose=0)
    outputs = to_numpy(model.network(images))
    assert list(predicted) == ["exit_1", "exit_2"]
    for name, logits in predicted.items():
        np.testing.assert_allclose(logits, outputs[name], atol=1e-5)


class Pairs(keras.utils.PyDataset):
    """The images in order, as a PyDataset."""

    def __init__(self, x, y, size=16):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(self.y) // self.size

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return self.x[part], self.y[part]


def test_numpy_tf_data_and_pydataset_train_alike(images, labels):
    import tensorflow as tf

    losses = []
    for form in ("numpy", "tf.data", "PyDataset"):
        keras.utils.set_random_seed(7)
        model = tiny_model(methods.data_distortion(), CropFlip(1, seed=3), at=[], eager=True)
        if form == "numpy":
            history = model.fit(images, labels, batch_size=16, shuffle=False, epochs=2, verbose=0)
        elif form == "tf.data":
            data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
            history = model.fit(data, shuffle=False, epochs=2, verbose=0)
        else:
            history = model.fit(Pairs(images, labels), shuffle=False, epochs=2, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)


def test_one_hot_labels_equal_class_numbers(images, labels):
    losses = []
    for y in (labels, labels[:, None], np.eye(4, dtype="float32")[labels]):
        keras.utils.set_random_seed(7)
        history = tiny_model(methods.get(BOTH), CropFlip(1, seed=3), eager=True).fit(
            images, y, shuffle=False, verbose=0
        )
        losses.append([history.history[k][0] for k in ("loss", "exit_2_accuracy")])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)


def test_soft_labels(images, labels):
    soft = np.full((32, 4), 0.1, "float32") + 0.6 * np.eye(4, dtype="float32")[labels]
    model = tiny_model(methods.deep_supervision(), eager=True)
    measured = model.evaluate(images, soft, verbose=0, return_dict=True)
    z = to_numpy(model.network(images))["exit_1"]
    expected = -(soft * np.log(softmax(z))).sum(-1).mean()
    np.testing.assert_allclose(measured["exit_1_loss"], expected, rtol=1e-5)


def test_sample_weight_and_class_weight(images, labels):
    model = tiny_model(methods.deep_supervision(), eager=True)
    outputs = to_numpy(model.network(images))
    weight = np.linspace(0, 2, 32).astype("float32")
    expected = sum((weight * cross_entropy(labels, outputs[f"exit_{i}"])).mean() for i in (1, 2))
    loss = model.evaluate(images, labels, sample_weight=weight, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    losses = []
    per_class = {0: 0.5, 1: 1.0, 2: 2.0, 3: 0.0}
    per_image = np.array([per_class[y] for y in labels], "float32")
    for arguments in ({"class_weight": per_class}, {"sample_weight": per_image}):
        keras.utils.set_random_seed(7)
        model = tiny_model(methods.get(BOTH), CropFlip(1, seed=3), eager=True)
        history = model.fit(images, labels, shuffle=False, verbose=0, **arguments)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize(
    "loss,reference",
    [
        (
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
            lambda y, z: -((0.8 * np.eye(4)[y] + 0.05) * np.log(softmax(z))).sum(-1),
        ),
        (
            keras.losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0, gamma=2.0),
            lambda y, z: (1 - softmax(z)[range(32), y]) ** 2 * cross_entropy(y, z),
        ),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), cross_entropy),
        (
            lambda y, z: ops.sum(ops.square(z - ops.one_hot(y, 4)), axis=-1),
            lambda y, z: ((z - np.eye(4)[y]) ** 2).sum(-1),
        ),
    ],
    ids=["label smoothing", "focal", "sparse", "function"],
)
def test_compile_loss_replaces_the_label_loss_at_every_exit(images, labels, loss, reference):
    model = tiny_model(methods.deep_supervision(), compile_with={"loss": loss}, eager=True)
    measured = model.evaluate(images, labels, verbose=0, return_dict=True)
    outputs = to_numpy(model.network(images))
    for name in ("exit_1", "exit_2"):
        expected = reference(labels, outputs[name]).mean()
        np.testing.assert_allclose(measured[f"{name}_loss"], expected, rtol=1e-4)


def test_regularizers_count(images, labels):
    network = tiny_network(at=[])
    network.get_layer("classifier_1").kernel_regularizer = keras.regularizers.L2(0.5)
    network = keras.models.clone_model(network)
    model = sd_keras.SelfDistillModel(network, methods.baseline())
    model.compile(sd_keras.optimizers.SGD(0.1), run_eagerly=True)
    measured = model.evaluate(images, labels, verbose=0, return_dict=True)
    kernel = ops.convert_to_numpy(network.get_layer("classifier_1").kernel)
    penalty = 0.5 * (kernel.astype("float64") ** 2).sum()
    np.testing.assert_allclose(measured["loss"] - measured["exit_1_loss"], penalty, rtol=1e-4)


def test_ready_made_views_equal_drawn_ones(images, labels):
    import tensorflow as tf

    views = tuple(np.array(CropFlip(2, seed=s)(images)) for s in (1, 2))
    losses = []
    for data in (
        ((views[0], views[1]), labels),
        (tf.data.Dataset.from_tensor_slices((views, labels)).batch(32), None),
    ):
        keras.utils.set_random_seed(7)
        model = tiny_model(methods.get(BOTH), eager=True)
        losses.append(model.fit(*data, shuffle=False, verbose=0).history["loss"])
    keras.utils.set_random_seed(7)
    model = tiny_model(methods.get(BOTH), eager=True)
    outputs = model(tuple(ops.convert_to_tensor(v) for v in views), training=True)
    expected = model.compute_loss(views, labels, outputs, training=True)
    np.testing.assert_allclose(losses[0], float(expected), rtol=1e-5)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_the_two_views_are_different_draws(images, labels):
    model = tiny_model(methods.data_distortion(), CropFlip(2), at=[], eager=True)
    drawn, _ = model.begin_step(images, labels, None)
    assert len(drawn) == 2
    assert not np.array_equal(drawn[0], drawn[1])
    same = tiny_model(methods.data_distortion(), lambda x: x, at=[], eager=True)
    history = same.fit(images, labels, verbose=0).history
    assert history["view_kl"][0] == 0
    assert history["view_mmd"][0] == 0


def test_ready_made_views_are_distorted_further(images, labels):
    model = tiny_model(methods.data_distortion(), lambda x: 255 - x, at=[])
    views, _ = model.begin_step((images, images[::-1]), labels, None)
    np.testing.assert_array_equal(views[0], 255 - images)
    np.testing.assert_array_equal(views[1], 255 - images[::-1])


class Halves:
    """Mixes every image with the one before it, half and half."""

    def mix(self, views, labels, num_classes, sample_weight):
        views = tuple(0.5 * ops.cast(v, "float32") for v in views)
        labels = ops.one_hot(labels, num_classes) / 2
        both = [v + ops.roll(v, 1, axis=0) for v in (*views, labels)]
        return tuple(both[:-1]), both[-1]


@pytest.mark.parametrize("ready", [False, True])
def test_mixed_images_and_labels_are_learnt_from(images, labels, ready):
    """Before the views are drawn, ready-made views with the same partner."""
    method = methods.get(BOTH)
    distortion = None if ready else (lambda x: x)
    model = tiny_model(method, distortion, at=None)
    model.mixing = Halves()
    x = (images, images[::-1].copy()) if ready else images
    views, mixed = model.begin_step(x, labels, None)
    assert len(views) == 2
    one_hot = np.eye(4)[labels]
    np.testing.assert_allclose(mixed.soft, (one_hot + np.roll(one_hot, 1, 0)) / 2)
    halves = (images.astype("float32") + np.roll(images, 1, 0)) / 2
    np.testing.assert_array_equal(views[0], halves)
    expected = float(model.compute_loss(views, mixed, model(views, training=True)))
    history = model.fit(x, labels, batch_size=32, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)
    wrong = np.where(np.arange(32) == 3, 7, labels)
    model.position.begin_epoch(0)
    step = model.train_function
    with pytest.raises(ValueError, match=r"`y` must hold class numbers 0…3.* y from 0 to 7"):
        step(iter([(x, wrong)] * 2))


def test_mixing_is_saved_with_the_model_and_goes_on(images, labels, tmp_path):
    mixing = sd_keras.mixing.Mix(0.2, 1.0, seed=3)
    distortion = CropFlip(1, seed=1)
    model = tiny_model(methods.data_distortion(), distortion, at=[], mixing=mixing, eager=True)
    model.fit(images, labels, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.mixing.get_config() == mixing.get_config()
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    first, second = (m.fit(images, labels, **options).history for m in (model, loaded))
    assert first == second


def test_keras_layers_serve_as_distortions(images, labels):
    layer = keras.layers.RandomTranslation(0.2, 0.2, seed=1)
    history = tiny_model(methods.data_distortion(), layer, at=[], eager=True).fit(
        images, labels, verbose=0
    )
    assert history.history["view_mmd"][0] > 0


def test_a_schedule_sees_the_step(images, labels):
    """α jumps from 0 to 1 at step 2: the shallow exit's label loss leaves the total."""
    alpha = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 1.0])
    method = methods.be_your_own_teacher(alpha=alpha, hint_weight=0.0, temperature=1.0)
    model = tiny_model(method)
    for step in range(4):
        model.reset_metrics()
        log = model.train_on_batch(images, labels, return_dict=True)
        shallow = log["exit_1_loss"] if step < 2 else log["exit_kl"]
        np.testing.assert_allclose(log["loss"], log["exit_2_loss"] + shallow, rtol=1e-5)
    assert int(model.step.value) == 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_losses_in_float32(images, labels, policy):
    keras.config.set_dtype_policy(policy)
    model = tiny_model(methods.get(BOTH), CropFlip(1))
    history = model.fit(images, labels, batch_size=16, epochs=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    outputs = model.network(images)
    assert outputs["exit_1"].dtype == "float32"
    assert outputs["features_2"].dtype == policy.removeprefix("mixed_")
    loss = model.compute_loss(images, labels, outputs, training=False)
    assert loss.dtype == "float32"
    scaled = type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (policy == "mixed_float16")


@pytest.fixture(scope="module")
def fitted_losses():
    """Losses of a fit by compile options, each fitted once."""
    images = np.random.default_rng(1).integers(0, 256, (32, 8, 8, 1)).astype("uint8")
    labels = np.random.default_rng(2).integers(0, 4, 32).astype("int32")
    views = tuple(np.array(CropFlip(2, seed=s)(images)) for s in (1, 2))
    losses = {}

    def losses_with(settings):
        key = str(settings)
        if key not in losses:
            keras.utils.set_random_seed(7)
            model = tiny_model(methods.get(BOTH), compile_with={"jit_compile": False} | settings)
            options = {"batch_size": 8, "shuffle": False, "epochs": 2, "verbose": 0}
            losses[key] = model.fit(views, labels, **options).history["loss"]
        return losses[key]

    return losses_with


@pytest.mark.parametrize(
    "settings",
    [
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        pytest.param({"jit_compile": True}, marks=pytest.mark.large),
    ],
    ids=lambda s: next(iter(s)),
)
def test_compile_options_give_the_same_losses(settings, fitted_losses):
    np.testing.assert_allclose(fitted_losses(settings), fitted_losses({}), rtol=1e-4)


@pytest.mark.parametrize("option", [{"gradient_accumulation_steps": 2}, {"use_ema": True}])
def test_optimizer_options_of_keras_work(images, labels, option):
    optimizer = sd_keras.optimizers.SGD(0.05, **option)
    model = tiny_model(methods.get(BOTH), CropFlip(1), compile_with={"optimizer": optimizer})
    history = model.fit(images, labels, batch_size=8, epochs=4, verbose=0).history
    assert history["exit_2_loss"][-1] < history["exit_2_loss"][0]


def test_metrics_can_be_given_per_output_and_weighted(images, labels):
    settings = {
        "metrics": {
            "exit_2": ["accuracy"],
            "ensemble": [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
        },
        "weighted_metrics": [keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    }
    model = tiny_model(methods.deep_supervision(), compile_with=settings, eager=True)
    weight = (labels == 1).astype("float32")
    got = model.evaluate(images, labels, sample_weight=weight, verbose=0, return_dict=True)
    z = to_numpy(model.network(images))
    assert {"exit_2_accuracy", "ensemble_top_2", "exit_1_weighted"} <= got.keys()
    assert "exit_1_accuracy" not in got
    right = z["exit_1"].argmax(-1)[labels == 1] == 1
    np.testing.assert_allclose(got["exit_1_weighted"], right.mean(), rtol=1e-5)


def test_recompiling_gives_fresh_metrics(images, labels):
    model = tiny_model(methods.deep_supervision())
    model.fit(images, labels, verbose=0)
    top_2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
    model.compile(sd_keras.optimizers.SGD(0.05), metrics=[top_2])
    history = model.fit(images, labels, verbose=0).history
    assert {"exit_1_top_2", "exit_2_top_2", "ensemble_top_2"} <= history.keys()
    assert "exit_1_accuracy" not in history


def test_validation_may_have_labels_of_the_other_form(images, labels):
    one_hot = np.eye(4, dtype="float32")[labels]
    metric = keras.metrics.CategoricalAccuracy(name="accuracy")
    for metrics in (["accuracy"], [metric]):
        for train, other in ((one_hot, labels), (labels, one_hot)):
            model = tiny_model(
                methods.deep_supervision(), compile_with={"metrics": metrics}, eager=True
            )
            model.fit(images, train, verbose=0)
            measured = model.evaluate(images, other, verbose=0, return_dict=True)
            z = to_numpy(model.network(images))["exit_1"]
            right = (z.argmax(-1) == labels).mean()
            np.testing.assert_allclose(measured["exit_1_accuracy"], right, rtol=1e-5)


def test_streams_of_unknown_length_do_not_count_a_step_too_many(images, labels):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, labels)).filter(lambda x, y: True).batch(8)
    model = tiny_model(methods.be_your_own_teacher(), CropFlip(1, seed=0))
    model.fit(data, epochs=3, shuffle=False, verbose=0)
    assert int(model.step.value) == 12
    assert int(model.distortion.seed_generator.state.value[1]) == 12


def test_layers_that_distort_in_training_only(images, labels):
    noise = keras.layers.GaussianNoise(1.0, seed=1)
    model = tiny_model(methods.data_distortion(), noise, at=[], eager=True)
    history = model.fit(images.astype("float32"), labels, verbose=0)
    assert history.history["view_mmd"][0] > 0


def test_a_loaded_float16_network_keeps_its_loss_scaling(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    tiny_network().save(tmp_path / "network.keras")
    keras.config.set_dtype_policy("float32")
    network = keras.models.load_model(tmp_path / "network.keras")
    model = sd_keras.SelfDistillModel(network, methods.be_your_own_teacher())
    model.compile(sd_keras.optimizers.SGD(0.1))
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError()])
def test_dense_losses_of_keras_take_class_numbers(images, labels, loss):
    model = tiny_model(methods.deep_supervision(), compile_with={"loss": loss}, eager=True)
    measured = model.evaluate(images, labels, verbose=0, return_dict=True)
    z = to_numpy(model.network(images))["exit_1"]
    expected = ((z - np.eye(4)[labels]) ** 2).mean()
    np.testing.assert_allclose(measured["exit_1_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("metrics", [None, ["accuracy"], ["mse", "accuracy"], {"exit_1": ["acc"]}])
@pytest.mark.parametrize("training", [True, False])
def test_a_step_is_traced_once(images, labels, metrics, training, monkeypatch):
    """TensorFlow traces again what creates variables: optimizer and metrics come before."""
    if keras.config.backend() != "tensorflow":
        pytest.skip("only TensorFlow traces a step so")
    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile(sd_keras.optimizers.SGD(0.05), metrics=metrics)
    traced = []
    compute_loss = model.compute_loss
    monkeypatch.setattr(
        model, "compute_loss", lambda *args, **kw: traced.append(1) or compute_loss(*args, **kw)
    )
    (model.fit if training else model.evaluate)(images, labels, batch_size=32, verbose=0)
    assert len(traced) == 1
