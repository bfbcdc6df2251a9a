"""Losses and objectives of the comparison methods against NumPy, values and gradients."""

import numpy as np
import pytest
from test_losses import close, gradients, log_softmax, normal, reference_kl, softmax

from sd_keras import losses, objectives

N, CLASSES = 5, 4
LABELS = np.array([0, 3, 1, 1, 2])
Z, T = normal(N, CLASSES, seed=1), normal(N, CLASSES, seed=2)
MAP, TEACHER_MAP = normal(N, 3, 2, 4, seed=3), normal(N, 3, 2, 6, seed=4)


def reference_attention(feature_map):
    attention = (feature_map.astype("float64") ** 2).sum(-1).reshape(len(feature_map), -1)
    return attention / np.sqrt((attention**2).sum(1, keepdims=True))


def numeric_gradient(function, array, indices, epsilon=1e-3):
    """Central differences of the sum of a float64 function at some elements."""
    found = []
    for index in indices:
        ends = []
        for sign in (1, -1):
            moved = array.astype("float64").copy()
            moved[index] += sign * epsilon
            ends.append(function(moved).sum())
        found.append((ends[0] - ends[1]) / (2 * epsilon))
    return np.array(found)


def test_attention_distance_and_its_gradients():
    def reference(feature_map):
        difference = reference_attention(feature_map) - reference_attention(TEACHER_MAP)
        return (difference**2).mean(1)

    close(losses.attention_distance(TEACHER_MAP, MAP), reference(MAP))
    of_target, own = gradients(losses.attention_distance, TEACHER_MAP, MAP)
    np.testing.assert_array_equal(of_target, 0)
    places = [(0, 0, 0, 0), (2, 1, 1, 3), (4, 2, 0, 1)]
    got = np.array([own[place] for place in places])
    np.testing.assert_allclose(got, numeric_gradient(reference, MAP, places), rtol=1e-3, atol=1e-6)


def test_attention_of_equal_and_of_empty_maps_is_finite():
    same, empty = gradients(losses.attention_distance, MAP, MAP)[1], np.zeros_like(MAP)
    np.testing.assert_array_equal(same, 0)
    close(losses.attention_distance(TEACHER_MAP, 3 * TEACHER_MAP), np.zeros(N))  # scale is lost
    assert np.isfinite(gradients(losses.attention_distance, TEACHER_MAP, empty)[1]).all()


def test_map_distance_and_its_gradients():
    target = normal(*MAP.shape, seed=9)
    difference = MAP.astype("float64") - target
    close(losses.map_distance(target, MAP), (difference**2).mean((1, 2, 3)) / 2)
    of_target, own = gradients(losses.map_distance, target, MAP)
    np.testing.assert_array_equal(of_target, 0)
    close(own, difference / difference[0].size)


def test_soft_cross_entropy_and_its_gradients():
    close(losses.soft_cross_entropy(T, Z), -(softmax(T) * log_softmax(Z)).sum(-1))
    of_target, own = gradients(losses.soft_cross_entropy, T, Z)
    np.testing.assert_array_equal(of_target, 0)
    close(own, softmax(Z) - softmax(T))


def test_uniform_cross_entropy_smooths_labels():
    close(losses.uniform_cross_entropy(Z), -log_softmax(Z).mean(-1))
    close(gradients(losses.uniform_cross_entropy, Z)[0], softmax(Z) - 1 / CLASSES)
    smooth = 0.9 * np.eye(CLASSES)[LABELS] + 0.1 / CLASSES
    both = 0.9 * np.asarray(losses.label_cross_entropy(LABELS, Z))
    both = both + 0.1 * np.asarray(losses.uniform_cross_entropy(Z))
    close(both, -(smooth * log_softmax(Z)).sum(-1))


@pytest.mark.parametrize("form", ["numbers", "probabilities"])
def test_virtual_teacher(form):
    eye = np.eye(CLASSES)[LABELS]
    expected = np.where(eye == 1, 0.97, 0.03 / (CLASSES - 1))
    labels = LABELS if form == "numbers" else eye.astype("float32")
    got = losses.virtual_teacher_logits(labels, CLASSES, 0.97)
    np.testing.assert_allclose(softmax(np.asarray(got)), expected, rtol=1e-5)
    objective = objectives.VirtualTeacherKL(0.1, 0.97, temperature=20.0, scaling="T2")
    value = 400 * reference_kl(np.log(expected), Z, 20.0)
    np.testing.assert_allclose(objective.call(labels, ({"exit_1": Z},)), value, rtol=1e-3)

    def loss(logits):
        return objective.call(labels, ({"exit_1": logits},))

    pull = softmax(Z, 20.0) - softmax(np.log(expected), 20.0)
    close(gradients(loss, Z)[0], 20 * pull, rtol=1e-3, atol=1e-5)


def views():
    a = {"exit_1": normal(N, CLASSES, seed=11), "exit_2": normal(N, CLASSES, seed=12)}
    b = {"exit_1": normal(N, CLASSES, seed=13), "exit_2": normal(N, CLASSES, seed=14)}
    for seed, view in ((20, a), (30, b)):
        for index, kind in enumerate(("teacher", "peer", "past")):
            view[f"{kind}_logits"] = normal(N, CLASSES, seed=seed + index)
        view["map_1"], view["teacher_map_1"] = MAP + seed, TEACHER_MAP - seed
        view["teacher_hint_regressed"] = normal(*TEACHER_MAP.shape, seed=seed)
        view["teacher_hint_regressed_target"] = view["teacher_map_1"]
    return a, b


A, B = views()


def kl(target, own, temperature=1.0):
    return sum(reference_kl(v[target], v[own], temperature) for v in (A, B))


OBJECTIVES = {
    "teacher": (objectives.TeacherKL(temperature=4.0), 16 * kl("teacher_logits", "exit_2", 4.0)),
    "teacher of all": (
        objectives.TeacherKL(temperature=2.0, scaling="none", exits="all"),
        kl("teacher_logits", "exit_1", 2.0) + kl("teacher_logits", "exit_2", 2.0),
    ),
    "peer": (objectives.PeerKL(), kl("peer_logits", "exit_2") + kl("exit_2", "peer_logits")),
    "past": (
        objectives.PastCrossEntropy(),
        sum(-(softmax(v["past_logits"]) * log_softmax(v["exit_2"])).sum(-1) for v in (A, B)),
    ),
    "attention": (
        objectives.AttentionTransfer(),
        sum(
            ((reference_attention(v["map_1"]) - reference_attention(v["teacher_map_1"])) ** 2).mean(
                1
            )
            for v in (A, B)
        )
        / 2,
    ),
    "hint": (
        objectives.TeacherHint(),
        sum(
            ((v["teacher_hint_regressed"] - v["teacher_map_1"]) ** 2).mean((1, 2, 3)) / 2
            for v in (A, B)
        ),
    ),
    "uniform": (
        objectives.UniformCrossEntropy(),
        sum(-log_softmax(v["exit_2"]).mean(-1) for v in (A, B)),
    ),
    "partner": (
        objectives.PartnerKL(temperature=4.0),
        16 * reference_kl(B["exit_2"], A["exit_2"], 4.0),
    ),
}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_objective_per_example(case):
    objective, expected = OBJECTIVES[case]
    got = objective.call(LABELS, (A, B))
    assert tuple(got.shape) == (N,)
    close(got, expected, rtol=1e-4)
    assert set(objective.needed_outputs) <= set(A)


@pytest.mark.parametrize(
    "case,target",
    [("teacher", "teacher_logits"), ("past", "past_logits"), ("partner", "exit_2")],
)
def test_targets_are_detached(case, target):
    objective, _ = OBJECTIVES[case]

    def loss(target_values, own):
        first = A | {"exit_2": own}
        second = B
        if case == "partner":
            second = B | {target: target_values}
        else:
            first[target] = target_values
        return objective.call(LABELS, (first, second))

    given = B["exit_2"] if case == "partner" else A[target]
    of_target, own = gradients(loss, given, A["exit_2"])
    np.testing.assert_array_equal(of_target, 0)
    assert np.abs(own).max() > 0


def test_each_peer_is_a_constant_target_of_the_other():
    def loss(own, peer):
        view = {"exit_1": own, "peer_logits": peer}
        return objectives.PeerKL(temperature=2.0, scaling="none").call(LABELS, (view,))

    pull = (softmax(Z, 2.0) - softmax(T, 2.0)) / 2.0
    for gradient, sign in zip(gradients(loss, Z, T), (1, -1)):
        close(gradient, sign * pull)
