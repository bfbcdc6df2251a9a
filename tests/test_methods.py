"""Methods: what they train on, their sums, their names, their files."""

import keras
import numpy as np
import pytest

from sd_keras import methods
from sd_keras.objectives import (
    AttentionTransfer,
    ExitHint,
    ExitKL,
    PartnerKL,
    PastCrossEntropy,
    PeerKL,
    TeacherHint,
    TeacherKL,
    UniformCrossEntropy,
    ViewCORAL,
    ViewKL,
    ViewMMD,
    ViewMultiKernelMMD,
    ViewTopKMMD,
    VirtualTeacherKL,
)
from sd_keras.schedules import WarmUp, multi_step

# name: label weights of four exits, kinds of objectives, views, least number of exits
EXPECTED = {
    "baseline": ([0, 0, 0, 1], [], 1, 1),
    "two_branch": ([0, 0, 0, 1], [], 2, 1),
    "deep_supervision": ([1, 1, 1, 1], [], 1, 2),
    "be_your_own_teacher": ([0.5, 0.5, 0.5, 1], [ExitKL, ExitHint], 1, 2),
    "data_distortion": ([0, 0, 0, 1], [ViewKL, ViewMMD], 2, 1),
    "knowledge_distillation": ([0, 0, 0, 0.1], [TeacherKL], 1, 1),
    "fitnet": ([0, 0, 0, 1], [TeacherHint], 1, 1),
    "attention_transfer": ([0, 0, 0, 1], [AttentionTransfer], 1, 1),
    "deep_mutual_learning": ([0, 0, 0, 1], [PeerKL], 1, 1),
    "label_smoothing": ([0, 0, 0, 0.9], [UniformCrossEntropy], 1, 1),
    "teacher_free": ([0, 0, 0, 0.9], [VirtualTeacherKL], 1, 1),
    "class_wise": ([0, 0, 0, 1], [PartnerKL], 2, 1),
    "progressive": ([0, 0, 0, 1], [PastCrossEntropy], 1, 1),
}
# Arguments without which there is no such method.
NEEDED = {"progressive": {"steps": 10}}
SCHEDULE = multi_step(0.8, [5], 0.5)


def kinds(method):
    return [type(objective) for objective in method.objectives]


def round_trip(thing):
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))


def test_every_method_is_expected():
    assert set(methods.METHODS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_method_trains_on(name):
    weights, objectives, views, exits = EXPECTED[name]
    method = methods.METHODS[name](**NEEDED.get(name, {}))
    assert method.name == name
    got = [float(weight) for weight in method.label_weights(4, step=0)]
    np.testing.assert_allclose(got, weights, rtol=1e-6)
    np.testing.assert_allclose(float(method.label_weights(1, step=0)[0]), weights[-1], rtol=1e-6)
    assert kinds(method) == objectives
    assert (method.num_views, method.min_exits) == (views, exits)


def test_trap_4_deepest_label_weight_is_1_for_every_alpha():
    for alpha in (0, 0.3, 1, SCHEDULE):
        assert methods.be_your_own_teacher(alpha=alpha).label_weights(3, step=0)[-1] == 1.0


def test_defaults_of_be_your_own_teacher():
    kl, hint = methods.be_your_own_teacher().objectives
    assert (kl.weight, kl.temperature, kl.scaling, hint.weight) == (0.5, 3.0, "T2", 6.4e-5)


def test_arguments_of_be_your_own_teacher():
    method = methods.be_your_own_teacher(0.3, hint_weight=0.01, temperature=1.0, scaling="none")
    kl, hint = method.objectives
    assert (kl.weight, kl.temperature, kl.scaling, hint.weight) == (0.3, 1.0, "none", 0.01)
    np.testing.assert_allclose(method.label_weights(3, 0), [0.7, 0.7, 1])


def test_defaults_of_data_distortion():
    kl, mmd = methods.data_distortion().objectives
    assert (kl.weight, kl.temperature, kl.scaling, kl.exits) == (1.0, 3.0, "none", "deepest")
    assert (mmd.weight, mmd.exits) == (5e-4, "deepest")


def test_arguments_of_data_distortion():
    method = methods.data_distortion(0.2, 1e-4, temperature=2.0, scaling="T", exits="all")
    kl, mmd = method.objectives
    assert (kl.weight, kl.temperature, kl.scaling, kl.exits) == (0.2, 2.0, "T", "all")
    assert (mmd.weight, mmd.exits) == (1e-4, "all")
    assert kinds(methods.data_distortion(kl_only=True)) == [ViewKL]
    assert kinds(methods.data_distortion(mmd_only=True)) == [ViewMMD]
    with pytest.raises(ValueError, match=r"`kl_only` and `mmd_only`.*two_branch"):
        methods.data_distortion(kl_only=True, mmd_only=True)


@pytest.mark.parametrize(
    "name,kind,weight",
    [
        ("mmd", ViewMMD, 5e-4),
        ("multi_kernel", ViewMultiKernelMMD, 0.01),
        ("coral", ViewCORAL, 0.5),
        ("top_k", ViewTopKMMD, 5e-4),
    ],
)
def test_discrepancies_of_data_distortion(name, kind, weight):
    method = methods.data_distortion(discrepancy=name, exits="all")
    assert kinds(method) == [ViewKL, kind]
    assert (method.objectives[1].weight, method.objectives[1].exits) == (weight, "all")
    given = methods.data_distortion(mmd_weight=SCHEDULE, discrepancy=name, mmd_only=True)
    assert kinds(given) == [kind] and given.objectives[0].weight is SCHEDULE
    assert kinds(methods.data_distortion(kl_only=True, discrepancy=name)) == [ViewKL]


def test_unknown_discrepancy_is_named_with_the_choices():
    message = r"`discrepancy`.*'coral', 'mmd', 'multi_kernel', 'top_k'.*discrepancy='wasserstein'"
    for other in (False, True):
        with pytest.raises(ValueError, match=message):
            methods.data_distortion(discrepancy="wasserstein", kl_only=other)


def test_label_weight_of_deep_supervision():
    np.testing.assert_allclose(methods.deep_supervision(0.3).label_weights(3, 0), [0.3, 0.3, 1])


@pytest.mark.parametrize("step,alpha", [(0, 0.8), (4, 0.8), (5, 0.4)])
def test_alpha_may_be_a_schedule(step, alpha):
    method = methods.be_your_own_teacher(alpha=SCHEDULE)
    for copy in (method, round_trip(method)):
        weights = [float(weight) for weight in copy.label_weights(3, step)]
        np.testing.assert_allclose(weights, [1 - alpha, 1 - alpha, 1], rtol=1e-6)
        np.testing.assert_allclose(float(copy.objectives[0].at(step).weight), alpha, rtol=1e-6)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_named(alpha):
    with pytest.raises(ValueError, match=rf"`alpha`.*Received: alpha={alpha}"):
        methods.be_your_own_teacher(alpha=alpha)


def test_negative_label_weight_is_named():
    with pytest.raises(ValueError, match=r"label_weight`.*label_weight=-0\.5"):
        methods.deep_supervision(label_weight=-0.5)


def test_sum_holds_the_objectives_of_both_and_the_labels_once():
    method = methods.be_your_own_teacher(alpha=0.3) + methods.data_distortion()
    assert method.name == "be_your_own_teacher+data_distortion"
    assert kinds(method) == [ExitKL, ExitHint, ViewKL, ViewMMD]
    assert (method.num_views, method.min_exits) == (2, 2)
    # A weight per exit, the same as of the one that trains shallow exits: counted once.
    np.testing.assert_allclose(method.label_weights(4, 0), [0.7, 0.7, 0.7, 1])
    other_way = methods.data_distortion() + methods.be_your_own_teacher(alpha=0.3)
    assert other_way.label_weights(4, 0) == method.label_weights(4, 0)


def test_sum_of_methods_without_objectives():
    method = methods.two_branch() + methods.deep_supervision()
    assert (method.num_views, method.min_exits, method.objectives) == (2, 2, ())
    assert method.label_weights(3, 0) == [1, 1, 1]


def test_conflicting_shallow_label_weights_are_refused():
    with pytest.raises(ValueError, match=r"`shallow_label_weight`.*teacher with 0\.5.*with 1\.0"):
        methods.be_your_own_teacher() + methods.deep_supervision()
    with pytest.raises(ValueError, match="`shallow_label_weight`"):
        methods.be_your_own_teacher(alpha=SCHEDULE) + methods.deep_supervision()


def test_agreeing_shallow_label_weights_are_added():
    same = methods.be_your_own_teacher(0.3) + methods.deep_supervision(0.7)
    np.testing.assert_allclose(same.label_weights(2, 0), [0.7, 1])
    ramps = methods.deep_supervision(SCHEDULE) + methods.deep_supervision(SCHEDULE)
    assert float(ramps.label_weights(2, 5)[0]) == pytest.approx(0.4)


def test_label_weights_of_methods_that_are_added():
    method = methods.knowledge_distillation(0.9) + methods.be_your_own_teacher(0.3)
    np.testing.assert_allclose(method.label_weights(3, 0), [0.7, 0.7, 0.1])
    assert method.companions == {"teacher"}
    with pytest.raises(ValueError, match=r"`label_weight`.*distillation with 0\.5.*with 0\.9"):
        methods.knowledge_distillation(0.5) + methods.label_smoothing(0.1)


def test_stages_of_fitnet():
    method = methods.fitnet(hint_weight=7.0, alpha=0.25, hint_steps=3)
    hint, kl = method.objectives
    for step, expected in (
        (0, (7, 0, 0)),
        (2, (7, 0, 0)),
        (3, (0, 0.25, 0.75)),
        (9, (0, 0.25, 0.75)),
    ):
        got = [hint.at(step).weight, kl.at(step).weight, method.label_weights(1, step)[0]]
        np.testing.assert_allclose([float(value) for value in got], expected)


def test_progressive_grows_evenly():
    method = methods.progressive(steps=10, share=0.8)
    for step, share in ((0, 0.0), (5, 0.4), (10, 0.8), (15, 0.8)):
        got = [method.objectives[0].at(step).weight, method.label_weights(1, step)[0]]
        np.testing.assert_allclose([float(value) for value in got], [share, 1 - share], rtol=1e-6)
    with pytest.raises(ValueError, match=r"`steps` of progressive.*Received: steps=None"):
        methods.progressive()


@pytest.mark.parametrize(
    "make,argument",
    [
        (lambda: methods.knowledge_distillation(alpha=1.5), "alpha"),
        (lambda: methods.fitnet(alpha=-1), "alpha"),
        (lambda: methods.label_smoothing(2), "epsilon"),
        (lambda: methods.progressive(5, share=float("nan")), "share"),
        (lambda: methods.teacher_free(correct_probability=1.0), "correct_probability"),
        (lambda: methods.attention_transfer(-1), "weight"),
        (lambda: methods.deep_mutual_learning(temperature=0), "temperature"),
        (lambda: methods.balanced(methods.baseline(), 0), "share"),
        (lambda: methods.deepest_last("byot", 3), "method"),
        (lambda: methods.deepest_last(methods.two_branch(), 3), "method"),
        (lambda: methods.alternating(methods.deep_supervision(), 3), "method"),
        (lambda: methods.balanced(methods.baseline()), "method"),
        (lambda: methods.alternating(methods.label_smoothing(), 0), "steps"),
        (lambda: methods.Method("x", label_weight=None), "label_weight"),
        (lambda: methods.Method("x", labelled_views=2), "labelled_views"),
    ],
)
def test_wrong_arguments_are_named(make, argument):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}="):
        make()


def test_deepest_exit_alone_at_the_end():
    method = methods.deepest_last(methods.be_your_own_teacher(0.4, hint_weight=0.1), 5)
    assert [float(weight) for weight in method.label_weights(2, 4)] == pytest.approx([0.6, 1])
    assert [float(weight) for weight in method.label_weights(2, 5)] == [0, 1]
    assert [float(o.at(4).weight) for o in method.objectives] == pytest.approx([0.4, 0.1])
    assert [float(o.at(5).weight) for o in method.objectives] == [0, 0]
    distilled = methods.deepest_last(methods.knowledge_distillation(0.9), 5)
    assert [float(distilled.label_weights(1, step)[0]) for step in (4, 5)] == pytest.approx(
        [0.1, 1]
    )


def test_in_turn_with_labels_alone():
    method = methods.alternating(methods.be_your_own_teacher(0.4), 2)
    kl = method.objectives[0]
    got = [(float(kl.at(s).weight), float(method.label_weights(2, s)[0])) for s in range(6)]
    np.testing.assert_allclose(got, [(0.4, 0.6)] * 2 + [(0, 1)] * 2 + [(0.4, 0.6)] * 2, rtol=1e-6)


def test_duplicate_objectives_are_refused():
    with pytest.raises(ValueError, match=r"`objectives` must have different names.*'view_kl'"):
        methods.data_distortion() + methods.data_distortion(temperature=2.0)
    one, two = ViewKL(), ViewKL(temperature=1.0, name="cold")
    assert methods.Method("two", (one, two), num_views=2).objectives == (one, two)


def test_only_methods_can_be_added():
    with pytest.raises(TypeError):
        methods.baseline() + ViewKL()


@pytest.mark.parametrize("things", [("exit_kl",), (keras.losses.MeanSquaredError(),), (None,)])
def test_objectives_must_be_objectives(things):
    with pytest.raises(ValueError, match="`objectives` must be a tuple of sd_keras objectives"):
        methods.Method("strange", things)


@pytest.mark.parametrize("views,objectives", [(0, ()), (3, ()), (1, (ViewKL(),))])
def test_bad_num_views_are_named(views, objectives):
    with pytest.raises(ValueError, match=rf"`num_views`.*Received: num_views={views}"):
        methods.Method("strange", objectives, num_views=views)


@pytest.mark.parametrize("name", EXPECTED)
def test_get_by_name(name):
    needed = NEEDED.get(name, {})
    got = methods.get(name, **({name: needed} if needed else {}))
    assert got.get_config() == methods.METHODS[name](**needed).get_config()


def test_get_sums_with_arguments():
    method = methods.get(
        "data_distortion+be_your_own_teacher",
        be_your_own_teacher={"alpha": 0.2},
        data_distortion={"temperature": 2.0, "kl_only": True},
    )
    expected = methods.data_distortion(temperature=2.0, kl_only=True)
    expected = expected + methods.be_your_own_teacher(alpha=0.2)
    assert method.get_config() == expected.get_config()


@pytest.mark.parametrize("name", ["byot", "", "baseline+byot", "baseline+"])
def test_get_lists_the_choices(name):
    with pytest.raises(ValueError, match="`name` must be one of") as error:
        methods.get(name)
    assert all(repr(choice) in str(error.value) for choice in EXPECTED)
    assert f"name={name!r}" in str(error.value)


def test_get_refuses_arguments_of_other_methods():
    with pytest.raises(ValueError, match=r"\['data_distortion'\].*name='be_your_own_teacher'"):
        methods.get("be_your_own_teacher", data_distortion={"temperature": 2.0})


SERIALIZED = {
    name: lambda make=make, name=name: make(**NEEDED.get(name, {}))
    for name, make in methods.METHODS.items()
} | {
    "two stages": lambda: methods.fitnet(alpha=0.5, hint_steps=3),
    "balanced": lambda: methods.balanced(methods.be_your_own_teacher(), 0.5),
    "then the deepest": lambda: methods.deepest_last(methods.be_your_own_teacher(), 3),
    "in turn": lambda: methods.alternating(methods.knowledge_distillation(), 3),
    "sum": lambda: methods.be_your_own_teacher(0.3) + methods.data_distortion(exits="all"),
    "schedules": lambda: (
        methods.be_your_own_teacher(SCHEDULE, WarmUp(1.0, 3), WarmUp(SCHEDULE, 2))
        + methods.data_distortion(WarmUp(1.0, 3), scaling="T2")
    ),
}


@pytest.mark.parametrize("name", SERIALIZED)
def test_serialization_round_trip(name):
    method = SERIALIZED[name]()
    copy = round_trip(method)
    assert isinstance(copy, methods.Method) and copy.get_config() == method.get_config()
    assert (copy.name, copy.num_views, copy.min_exits) == (
        method.name,
        method.num_views,
        method.min_exits,
    )
    assert kinds(copy) == kinds(method)
    for step in (0, 5):
        np.testing.assert_array_equal(
            [float(w) for w in copy.label_weights(4, step)],
            [float(w) for w in method.label_weights(4, step)],
        )
        for ours, theirs in zip(copy.objectives, method.objectives):
            assert float(ours.at(step).weight) == float(theirs.at(step).weight)


def test_what_changes_nothing_is_refused():
    last = methods.deepest_last(methods.deep_supervision(), 3)  # of labels alone, but of exits
    assert [float(weight) for weight in last.label_weights(2, 3)] == [0, 1]
    with pytest.raises(ValueError, match="terms besides the labels.*method='baseline'"):
        methods.alternating(methods.baseline(), 3)
