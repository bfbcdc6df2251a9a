"""Objectives on made-up views, and the papers' sums as SelfDistillModel adds them up."""

import keras
import numpy as np
import pytest
from keras import ops
from test_discrepancy import reference_coral, reference_multi_kernel, reference_top_k
from test_losses import (
    close,
    gradients,
    normal,
    numpy,
    reference_cross_entropy,
    reference_hint,
    reference_kl,
    reference_mmd,
    softmax,
)

from sd_keras import SelfDistillModel, attach_exits, methods, models, objectives
from sd_keras.schedules import WarmUp

N, CLASSES, WIDTH, EXITS = 6, 4, 5, 3
LABELS = np.array([0, 3, 1, 1, 2, 0])


def made_up_view(seed, exits=EXITS, width=WIDTH):
    sizes = {"exit": CLASSES, "features": width}
    return {
        f"{kind}_{index}": normal(N, size, seed=100 * seed + 10 * index + size)
        for index in range(1, exits + 1)
        for kind, size in sizes.items()
    }


A, B = made_up_view(1), made_up_view(2)


def exit_kl(view, temperature, exits=EXITS):
    shallow = range(1, exits)
    return sum(reference_kl(view[f"exit_{exits}"], view[f"exit_{i}"], temperature) for i in shallow)


def exit_hint(view, exits=EXITS):
    shallow = range(1, exits)
    return sum(reference_hint(view[f"features_{exits}"], view[f"features_{i}"]) for i in shallow)


def view_kl(temperature, exits):
    names = [f"exit_{i}" for i in exits]
    return sum(
        reference_kl(A[n], B[n], temperature) + reference_kl(B[n], A[n], temperature) for n in names
    )


def view_mmd(exits):
    return np.full(N, sum(reference_mmd(A[f"features_{i}"], B[f"features_{i}"]) for i in exits))


def view_statistic(reference, exits):
    """A statistic of the batch, for each of its examples."""
    return np.full(N, sum(reference(A[f"features_{i}"], B[f"features_{i}"]) for i in exits))


def multi_kernel(a, b):
    return reference_multi_kernel(a, b, (0.5, 2.0))[0]


ALL = range(1, EXITS + 1)
CASES = {
    "exit_kl": (objectives.ExitKL(0.5, 3.0, "T2"), (A,), 9 * exit_kl(A, 3.0)),
    "exit_kl on two views": (
        objectives.ExitKL(0.5, 2.0, "T"),
        (A, B),
        2 * (exit_kl(A, 2.0) + exit_kl(B, 2.0)),
    ),
    "exit_hint": (objectives.ExitHint(), (A,), exit_hint(A)),
    "exit_hint on two views": (objectives.ExitHint(), (A, B), exit_hint(A) + exit_hint(B)),
    "view_kl": (objectives.ViewKL(temperature=3.0), (A, B), view_kl(3.0, [EXITS])),
    "view_kl T2": (
        objectives.ViewKL(temperature=2.0, scaling="T2"),
        (A, B),
        4 * view_kl(2.0, [EXITS]),
    ),
    "view_kl all": (objectives.ViewKL(temperature=2.0, exits="all"), (A, B), view_kl(2.0, ALL)),
    "view_mmd": (objectives.ViewMMD(), (A, B), view_mmd([EXITS])),
    "view_mmd all": (objectives.ViewMMD(exits="all"), (A, B), view_mmd(ALL)),
    "view_multi_kernel_mmd": (
        objectives.ViewMultiKernelMMD(factors=(0.5, 2.0)),
        (A, B),
        view_statistic(multi_kernel, [EXITS]),
    ),
    "view_coral": (objectives.ViewCORAL(), (A, B), view_statistic(reference_coral, [EXITS])),
    "view_coral all": (
        objectives.ViewCORAL(exits="all"),
        (A, B),
        view_statistic(reference_coral, ALL),
    ),
    "view_top_k_mmd": (
        objectives.ViewTopKMMD(k=3),
        (A, B),
        view_statistic(reference_top_k, [EXITS]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_value_per_example(case):
    objective, views, expected = CASES[case]
    got = objective.call(LABELS, views)
    assert tuple(got.shape) == (N,)
    close(got, expected)
    # As a keras loss: the mean over the batch.
    close(objective(LABELS, views), expected.mean())


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_value_is_unweighted(case, weight):
    objective, views, expected = CASES[case]
    copy = type(objective).from_config(objective.get_config() | {"weight": weight})
    close(copy.call(LABELS, views), expected)


def test_more_than_nine_exits_have_the_numerically_last_as_teacher():
    view = made_up_view(3, exits=11)
    got = objectives.ExitKL(temperature=1.0).call(LABELS, (view,))
    close(got, exit_kl(view, 1.0, exits=11))


def test_one_exit_view_objectives_compare_that_exit():
    a, b = ({k: v for k, v in view.items() if k.endswith("_1")} for view in (A, B))
    got = objectives.ViewKL(temperature=1.0).call(LABELS, (a, b))
    close(
        got, reference_kl(A["exit_1"], B["exit_1"], 1) + reference_kl(B["exit_1"], A["exit_1"], 1)
    )


def test_numbers_of_views_and_exits():
    kinds = {type(objective) for objective, *_ in CASES.values()}
    assert {kind: (kind.num_views, kind.min_exits) for kind in kinds} == {
        objectives.ExitKL: (1, 2),
        objectives.ExitHint: (1, 2),
        objectives.ViewKL: (2, 1),
        objectives.ViewMMD: (2, 1),
        objectives.ViewMultiKernelMMD: (2, 1),
        objectives.ViewCORAL: (2, 1),
        objectives.ViewTopKMMD: (2, 1),
    }


def test_papers_defaults():
    kl, hint = objectives.ExitKL(), objectives.ExitHint()
    view, mmd = objectives.ViewKL(), objectives.ViewMMD()
    assert (kl.weight, kl.temperature, kl.scaling) == (0.5, 3.0, "T2")
    assert hint.weight == 6.4e-5
    assert (view.weight, view.temperature, view.scaling, view.exits) == (1, 3, "none", "deepest")
    assert (mmd.weight, mmd.exits) == (5e-4, "deepest")
    assert [o.name for o in (kl, hint, view, mmd)] == [
        "exit_kl",
        "exit_hint",
        "view_kl",
        "view_mmd",
    ]


def test_trap_3_deepest_exit_is_detached():
    objective_of = {"exit": objectives.ExitKL(), "features": objectives.ExitHint()}
    for kind, objective in objective_of.items():
        names = [f"{kind}_{i}" for i in ALL]

        def loss(*values, names=names, objective=objective):
            return objective.call(LABELS, (A | dict(zip(names, values)),))

        *shallow, deepest = gradients(loss, *(A[name] for name in names))
        np.testing.assert_array_equal(deepest, 0)
        assert all(np.abs(gradient).min() > 0 for gradient in shallow)


def test_trap_3_each_view_is_a_constant_target_of_the_other():
    objective = objectives.ViewKL(temperature=2.0)

    def loss(a, b):
        return objective.call(LABELS, (A | {"exit_3": a}, B | {"exit_3": b}))

    pull = (softmax(A["exit_3"], 2.0) - softmax(B["exit_3"], 2.0)) / 2.0
    for gradient, sign in zip(gradients(loss, A["exit_3"], B["exit_3"]), (1, -1)):
        close(gradient, sign * pull)


def test_trap_5_default_hint_weight_is_the_batch_sum_of_the_authors_code():
    """5e-7 times the sum over a batch of 128 is 6.4e-5 times the mean."""
    values = numpy(objectives.ExitHint().call(LABELS, (A,)))
    batch = np.resize(values, 128).astype("float64")
    np.testing.assert_allclose(objectives.ExitHint().weight * batch.mean(), 5e-7 * batch.sum())


def test_trap_6_shuffling_one_view_leaves_mmd_alone():
    shuffled = {name: value[::-1].copy() for name, value in B.items()}
    objective = objectives.ViewMMD(exits="all")
    close(objective.call(LABELS, (A, shuffled)), numpy(objective.call(LABELS, (A, B))))


SCHEDULED = {
    "exit_kl": lambda: objectives.ExitKL(WarmUp(1.0, 4), WarmUp(4.0, 2), "T", name="soft"),
    "exit_hint": lambda: objectives.ExitHint(WarmUp(1.0, 4)),
    "view_kl": lambda: objectives.ViewKL(WarmUp(1.0, 4), 2.0, "T2", "all", name="twins"),
    "view_mmd": lambda: objectives.ViewMMD(WarmUp(1.0, 4), "all"),
    "view_multi_kernel_mmd": lambda: objectives.ViewMultiKernelMMD(WarmUp(1.0, 4), "all", [2.0]),
    "view_coral": lambda: objectives.ViewCORAL(WarmUp(1.0, 4), name="second_moments"),
    "view_top_k_mmd": lambda: objectives.ViewTopKMMD(WarmUp(1.0, 4), k=4),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_at_replaces_schedules_in_a_copy(name):
    objective = SCHEDULED[name]()
    attributes = dict(vars(objective))
    fixed = [objective.at(step) for step in (1, 3)]
    np.testing.assert_allclose([float(f.weight) for f in fixed], [0.25, 0.75])
    assert dict(vars(objective)) == attributes
    assert isinstance(objective.weight, WarmUp) and fixed[0].name == objective.name
    if name == "exit_kl":
        np.testing.assert_allclose([float(f.temperature) for f in fixed], [2, 4])
        close(fixed[0].call(LABELS, (A,)), 2 * exit_kl(A, 2.0))


def test_at_keeps_numbers():
    objective = objectives.ViewKL(0.3, 2.0)
    fixed = objective.at(5)
    assert (fixed.weight, fixed.temperature) == (0.3, 2.0) and fixed is not objective


@pytest.mark.parametrize("name", CASES)
def test_serialization_round_trip(name):
    objective, views, expected = CASES[name]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert type(copy) is type(objective) and copy.get_config() == objective.get_config()
    close(copy.call(LABELS, views), expected)


@pytest.mark.parametrize("name", SCHEDULED)
def test_serialization_round_trip_of_schedules(name):
    objective = SCHEDULED[name]()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert copy.get_config() == objective.get_config()
    assert float(copy.at(3).weight) == float(objective.at(3).weight) == 0.75
    assert copy.name == objective.name


DISCREPANCIES = (
    objectives.ViewMMD,
    objectives.ViewMultiKernelMMD,
    objectives.ViewCORAL,
    objectives.ViewTopKMMD,
)
KINDS = (objectives.ExitKL, objectives.ExitHint, objectives.ViewKL, *DISCREPANCIES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_bad_weights_are_named(kind, weight):
    with pytest.raises(ValueError, match=rf"`weight`.*Received: weight={weight}"):
        kind(weight=weight)


@pytest.mark.parametrize("kind", [objectives.ExitKL, objectives.ViewKL])
@pytest.mark.parametrize(
    "argument,value", [("temperature", 0), ("temperature", -1.0), ("scaling", "T3")]
)
def test_bad_softening_is_named(kind, argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}={value!r}"):
        kind(**{argument: value})


@pytest.mark.parametrize("kind", [objectives.ViewKL, *DISCREPANCIES])
def test_bad_exits_are_named(kind):
    with pytest.raises(ValueError, match="`exits`.*'deepest' or 'all'.*exits='first'"):
        kind(exits="first")


@pytest.mark.parametrize("k", [0, 1.5, True])
def test_bad_k_is_named(k):
    with pytest.raises(ValueError, match=f"`k`.*at least 1.*Received: k={k}"):
        objectives.ViewTopKMMD(k=k)


def test_bad_factors_are_named():
    with pytest.raises(ValueError, match=r"`factors`.*Received: factors=\[-1\]"):
        objectives.ViewMultiKernelMMD(factors=[-1])


# The papers' sums, in the model that adds them up.


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return attach_exits(models.build("resnet8", (8, 8, 1)), CLASSES)


def total_loss(network, method):
    """The model's total as a function of one dict of outputs per view."""
    model = SelfDistillModel(network, method)
    model.compile(optimizer="sgd")

    def loss(*outputs):
        return model.compute_loss(y=LABELS, y_pred=outputs[0] if len(outputs) == 1 else outputs)

    return loss


def label_losses(view):
    return [reference_cross_entropy(LABELS, view[f"exit_{i}"]).mean() for i in ALL]


def test_byot_sum_is_equation_5(network):
    alpha, weight, temperature = 0.3, 0.01, 2.0
    method = methods.be_your_own_teacher(alpha, weight, temperature, "T2")
    *shallow, deepest = label_losses(A)
    expected = (
        (1 - alpha) * sum(shallow)
        + deepest
        + alpha * temperature**2 * exit_kl(A, temperature).mean()
        + weight * exit_hint(A).mean()
    )
    close(total_loss(network, method)(A), expected)


def test_ddgsd_sum_is_equation_5(network):
    method = methods.data_distortion(kl_weight=0.7, mmd_weight=0.02, temperature=2.0)
    expected = (
        label_losses(A)[-1]
        + label_losses(B)[-1]
        + 0.7 * view_kl(2.0, [EXITS]).mean()
        + 0.02 * view_mmd([EXITS])[0]
    )
    close(total_loss(network, method)(A, B), expected)


def test_both_methods_add_up(network):
    both = methods.get(
        "be_your_own_teacher+data_distortion",
        be_your_own_teacher={"alpha": 0.4, "hint_weight": 0.01, "temperature": 3.0},
        data_distortion={"temperature": 2.0, "mmd_weight": 0.02, "exits": "all"},
    )
    expected = 0.02 * view_mmd(ALL)[0] + view_kl(2.0, ALL).mean()
    for view in (A, B):
        *shallow, deepest = label_losses(view)
        expected += 0.6 * sum(shallow) + deepest
        expected += 0.4 * 9 * exit_kl(view, 3.0).mean() + 0.01 * exit_hint(view).mean()
    close(total_loss(network, both)(A, B), expected)


@pytest.mark.parametrize(
    "method",
    [
        methods.baseline(),
        methods.deep_supervision(),
        methods.be_your_own_teacher(alpha=0.3),
        methods.be_your_own_teacher(alpha=1.0),
    ],
    ids=lambda method: method.name,
)
def test_trap_4_deepest_cross_entropy_has_weight_1(network, method):
    """Nothing but the label cross entropy moves the deepest exit, and that with weight 1."""
    loss = total_loss(network, method)
    (gradient,) = gradients(lambda z: loss(A | {"exit_3": z}), A["exit_3"])
    close(gradient, (softmax(A["exit_3"]) - np.eye(CLASSES)[LABELS]) / N)


def test_trap_8_batch_norm_sees_one_concatenated_batch(network):
    model = SelfDistillModel(network, methods.two_branch())
    a, b = (np.random.default_rng(s).integers(0, 256, (N, 8, 8, 1)) for s in (0, 1))
    a, b = (a * 0.2).astype("float32"), b.astype("float32")  # the views differ in brightness
    norm = network.get_layer("stem_norm")
    before = keras.Model(network.input, network.get_layer("stem_conv").output)
    seen = numpy(before(np.concatenate([a, b]))).astype("float64")
    mean, variance = seen.mean((0, 1, 2)), seen.var((0, 1, 2))
    initial = numpy(norm.moving_mean), numpy(norm.moving_variance)
    outputs = model((a, b), training=True)
    # Once: 0.9 of the old remains; after two passes it would be 0.81.
    close(norm.moving_mean, 0.9 * initial[0] + 0.1 * mean, rtol=1e-4)
    close(norm.moving_variance, 0.9 * initial[1] + 0.1 * variance, rtol=1e-4)
    # What each view gets is its half of the one pass.
    together = network(np.concatenate([a, b]), training=True)
    for view, half in zip(outputs, (slice(None, N), slice(N, None))):
        close(view["exit_3"], numpy(together["exit_3"])[half])


def test_mixed_precision_outputs_give_a_float32_loss(network):
    loss = total_loss(network, methods.be_your_own_teacher())
    half = {name: ops.cast(value, "bfloat16") for name, value in A.items()}
    got = loss(half)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    close(got, numpy(loss({name: ops.cast(value, "float32") for name, value in half.items()})))
