"""Objectives: which exits and which views are compared.

An objective is a `keras.losses.Loss` whose `call(labels, views)` takes a tuple with one dict
of network outputs per view and returns one value per example. Weights and temperatures are
numbers or schedules; `at(step)` returns a copy in which they are numbers of that step.
"""

import copy

import keras
from keras import ops

from sd_keras import losses
from sd_keras.schedules import value_at


class Objective(keras.losses.Loss):
    """Base of the objectives: weight, name, schedules.

    Args:
        weight: factor in the total loss; a number or a schedule.
        name: of the metric that reports the (unweighted) value.

    Attributes:
        num_views: how many views `call` needs.
        min_exits: how many exits the network must have.
        scheduled: names of the attributes that may be schedules.
    """

    num_views = 1
    min_exits = 1
    scheduled = ("weight",)

    def __init__(self, weight, name):
        super().__init__(name=name)
        if not callable(weight) and not weight >= 0:
            raise ValueError(
                f"`weight` of {name} must be a number of at least 0 or a schedule. "
                f"Received: weight={weight!r}"
            )
        self.weight = weight

    def at(self, step):
        """Returns a copy with every schedule replaced by its value at `step`."""
        fixed = copy.copy(self)
        for name in self.scheduled:
            setattr(fixed, name, value_at(getattr(self, name), step))
        return fixed

    def get_config(self):
        scheduled = {name: getattr(self, name) for name in self.scheduled}
        return {"name": self.name} | {
            name: keras.saving.serialize_keras_object(value) for name, value in scheduled.items()
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value)
                if name in cls.scheduled
                else value
                for name, value in config.items()
            }
        )


def _exits(outputs):
    """Returns the number of exits in a dict of network outputs."""
    return sum(name.startswith("exit_") for name in outputs)


class _Softened(Objective):
    """An objective on softened probabilities: temperature and its scaling."""

    scheduled = ("weight", "temperature")

    def __init__(self, weight, temperature, scaling, name):
        super().__init__(weight, name)
        if not callable(temperature) and not temperature > 0:
            raise ValueError(
                f"`temperature` of {name} must be a positive number or a schedule. "
                f"Received: temperature={temperature!r}"
            )
        losses.temperature_factor(1.0, scaling)  # refuses an unknown scaling
        self.temperature = temperature
        self.scaling = scaling

    def get_config(self):
        return super().get_config() | {"scaling": self.scaling}


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitKL(_Softened):
    """Σ_i KL(q_C ‖ q_i) from the deepest exit to every shallow one (BYOT eq. 3).

    Adds over views. The deepest exit is detached.
    """

    min_exits = 2

    def __init__(self, weight=0.5, temperature=3.0, scaling="T2", name="exit_kl"):
        super().__init__(weight, temperature, scaling, name)

    def call(self, labels, views):
        del labels
        terms = []
        for outputs in views:
            deepest = _exits(outputs)
            for index in range(1, deepest):
                terms.append(
                    losses.kl_divergence(
                        outputs[f"exit_{deepest}"],
                        outputs[f"exit_{index}"],
                        self.temperature,
                        self.scaling,
                    )
                )
        return sum(terms)


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitHint(Objective):
    """Σ_i ‖F_i − F_C‖²₂ from the deepest features to every shallow exit's (BYOT eq. 4).

    Adds over views. The deepest features are detached.
    """

    min_exits = 2

    def __init__(self, weight=6.4e-5, name="exit_hint"):
        super().__init__(weight, name)

    def call(self, labels, views):
        del labels
        terms = []
        for outputs in views:
            deepest = _exits(outputs)
            target = outputs[f"features_{deepest}"]
            for index in range(1, deepest):
                terms.append(losses.hint(target, outputs[f"features_{index}"]))
        return sum(terms)


def _compared_exits(outputs, exits):
    """Resolves `exits="deepest" | "all"` to the numbers of the exits."""
    deepest = _exits(outputs)
    return range(1, deepest + 1) if exits == "all" else [deepest]


def _check_exits(exits):
    if exits not in ("deepest", "all"):
        raise ValueError(f"`exits` must be 'deepest' or 'all'. Received: exits={exits!r}")


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewKL(_Softened):
    """KL(p_b ‖ p_a) + KL(p_a ‖ p_b) between two views, targets detached (DDGSD eq. 5)."""

    num_views = 2

    def __init__(
        self, weight=1.0, temperature=3.0, scaling="none", exits="deepest", name="view_kl"
    ):
        super().__init__(weight, temperature, scaling, name)
        _check_exits(exits)
        self.exits = exits

    def call(self, labels, views):
        del labels
        a, b = views
        return sum(
            losses.symmetric_kl_divergence(
                a[f"exit_{index}"], b[f"exit_{index}"], self.temperature, self.scaling
            )
            for index in _compared_exits(a, self.exits)
        )

    def get_config(self):
        return super().get_config() | {"exits": self.exits}


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewMMD(Objective):
    """‖mean h(x_a) − mean h(x_b)‖²₂ between two views' features (DDGSD eq. 4).

    A statistic of the batch, given to each of its examples alike.
    """

    num_views = 2

    def __init__(self, weight=5e-4, exits="deepest", name="view_mmd"):
        super().__init__(weight, name)
        _check_exits(exits)
        self.exits = exits

    def call(self, labels, views):
        del labels
        a, b = views
        value = sum(
            losses.mean_discrepancy(a[f"features_{index}"], b[f"features_{index}"])
            for index in _compared_exits(a, self.exits)
        )
        return ops.broadcast_to(value, (ops.shape(a["exit_1"])[0],))

    def get_config(self):
        return super().get_config() | {"exits": self.exits}
