"""EarlyExit and Anytime: only undecided rows go on, answers are those of the whole network."""

import keras
import numpy as np
import pytest
from conftest import tiny_network
from early_exit_run import balanced, differences, halving_policy
from test_losses import softmax

import sd_keras
from sd_keras import inference
from sd_keras.models import sections


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(1).integers(0, 256, (32, 8, 8, 1))
    backbone = sd_keras.models.resnet((8, 8, 1), "cifar", (1, 1, 1), (4, 8, 8))
    return balanced(sd_keras.attach_exits(backbone, 4), images)


@pytest.fixture
def policy(network, images):
    return halving_policy(network.predict(images, verbose=0))


@pytest.mark.parametrize("rule", inference.RULES)
def test_answers_are_those_of_decide(network, images, rule):
    found = differences(network, images, rule)
    for name in ("whole", "parts"):
        assert found[name]["exits"] == 0
        assert found[name]["logits"] < 1e-5 and found[name]["confidence"] < 1e-5
    assert sum(count > 0 for count in found["left"]) > 1


def test_only_undecided_rows_go_on(network, images, policy):
    early = inference.EarlyExit(network, policy)
    seen, own = [], list(early.sections)

    def counting(section):
        return lambda tensors: seen.append(len(tensors[0])) or section(tensors)

    early.sections = [counting(section) for section in own]
    left = np.bincount(early(images)["exit"], minlength=4)[1:]
    assert seen == [32, 32 - left[0], left[2]]
    # Nobody is left: the deeper sections do not run.
    seen.clear()
    early.policy = inference.Policy("margin", (0, 0))
    assert set(early(images)["exit"]) == {1}
    assert seen == [32]


def test_probabilities_have_the_temperature_of_their_exit(network, images, policy):
    temperatures = (0.5, 2.0, 4.0)
    cooled = inference.Policy("agreement", (None, 1), temperatures)
    got = inference.EarlyExit(network, cooled)(images)
    expected = softmax(got["logits"] / np.array(temperatures)[got["exit"] - 1][:, None])
    np.testing.assert_allclose(got["probabilities"], expected, atol=1e-6)
    assert got["logits"].dtype == got["probabilities"].dtype == np.float32
    assert got["exit"].min() == 2


def test_empty_batches_and_new_weights(network, images, policy):
    early = inference.EarlyExit(network, policy)
    for got in (early(images[:0]), early.predict(images[:0])):
        assert {name: array.shape for name, array in got.items()} == {
            "logits": (0, 4),
            "probabilities": (0, 4),
            "exit": (0,),
            "confidence": (0,),
        }
    before = early(images)["logits"]
    weights = network.get_weights()
    network.set_weights([w * 1.1 for w in weights])
    changed = abs(early(images)["logits"] - before).max()
    network.set_weights(weights)
    assert changed > 1e-4
    np.testing.assert_allclose(early(images)["logits"], before, atol=1e-6)


def test_a_plain_network_has_one_section(images):
    plain = tiny_network(at=[])
    got = inference.EarlyExit(plain, inference.Policy("margin", ()))(images)
    expected = plain.predict(images, verbose=0)["exit_1"]
    np.testing.assert_allclose(got["logits"], expected, atol=1e-6)


def test_sections_where_several_tensors_go_on(images):
    """A shortcut from the image itself passes by the first exit."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    wide = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.Concatenate(name="end")([wide, image, x])
    network = sd_keras.attach_exits(keras.Model(image, x), 4, at=["first"])
    assert [len(s.output["handed_on"]) for s in sections(network)] == [2, 0]
    found = differences(network, images, "margin")
    assert found["whole"]["exits"] == 0 and found["whole"]["logits"] < 1e-5


def test_images_of_another_size_are_refused(network, policy):
    for runner in (inference.EarlyExit(network, policy), inference.Anytime(network)):
        with pytest.raises(ValueError, match=r"`images` must be .*n, 8, 8, 1.*\(3, 8, 8\)"):
            runner(np.zeros((3, 8, 8)))


def test_logits_that_are_not_finite_are_refused(images):
    network = tiny_network()
    classifier = network.get_layer("classifier_2")
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel, bias * np.nan])
    early = inference.EarlyExit(network, inference.Policy("margin", [None]))
    for runner in (early, inference.Anytime(network)):
        with pytest.raises(ValueError, match="`network` must give finite logits.*exit_2 with 32"):
            runner(images)


def test_wrong_arguments_are_refused(network, images, policy):
    with pytest.raises(ValueError, match="`policy` must be a Policy of 2 thresholds"):
        inference.EarlyExit(network, inference.Policy("margin", (0.5,)))
    with pytest.raises(ValueError, match="`network` must be"):
        inference.EarlyExit(keras.Model(network.input, network.output["exit_1"]), policy)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        inference.EarlyExit(network, policy).predict(images, 0)
    with pytest.raises(ValueError, match="`slack` must be"):
        inference.Anytime(network, slack=-1)
    with pytest.raises(ValueError, match="`images` must hold at least one"):
        inference.Anytime(network)(images[:0])


class Clock:
    """Time that passes only where a section runs: so many seconds each."""

    def __init__(self, anytime, *seconds):
        self.now = 100.0
        self.seconds = list(seconds)
        anytime.clock = lambda: self.now
        own = list(anytime.sections)

        def timed(index):
            def run(tensors):
                self.now += self.seconds[index]
                return own[index](tensors)

            return run

        anytime.sections = [timed(index) for index in range(len(own))]


def test_the_deepest_exit_before_the_deadline(network, images):
    """Sections of 1, 2 and 4 seconds."""
    anytime = inference.Anytime(network, slack=0)
    clock = Clock(anytime, 1, 2, 4)
    assert anytime.warm_up(batch_size=32, repeats=2) == [1, 3, 7]
    whole = network.predict(images, verbose=0)
    for seconds, reached in [(-5, 1), (0, 1), (2.9, 1), (3.1, 2), (6.9, 2), (7.1, 3), (None, 3)]:
        got = anytime(images, None if seconds is None else clock.now + seconds)
        assert got["exit"] == reached
        assert got["seconds"] == [1, 3, 7][reached - 1]
        np.testing.assert_allclose(got["logits"], whole[f"exit_{reached}"], atol=1e-5)


def test_times_are_learnt(network, images):
    anytime = inference.Anytime(network, slack=0.5)
    clock = Clock(anytime, 1, 2, 4)
    # Nothing is known: no risk is taken.
    assert anytime(images, clock.now + 1000)["exit"] == 1
    assert anytime.expected(1, 32) is None
    assert anytime(images)["exit"] == 3
    # The second section takes 2, with the slack 3.
    assert anytime(images, clock.now + 3.9)["exit"] == 1
    assert anytime(images, clock.now + 4.1)["exit"] == 2
    # Fewer images take no longer, twice as many at most twice as long.
    assert [anytime.expected(1, count) for count in (8, 32, 64)] == [2, 2, 4]
    clock.seconds[1] = 20
    for _ in range(3):  # one slow call is no rule, most of the last nine are
        anytime(images)
    assert anytime.expected(1, 32) == 20


def made_logits(generator, rows, classes=10):
    """Draws logits of four exits, the deeper the better, that err on the same rows; and labels."""
    labels = generator.integers(0, classes, rows)
    difficulty = 0.4 + 0.6 * generator.gamma(2, 1, rows)
    common = generator.normal(size=(rows, classes))
    logits = 0.7 * (generator.normal(size=(4, rows, classes)) + common)
    for index in range(4):
        logits[index, np.arange(rows), labels] += 1.54 * (1.5 + 0.8 * index) / difficulty
    return logits.astype("float32"), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows,promise,level",
    [(500, 0.02, 0.95), (2000, 0.01, 0.95), (5000, 0.005, 0.95), (2000, 0.01, None)],
)
def test_promises_are_kept_on_other_images(rows, promise, level):
    """The table of docs/inference.md; `-rP` shows its figures."""
    costs, generator = (180, 310, 430, 560), np.random.default_rng(0)
    population, outcomes = made_logits(generator, 100_000), []
    for _ in range(40):
        chosen = inference.choose_thresholds(
            *made_logits(generator, rows), costs, max_drop=promise, confidence_level=level
        )
        outcomes.append(inference.measure(*population, costs, chosen.policy))
    broken, cost = (
        sum(each.drop > promise for each in outcomes),
        np.mean([o.cost for o in outcomes]),
    )
    print(f"{rows} images, level {level}: broken {broken} of 40, cost {cost:.0f}")
    assert cost < costs[-1]
    if level:
        assert broken <= 4  # about 2 of 40 are expected at most
    else:
        assert broken > 20  # thresholds as they come promise nothing
