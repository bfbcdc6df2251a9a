"""What a network is trained on: objectives, label weights and a number of views."""

import dataclasses

import keras

from sd_keras.objectives import Objective
from sd_keras.schedules import value_at


@keras.saving.register_keras_serializable(package="sd_keras")
@dataclasses.dataclass(frozen=True)
class Complement:
    """1 − value, for a number or a schedule: the label weight that goes with α."""

    value: object

    def __call__(self, step):
        return 1.0 - value_at(self.value, step)

    def get_config(self):
        return {"value": keras.saving.serialize_keras_object(self.value)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["value"]))


@keras.saving.register_keras_serializable(package="sd_keras")
@dataclasses.dataclass(frozen=True)
class Method:
    """What a network is trained on.

    The deepest exit learns from the labels with weight 1. Methods can be added: the sum
    holds the label cross entropy once per exit and view, and all objectives of both.

    Attributes:
        name: for logs and files.
        objectives: tuple of `Objective`.
        num_views: distorted views of each image, forwarded in one concatenated pass.
        shallow_label_weight: weight of the label cross entropy at every exit but the
            deepest: a number, a schedule, or None when the method does not train them.
    """

    name: str
    objectives: tuple = ()
    num_views: int = 1
    shallow_label_weight: object = None

    def __post_init__(self):
        if not all(isinstance(objective, Objective) for objective in self.objectives):
            raise ValueError(
                "`objectives` must be a tuple of sd_keras objectives. "
                f"Received: objectives={self.objectives}"
            )
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names) or "loss" in names:
            raise ValueError(
                "`objectives` must have different names, none of them 'loss' (give `name=`). "
                f"Received: objectives named {names}"
            )
        needed = max([1] + [objective.num_views for objective in self.objectives])
        if self.num_views not in (1, 2) or self.num_views < needed:
            raise ValueError(
                f"`num_views` must be 1 or 2, and at least the {needed} that the objectives "
                f"compare. Received: num_views={self.num_views}"
            )

        weight = self.shallow_label_weight
        if weight is not None and not callable(weight) and not weight >= 0:
            raise ValueError(
                "`shallow_label_weight` must be a number of at least 0, a schedule or None. "
                f"Received: shallow_label_weight={weight!r}"
            )

    @property
    def min_exits(self):
        """How many exits the network must have: 2 when shallow exits are trained."""
        needed = [objective.min_exits for objective in self.objectives]
        return max([1 if self.shallow_label_weight is None else 2, *needed])

    def label_weights(self, num_exits, step):
        """Returns the weight of the label cross entropy of each exit, shallow to deep."""
        shallow = value_at(self.shallow_label_weight, step)
        return [0.0 if shallow is None else shallow] * (num_exits - 1) + [1.0]

    def __add__(self, other):
        if not isinstance(other, Method):
            return NotImplemented
        weights = [m.shallow_label_weight for m in (self, other)]
        given = [weight for weight in weights if weight is not None]
        if len(given) == 2 and given[0] != given[1]:
            raise ValueError(
                "methods that are added must agree on `shallow_label_weight`. Received: "
                f"{self.name} with {given[0]} and {other.name} with {given[1]}"
            )
        return Method(
            name=f"{self.name}+{other.name}",
            objectives=(*self.objectives, *other.objectives),
            num_views=max(self.num_views, other.num_views),
            shallow_label_weight=given[0] if given else None,
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "objectives": [serialize(objective) for objective in self.objectives],
            "num_views": self.num_views,
            "shallow_label_weight": serialize(self.shallow_label_weight),
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        objectives = tuple(deserialize(objective) for objective in config["objectives"])
        weight = deserialize(config["shallow_label_weight"])
        return cls(config["name"], objectives, config["num_views"], weight)
