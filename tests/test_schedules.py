"""Schedules at and around the steps where they change."""

import keras
import numpy as np
import pytest
from keras import ops

from sd_keras import schedules

POLYNOMIAL = keras.optimizers.schedules.PolynomialDecay
STEP_TYPES = ("python", "int32", "int64", "float32")


def as_step(step, kind):
    return step if kind == "python" else ops.convert_to_tensor(step, dtype=kind)


@pytest.mark.parametrize("kind", STEP_TYPES)
def test_multi_step_drops_at_its_boundaries(kind):
    schedule = schedules.multi_step(0.1, [75, 130, 180])
    for step, value in {
        0: 0.1,
        74: 0.1,
        75: 0.01,
        129: 0.01,
        130: 1e-3,
        179: 1e-3,
        180: 1e-4,
        10**6: 1e-4,
    }.items():
        np.testing.assert_allclose(float(schedule(as_step(step, kind))), value, rtol=1e-6)


def test_multi_step_takes_another_factor():
    schedule = schedules.multi_step(0.1, [60, 120, 160], factor=0.2)
    np.testing.assert_allclose([float(schedule(s)) for s in (59, 60, 160)], [0.1, 0.02, 8e-4], 1e-6)


def test_multi_step_without_boundaries_is_constant():
    schedule = schedules.multi_step(0.1, [])
    assert float(schedule(0)) == float(schedule(1000)) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", STEP_TYPES)
def test_warm_up_rises_to_a_number(kind):
    ramp = schedules.WarmUp(2.0, 4)
    got = [float(ramp(as_step(step, kind))) for step in (0, 1, 2, 3, 4, 5, 1000)]
    np.testing.assert_allclose(got, [0, 0.5, 1, 1.5, 2, 2, 2], rtol=1e-6)


def test_warm_up_rises_to_a_schedule_and_follows_it():
    ramp = schedules.WarmUp(schedules.multi_step(1.0, [3, 10]), 5)
    got = [float(ramp(step)) for step in (0, 2, 3, 5, 9, 10)]
    np.testing.assert_allclose(got, [0, 0.4, 0.06, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -1])
def test_warm_up_needs_steps(steps):
    with pytest.raises(ValueError, match=rf"`steps`.*Received: steps={steps}"):
        schedules.WarmUp(1.0, steps)


def test_value_at_takes_numbers_and_schedules():
    assert schedules.value_at(0.3, 7) == 0.3
    assert schedules.value_at(None, 7) is None
    assert schedules.value_at(lambda step: 2 * step, 7) == 14


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.multi_step(0.1, [3, 6]),
        schedules.WarmUp(0.7, 5),
        schedules.WarmUp(schedules.multi_step(0.1, [3, 6]), 4),
        schedules.WarmUp(keras.optimizers.schedules.CosineDecay(1.0, 8), 2),
    ],
)
def test_serialization_keeps_the_values(schedule):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(copy) is type(schedule) and copy is not schedule
    steps = range(10)
    np.testing.assert_array_equal(
        [float(copy(s)) for s in steps], [float(schedule(s)) for s in steps]
    )
    assert copy.get_config() == schedule.get_config()


@pytest.mark.parametrize("kind", STEP_TYPES)
@pytest.mark.parametrize(
    "schedule,expected",
    [
        (schedules.Switch(2.0, schedules.WarmUp(1.0, 4), 2), [2, 2, 0.5, 0.75, 1, 1]),
        (schedules.Alternating(1, 0.5, 2), [1, 1, 0.5, 0.5, 1, 1]),
        (
            schedules.Switch(POLYNOMIAL(1.0, 4, 0.2), 7.0, 9),
            [1, 0.8, 0.6, 0.4, 0.2, 0.2],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_step_by_step(schedule, expected, kind):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for each in (schedule, copy):
        got = [float(each(as_step(step, kind))) for step in range(6)]
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [schedules.Switch, schedules.Alternating])
def test_steps_below_1_are_named(kind):
    with pytest.raises(ValueError, match=r"`steps` must be at least 1. Received: steps=0"):
        kind(1.0, 0.0, 0)
