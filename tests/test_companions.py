"""Teachers, peers, the network's past, adversaries and balanced weights under `fit`."""

import keras
import numpy as np
import pytest
from conftest import smallest_network, tiny_model, tiny_network
from keras import layers, ops
from test_losses import log_softmax, reference_cross_entropy, reference_kl, softmax

import sd_keras
from sd_keras import adversary, data, methods, optimizers
from sd_keras.distortions import CropFlip
from sd_keras.models.maps import feature_maps
from sd_keras.trainer import balance

ONE = {"epochs": 1, "batch_size": 32, "shuffle": False, "verbose": 0}


def teacher_of(widths=(6, 12), **kwargs):
    keras.utils.set_random_seed(7)
    return tiny_network(at=[], widths=widths, **kwargs)


def foreign_teacher(activation=None):
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(5, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4, activation=activation)(x))


def model_of(method, **kwargs):
    """A model that does not move: its logs are the losses of its first weights."""
    kwargs = {"at": None if method.min_exits > 1 else []} | kwargs
    still = {"optimizer": optimizers.SGD(0.0), "metrics": ["accuracy"]}
    return tiny_model(method, compile_with=still, eager=True, **kwargs)


def logits(network, images, training):
    outputs = network(images.astype("float32"), training=training)
    outputs = outputs if isinstance(outputs, dict) else {"exit_1": outputs}
    return {name: np.asarray(value, "float64") for name, value in outputs.items()}


def copy_of(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


@pytest.mark.parametrize("make", [teacher_of, foreign_teacher])
def test_knowledge_distillation_is_its_equation(make, images, labels):
    teacher = make()
    model = model_of(methods.knowledge_distillation(0.9, 4.0), teacher=teacher)
    taught = logits(teacher, images, training=False)["exit_1"]
    own = logits(copy_of(model.network), images, training=True)["exit_1"]
    logs = model.fit(images, labels, **ONE).history
    kl = 16 * reference_kl(taught, own, 4.0).mean()
    cross_entropy = reference_cross_entropy(labels, own).mean()
    np.testing.assert_allclose(logs["teacher_kl"][0], kl, rtol=1e-4)
    np.testing.assert_allclose(logs["exit_1_loss"][0], cross_entropy, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"][0], 0.1 * cross_entropy + 0.9 * kl, rtol=1e-4)


def test_a_teacher_is_left_as_it_is(images, labels):
    teacher = teacher_of()
    before = [weight.numpy() for weight in teacher.weights]
    method = methods.fitnet(1.0, alpha=0.5) + methods.attention_transfer(10.0)
    model = tiny_model(method, at=[], teacher=teacher, eager=True)
    assert not {id(w) for w in teacher.weights} & {id(w) for w in model.trainable_variables}
    model.fit(images, labels, epochs=2, batch_size=16, verbose=0)
    for old, weight in zip(before, teacher.weights):
        np.testing.assert_array_equal(old, weight.numpy())


def test_the_network_learns_its_teachers_answers(images):
    """From the teacher alone, labels being of no use."""
    model = tiny_model(methods.knowledge_distillation(1.0, 1.0), at=[], teacher=teacher_of())
    logs = model.fit(images, np.zeros(32, "int32"), epochs=12, batch_size=32, verbose=0).history
    assert logs["teacher_kl"][-1] < 0.3 * logs["teacher_kl"][0]
    assert logs["exit_1_loss"][-1] > 0.5


def test_evaluation_has_no_teacher_and_full_label_weight(images, labels):
    model = model_of(methods.knowledge_distillation(0.9), teacher=teacher_of())
    logs = model.evaluate(images, labels, return_dict=True, verbose=0)
    own = logits(model.network, images, training=False)["exit_1"]
    assert "teacher_kl" not in logs
    np.testing.assert_allclose(logs["loss"], reference_cross_entropy(labels, own).mean(), rtol=1e-4)
    assert set(model.predict(images, verbose=0)) == {"exit_1"}


def test_the_teacher_sees_the_distorted_views(images, labels):
    method = methods.knowledge_distillation(1.0, 1.0) + methods.data_distortion(0.0, 0.0)
    model = model_of(method, teacher=teacher_of())
    own = logits(copy_of(model.network), np.concatenate([images, images[::-1]]), training=True)[
        "exit_1"
    ]
    taught = logits(model.teacher, np.concatenate([images, images[::-1]]), False)["exit_1"]
    logs = model.fit((images, images[::-1].copy()), labels, **ONE).history
    # Shown as the mean per view.
    np.testing.assert_allclose(
        logs["teacher_kl"][0], reference_kl(taught, own, 1.0).mean(), rtol=1e-4
    )


def test_regressor_and_attention_are_their_equations(images, labels):
    teacher = teacher_of()
    model = model_of(methods.fitnet(1.0) + methods.attention_transfer(1.0), teacher=teacher)
    (regressor,) = model.adapters
    assert regressor.name == "teacher_hint_regressor"
    assert {id(w) for w in regressor.weights} <= {id(w) for w in model.trainable_variables}
    maps = {}
    for name, network, training in (("own", copy_of(model.network), True), ("t", teacher, False)):
        trunk = keras.Model(network.input, list(feature_maps(network).values()))
        maps[name] = [np.asarray(m) for m in trunk(images.astype("float32"), training=training)]
    assert [m.shape[1:] for m in maps["own"]] == [(8, 8, 4), (4, 4, 8)]
    regressed = np.asarray(regressor(maps["own"][0]))
    hint = ((regressed - maps["t"][0]) ** 2).mean() / 2
    attention = []
    for own, taught in zip(maps["own"], maps["t"]):
        a, b = ((m.astype("float64") ** 2).sum(-1).reshape(32, -1) for m in (own, taught))
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        attention.append(((a - b) ** 2).mean(1) / 2)
    logs = model.fit(images, labels, **ONE).history
    np.testing.assert_allclose(logs["teacher_hint"][0], hint, rtol=1e-4)
    np.testing.assert_allclose(logs["attention"][0], sum(attention).mean(), rtol=1e-3)


def test_the_regressor_learns(images, labels):
    model = tiny_model(methods.fitnet(10.0), at=[], teacher=teacher_of())
    before = [weight.numpy() for weight in model.adapters[0].weights]
    logs = model.fit(images, labels, epochs=15, batch_size=32, verbose=0).history
    assert logs["teacher_hint"][-1] < 0.7 * logs["teacher_hint"][0]
    assert all((w.numpy() != old).any() for w, old in zip(model.adapters[0].weights, before))


def test_two_peers_are_trained_as_if_each_by_itself(images, labels):
    """A step on both is for each a step with the other's answers as a constant teacher."""
    network, peer = tiny_network(at=[]), teacher_of()
    alone = {
        "network": (copy_of(network), copy_of(peer)),
        "peer": (copy_of(peer), copy_of(network)),
    }
    model = sd_keras.SelfDistillModel(network, methods.deep_mutual_learning(), peer=peer)
    model.compile(optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4), run_eagerly=True)
    logs = model.fit(images, labels, **ONE).history
    assert {"peer_loss", "peer_kl", "exit_1_loss"} <= set(logs)
    x = images.astype("float32")
    for name, (own, other) in alone.items():
        target = log_softmax(np.asarray(other(x, training=True)["exit_1"])).astype("float32")
        optimizer = optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4)

        def loss(own=own, target=target):
            predicted = ops.log_softmax(own(x, training=True)["exit_1"])
            true = -ops.mean(ops.take_along_axis(predicted, labels[:, None], 1))
            return true + ops.mean(ops.sum(ops.exp(target) * (target - predicted), 1))

        values = sd_keras.gradients.of_variables(loss, own.trainable_variables)
        optimizer.build(own.trainable_variables)
        optimizer.apply(values)
        trained = {"network": network, "peer": peer}[name]
        for a, b in zip(trained.trainable_variables, own.trainable_variables):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)


def test_progressive_learns_from_the_epoch_before(images, labels):
    steps = 4
    model = tiny_model(methods.progressive(steps=steps), at=[], eager=True)
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kept.append((model.network.get_weights(), model.past.get_weights()))

    model.fit(images, labels, epochs=2, batch_size=16, verbose=0, callbacks=[Keep()])
    for own, past in kept:  # at the beginning of an epoch both are what the last one ended with
        for a, b in zip(own, past):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(kept[0][1], kept[1][1]))
    assert not any(id(w) in {id(v) for v in model.trainable_variables} for w in model.past.weights)


def test_progressive_is_its_equation(images, labels):
    model = model_of(methods.progressive(steps=10, share=0.8))
    model.step.assign(5)  # α = 0.4
    for weight in model.past.weights:
        weight.assign(weight * 1.5)
    past = logits(model.past, images, training=False)["exit_1"]
    own = logits(copy_of(model.network), images, training=True)["exit_1"]
    logs = model.fit(images, labels, **ONE).history
    targets = 0.6 * np.eye(4)[labels] + 0.4 * softmax(past)
    np.testing.assert_allclose(
        logs["loss"][0], -(targets * log_softmax(own)).sum(1).mean(), rtol=1e-4
    )


def test_pairs_are_of_one_class_and_labels_teach_the_first(images, labels):
    pairs = data.SameClassPairs(images, labels, 32, seed=3)
    (first, partners), y = pairs[0]
    model = model_of(methods.class_wise(1.0, 4.0))
    both = logits(copy_of(model.network), np.concatenate([first, partners]), True)["exit_1"]
    logs = model.fit(pairs, epochs=1, shuffle=False, verbose=0).history
    own, partner = both[:32], both[32:]
    expected = reference_cross_entropy(y, own) + 16 * reference_kl(partner, own, 4.0)
    np.testing.assert_allclose(logs["loss"][0], expected.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"method": methods.fitnet(1.0, alpha=0.5), "teacher": teacher_of()},
        lambda: {"method": methods.deep_mutual_learning(), "peer": teacher_of()},
        lambda: {"method": methods.progressive(steps=8)},
        lambda: {"method": methods.balanced(methods.label_smoothing())},
        lambda: {"adversary": adversary.FastGradientSign(3.0)},
    ],
    ids=["teacher", "peer", "past", "balanced", "adversary"],
)
def test_a_loaded_model_goes_on_as_the_saved_one(make, images, labels, tmp_path):
    model = tiny_model(at=[], **make(), eager=True)
    model.fit(images, labels, **ONE)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["name"] == model.name
    got = [each.fit(images, labels, **ONE | {"epochs": 2}).history for each in (model, loaded)]
    assert got[0] == got[1]
    for a, b in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_fast_gradient_sign_against_a_closed_form(labels):
    """Of a network that is linear in the pixels the gradient's sign is known."""
    image = keras.Input((2, 2, 1))
    vector = layers.Flatten(name="flat")(image)
    dense = layers.Dense(4, name="dense")
    network = keras.Model(image, {"exit_1": dense(vector), "features_1": vector})
    x = np.full((32, 2, 2, 1), 100.0, "float32")
    x[0] = 254.0
    residual = softmax(np.asarray(network(x)["exit_1"])) - np.eye(4)[labels]
    sign = np.sign(residual @ dense.kernel.numpy().T).reshape(x.shape)
    got = adversary.FastGradientSign(3.0).attack(network, x.astype("uint8"), labels)
    np.testing.assert_allclose(np.asarray(got), np.clip(x + 3 * sign, 0, 255))


def test_the_last_view_is_attacked(images, labels):
    model = model_of(methods.data_distortion(), adversary=adversary.FastGradientSign(8.0))
    x, _ = model.begin_step((images, images), labels, None)
    first, last = (np.asarray(view) for view in x)
    np.testing.assert_array_equal(first, images)
    assert np.abs(last - first).max() == 8 and np.abs(last - first).mean() > 1
    assert last.min() >= 0 and last.max() <= 255
    values = [
        reference_cross_entropy(labels, logits(model.network, view, False)["exit_1"]).mean()
        for view in (first, last)
    ]
    assert values[1] > values[0]


def test_balanced_gradients_are_equally_long(images, labels):
    """Against gradients of the whole losses with respect to the features, taken one by one."""
    method = methods.be_your_own_teacher(0.5) + methods.data_distortion()
    model = model_of(methods.balanced(method, share=0.5))
    network, numbers = model.network, (1, 2)
    views = tuple(
        {name: ops.convert_to_tensor(value.astype("float32")) for name, value in each.items()}
        for each in (logits(network, images, False), logits(network, 255 - images, False))
    )
    objectives = [objective.at(0) for objective in method.objectives]

    def labels_value(views):
        weights = dict(zip(numbers, method.label_weights(2, 0)))
        return sum(
            weights[number] * sd_keras.losses.label_cross_entropy(labels, view[f"exit_{number}"])
            for view in views
            for number in numbers
        )

    arguments = (model.classifiers, labels_value, objectives, labels, views)
    weights = [float(weight) for weight in balance.weights(*arguments, 0.5)]
    names = [(i, number) for i in (0, 1) for number in numbers]
    vectors = [views[i][f"features_{number}"] for i, number in names]

    def length(value):
        def total(*vectors):
            seen = [dict(view) for view in views]
            for (i, number), vector in zip(names, vectors):
                layer = network.get_layer(f"classifier_{number}")
                logits = ops.matmul(vector, layer.kernel.value) + layer.bias.value
                seen[i] |= {f"features_{number}": vector, f"exit_{number}": logits}
            return ops.mean(value(tuple(seen)))

        found = sd_keras.gradients.of_inputs(total, vectors)
        return np.sqrt(sum((np.asarray(each, "float64") ** 2).sum() for each in found))

    of_labels = length(labels_value)
    for objective, weight in zip(objectives, weights):
        own = length(lambda views, objective=objective: objective.call(labels, views))
        expected = min(0.5 * of_labels / own, balance.LIMIT)
        np.testing.assert_allclose(weight, expected, rtol=1e-3)
    logs = model.fit((images, 255 - images), labels, **ONE).history
    assert np.isfinite(logs["loss"][0])


def test_a_weight_of_0_stays_0_when_balanced(images, labels):
    method = methods.balanced(methods.be_your_own_teacher(0.5, hint_weight=0.0))
    without = methods.balanced(methods.Method("x", method.objectives[:1], 1, 0.5))
    losses = []
    for each in (method, without):
        keras.utils.set_random_seed(1)
        losses += model_of(each).fit(images, labels, **ONE).history["loss"]
    np.testing.assert_allclose(*losses, rtol=1e-5)


ERRORS = {
    "teacher missing": (methods.knowledge_distillation, dict, "`teacher` must be given"),
    "teacher unused": (methods.baseline, lambda: {"teacher": teacher_of()}, "`teacher` must be"),
    "peer missing": (methods.deep_mutual_learning, dict, "`peer` must be given"),
    "peer with exits": (
        methods.deep_mutual_learning,
        lambda: {"peer": tiny_network()},
        "`peer` must have one exit",
    ),
    "other classes": (
        methods.knowledge_distillation,
        lambda: {"teacher": tiny_network(num_classes=5, at=[])},
        r"`teacher` must take images \(8, 8, 1\) and give 4 logits.*to 5",
    ),
    "other images": (
        methods.knowledge_distillation,
        lambda: {"teacher": tiny_network(at=[], input_shape=(16, 16, 1))},
        "`teacher` must take images",
    ),
    "softmax": (
        methods.knowledge_distillation,
        lambda: {"teacher": foreign_teacher("softmax")},
        "`teacher` must give logits, without softmax",
    ),
    "not a network": (
        methods.knowledge_distillation,
        lambda: {"teacher": keras.layers.Dense(4)},
        "`teacher` must be a network of attach_exits",
    ),
    "no common size": (
        methods.attention_transfer,
        lambda: {"teacher": smallest_network()},
        "`teacher` must have feature maps of a size that `network` has",
    ),
    "balanced maps": (
        lambda: methods.balanced(methods.attention_transfer()),
        lambda: {"teacher": teacher_of()},
        "`method` can be balanced only",
    ),
    "adversary": (methods.baseline, lambda: {"adversary": 3}, "`adversary` must be a sd_keras"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_is_named(case):
    method, make, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        sd_keras.SelfDistillModel(tiny_network(at=[]), method(), **make())


def test_a_network_cannot_teach_itself():
    network = tiny_network(at=[])
    with pytest.raises(ValueError, match="`teacher` must be another network"):
        sd_keras.SelfDistillModel(network, methods.knowledge_distillation(), teacher=network)


@pytest.mark.parametrize("epsilon", [0, -1, 300, float("nan")])
def test_epsilon_out_of_range_is_named(epsilon):
    with pytest.raises(ValueError, match=f"`epsilon`.*Received: epsilon={epsilon}"):
        adversary.FastGradientSign(epsilon)


@pytest.mark.parametrize(
    "option",
    [
        {"run_eagerly": True},
        pytest.param({"steps_per_execution": 2}, marks=pytest.mark.large),
        pytest.param({"jit_compile": True}, marks=pytest.mark.large),
    ],
    ids=str,
)
def test_compile_options_give_the_same_losses(images, labels, option):
    method = methods.balanced(methods.knowledge_distillation(0.5) + methods.label_smoothing(0.5))
    losses = []
    for options in ({}, option):
        keras.utils.set_random_seed(1)
        extra = {"teacher": teacher_of(), "adversary": adversary.FastGradientSign(2.0)}
        options = {"optimizer": optimizers.SGD(0.05), "jit_compile": False} | options
        model = tiny_model(method, at=[], compile_with=options, **extra)
        losses.append(model.fit(images, labels, batch_size=8, shuffle=False, verbose=0).history)
    for other in losses[1:]:
        for name in ("loss", "teacher_kl"):
            np.testing.assert_allclose(losses[0][name], other[name], rtol=2e-3, err_msg=name)


def test_pairs_are_not_taken_for_views(images, labels):
    with pytest.raises(ValueError, match=r"`x` must hold pairs of images of a class.*SameClass"):
        model_of(methods.class_wise(), distortion=CropFlip(1)).fit(images, labels, **ONE)
    for other in (methods.data_distortion(), methods.two_branch()):
        with pytest.raises(ValueError, match="must agree on what their two views are"):
            methods.class_wise() + other
    both = methods.class_wise() + methods.be_your_own_teacher()
    assert both.pairs and both.labelled_views == 1
