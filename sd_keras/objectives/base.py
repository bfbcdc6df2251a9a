"""What all objectives have: a weight, schedules, a temperature; and which exits they compare."""

import copy
import inspect

import keras

from sd_keras import losses
from sd_keras.schedules import value_at


class Objective(keras.losses.Loss):
    """Base of the objectives: weight, name, schedules.

    Args:
        weight: factor in the total loss; a number or a schedule.
        name: of the metric that reports the (unweighted) value.
        exits: `"deepest"`, or `"all"` to compare at every exit; for objectives that take it.

    What else a constructor takes must be an attribute of that name, for `get_config`.

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

    def __init__(self, weight, name, exits="deepest"):
        super().__init__(name=name)
        if not callable(weight) and not weight >= 0:
            raise ValueError(
                f"`weight` of {name} must be a number of at least 0 or a schedule. "
                f"Received: weight={weight!r}"
            )
        if exits not in ("deepest", "all"):
            raise ValueError(f"`exits` must be 'deepest' or 'all'. Received: exits={exits!r}")
        self.weight = weight
        self.exits = exits

    def at(self, step):
        """Returns a copy with every schedule replaced by its value at `step`."""
        fixed = copy.copy(self)
        for name in self.scheduled:
            setattr(fixed, name, value_at(getattr(self, name), step))
        return fixed

    def get_config(self):
        names = [*inspect.signature(type(self)).parameters, "name", *self.scheduled]
        config = {name: getattr(self, name) for name in names if hasattr(self, name)}
        for name in self.scheduled:
            config[name] = keras.saving.serialize_keras_object(config[name])
        return config

    @classmethod
    def from_config(cls, config):
        schedules = {name: config[name] for name in cls.scheduled if name in config}
        deserialize = keras.saving.deserialize_keras_object
        return cls(**config | {name: deserialize(value) for name, value in schedules.items()})


class Softened(Objective):
    """An objective on softened probabilities: temperature and its scaling."""

    scheduled = ("weight", "temperature")

    def __init__(self, weight, temperature, scaling, name, exits="deepest"):
        super().__init__(weight, name, exits)
        if not callable(temperature) and not temperature > 0:
            raise ValueError(
                f"`temperature` of {name} must be a positive number or a schedule. "
                f"Received: temperature={temperature!r}"
            )
        losses.temperature_factor(1.0, scaling)  # refuses an unknown scaling
        self.temperature = temperature
        self.scaling = scaling

    def kl(self, target_logits, logits):
        """Returns KL(p_target ‖ p) of softened probabilities, `(n,)`; the target is detached."""
        return losses.kl_divergence(target_logits, logits, self.temperature, self.scaling)

    def symmetric_kl(self, logits_a, logits_b):
        """Returns KL(p_b ‖ p_a) + KL(p_a ‖ p_b), `(n,)`, each with its target detached."""
        return losses.symmetric_kl_divergence(logits_a, logits_b, self.temperature, self.scaling)


def count_exits(outputs):
    """Returns the number of exits in a dict of network outputs."""
    return sum(name.startswith("exit_") for name in outputs)


def deepest(outputs):
    """Returns the logits of the deepest exit."""
    return outputs[f"exit_{count_exits(outputs)}"]


def compared_exits(outputs, exits):
    """Resolves `exits="deepest" | "all"` to the numbers of the exits."""
    count = count_exits(outputs)
    return range(1, count + 1) if exits == "all" else [count]
