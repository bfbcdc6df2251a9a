"""Values as a function of the training step: learning rates and loss weights.

Keras's schedules (`PiecewiseConstantDecay`, `CosineDecay` with its own warm-up, …) can be
used wherever a schedule is accepted; here stands what Keras lacks.
"""

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule


def value_at(value, step):
    """Returns `value(step)` of a schedule, and a number as it is."""
    return value(step) if callable(value) else value


def multi_step(initial, boundaries, factor=0.1):
    """Returns Keras's step schedule: `initial`, times `factor` from each boundary on.

    Args:
        initial: value at step 0.
        boundaries: steps (not epochs) at which the value drops; for instance
            `[epoch * steps_per_epoch for epoch in (75, 130, 180)]`.
        factor: what the value is multiplied by at each boundary.
    """
    if list(boundaries) != sorted(set(boundaries)) or min(boundaries, default=1) < 1:
        raise ValueError(
            "`boundaries` must be rising steps of at least 1. "
            f"Received: boundaries={list(boundaries)}"
        )
    if not boundaries:
        return keras.optimizers.schedules.PiecewiseConstantDecay([0], [initial, initial])
    values = [initial * factor**index for index in range(len(boundaries) + 1)]
    # Keras keeps the old value at the boundary itself; a drop "at step b" starts there.
    return keras.optimizers.schedules.PiecewiseConstantDecay([b - 1 for b in boundaries], values)


class _InSteps(Schedule):
    """Base of schedules that last some steps and follow other values or schedules."""

    values = ()

    def __init__(self, steps):
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1. Received: steps={steps}")
        self.steps = steps

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        values = {name: serialize(getattr(self, name)) for name in self.values}
        return values | {"steps": self.steps}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls(**config | {name: deserialize(config[name]) for name in cls.values})


@keras.saving.register_keras_serializable(package="sd_keras")
class WarmUp(_InSteps):
    """Rises linearly from 0 to a value or to what a schedule gives, then follows it.

    For learning rates and for weights (`kl_weight=WarmUp(1.0, 4000)` is a ramp).

    Args:
        target: number, or a schedule of the same step.
        steps: length of the rise; at step `steps` the target is reached.
    """

    values = ("target",)

    def __init__(self, target, steps):
        super().__init__(steps)
        self.target = target

    def __call__(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return share * value_at(self.target, step)


class _Two(_InSteps):
    """A schedule that is the one or the other of two values or schedules."""

    values = ("first", "second")

    def __init__(self, first, second, steps):
        super().__init__(steps)
        self.first = first
        self.second = second

    def __call__(self, step):
        first, second = (
            ops.cast(value_at(value, step), "float32") for value in (self.first, self.second)
        )
        return ops.where(self._is_first(ops.convert_to_tensor(step)), first, second)


@keras.saving.register_keras_serializable(package="sd_keras")
class Switch(_Two):
    """One value or schedule up to a step, another one from there on.

    Args:
        first, second: numbers or schedules of the same step.
        steps: how many steps the first one lasts.
    """

    def _is_first(self, step):
        return step < self.steps


@keras.saving.register_keras_serializable(package="sd_keras")
class Alternating(_Two):
    """Two values or schedules in turn, each for some steps.

    Args:
        first, second: numbers or schedules of the same step; `first` begins.
        steps: how many steps each turn lasts.
    """

    def _is_first(self, step):
        return ops.cast(step, "int32") // self.steps % 2 == 0
