"""What all objectives have: a weight, schedules, a temperature; and which exits they compare."""

import copy

import keras

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
        companion: the other network that `call` reads, None, "teacher", "peer" or "past" (a
            copy of the network itself, of the epoch before).
        pairs: whether the two views are two images of a class, as `SameClassPairs` gives them.
        maps: whether `call` reads feature maps, of the network and of its teacher.
        needed_outputs: names of outputs without which `call` cannot be; those of companions
            are there in training only.
    """

    num_views = 1
    min_exits = 1
    scheduled = ("weight",)
    companion = None
    pairs = False
    maps = False
    needed_outputs = ()

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


def count_exits(outputs):
    """Returns the number of exits in a dict of network outputs."""
    return sum(name.startswith("exit_") for name in outputs)


class Softened(Objective):
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


def compared_exits(outputs, exits):
    """Resolves `exits="deepest" | "all"` to the numbers of the exits."""
    deepest = count_exits(outputs)
    return range(1, deepest + 1) if exits == "all" else [deepest]


def check_exits(exits):
    if exits not in ("deepest", "all"):
        raise ValueError(f"`exits` must be 'deepest' or 'all'. Received: exits={exits!r}")
