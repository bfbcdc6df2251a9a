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


@keras.saving.register_keras_serializable(package="sd_keras")
class WarmUp(Schedule):
    """Rises linearly from 0 to a value or to what a schedule gives, then follows it.

    For learning rates and for weights (`kl_weight=WarmUp(1.0, 4000)` is a ramp).

    Args:
        target: number, or a schedule of the same step.
        steps: length of the rise; at step `steps` the target is reached.
    """

    def __init__(self, target, steps):
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1. Received: steps={steps}")
        self.target = target
        self.steps = steps

    def __call__(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return share * value_at(self.target, step)

    def get_config(self):
        return {"target": keras.saving.serialize_keras_object(self.target), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        target = keras.saving.deserialize_keras_object(config["target"])
        return cls(target, config["steps"])
