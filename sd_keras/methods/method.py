"""What a network is trained on: objectives, label weights and a number of views."""

import dataclasses
import numbers

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


LABEL_WEIGHTS = ("shallow_label_weight", "label_weight")


@keras.saving.register_keras_serializable(package="sd_keras")
@dataclasses.dataclass(frozen=True)
class Method:
    """What a network is trained on.

    Methods can be added: the sum holds the label cross entropy once per exit and view, and
    all objectives of both.

    Attributes:
        name: for logs and files.
        objectives: tuple of `Objective`.
        num_views: distorted views of each image, forwarded in one concatenated pass.
        shallow_label_weight: weight of the label cross entropy at every exit but the
            deepest: a number, a schedule, or None when the method does not train them.
        label_weight: the same of the deepest exit, and of a peer; in both papers 1.
        labelled_views: how many of the views, from the first, learn from the labels; None
            for all.
        balance: None, or what share of the labels' gradient each objective's is to have; see
            `balanced`.
    """

    name: str
    objectives: tuple = ()
    num_views: int = 1
    shallow_label_weight: object = None
    label_weight: object = 1.0
    labelled_views: int | None = None
    balance: float | None = None

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

        for argument, kinds in (("shallow_label_weight", " or None"), ("label_weight", "")):
            weight = getattr(self, argument)
            is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
            is_other = callable(weight) or (kinds and weight is None)
            if not is_other and not (is_number and weight >= 0):
                raise ValueError(
                    f"`{argument}` must be a number of at least 0, a schedule{kinds}. "
                    f"Received: {argument}={weight!r}"
                )
        if self.labelled_views not in (None, *range(1, self.num_views + 1)):
            raise ValueError(
                f"`labelled_views` must be None or 1…{self.num_views}, the number of views. "
                f"Received: labelled_views={self.labelled_views!r}"
            )

    @property
    def min_exits(self):
        """How many exits the network must have: 2 when shallow exits are trained."""
        needed = [objective.min_exits for objective in self.objectives]
        return max([1 if self.shallow_label_weight is None else 2, *needed])

    @property
    def pairs(self):
        """Whether the data are to hold pairs of images of a class in place of two views."""
        return any(objective.pairs for objective in self.objectives)

    @property
    def companions(self):
        """Which other networks the objectives read: of "teacher", "peer" and "past"."""
        return {each.companion for each in self.objectives} - {None}

    def label_weights(self, num_exits, step):
        """Returns the weight of the label cross entropy of each exit, shallow to deep."""
        shallow = value_at(self.shallow_label_weight, step)
        deepest = value_at(self.label_weight, step)
        return [0.0 if shallow is None else shallow] * (num_exits - 1) + [deepest]

    def __add__(self, other):
        if not isinstance(other, Method):
            return NotImplemented
        methods = (self, other)
        if self.pairs != other.pairs and min(m.num_views for m in methods) > 1:
            raise ValueError(
                "methods that are added must agree on what their two views are, two images of a "
                f"class or one distorted twice. Received: {self.name} and {other.name}"
            )
        return Method(
            name=f"{self.name}+{other.name}",
            objectives=(*self.objectives, *other.objectives),
            num_views=max(m.num_views for m in methods),
            shallow_label_weight=_agreed("shallow_label_weight", methods, None),
            label_weight=_agreed("label_weight", methods, 1.0),
            labelled_views=_agreed("labelled_views", methods, None),
            balance=_agreed("balance", methods, None),
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        config["objectives"] = [serialize(objective) for objective in self.objectives]
        return config | {name: serialize(config[name]) for name in LABEL_WEIGHTS}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        objectives = tuple(deserialize(objective) for objective in config["objectives"])
        weights = {name: deserialize(config[name]) for name in LABEL_WEIGHTS if name in config}
        return cls(**config | weights | {"objectives": objectives})


def rest_of(argument, share):
    """Returns the label weight that goes with a share of it that something else gets.

    Raises:
        ValueError: naming the argument, unless the share is in 0…1 or a schedule.
    """
    if callable(share):
        return Complement(share)
    if not (isinstance(share, numbers.Real) and 0 <= share <= 1):
        raise ValueError(
            f"`{argument}` must be in 0…1 or a schedule. Received: {argument}={share!r}"
        )
    return 1.0 - share


def _agreed(argument, methods, default):
    """Returns what methods that are added have for an argument; a default gives way."""
    given = [getattr(method, argument) for method in methods]
    given = [value for value in given if value is not None and value != default]
    if len(given) == 2 and given[0] != given[1]:
        first, second = methods
        raise ValueError(
            f"methods that are added must agree on `{argument}`. Received: "
            f"{first.name} with {given[0]} and {second.name} with {given[1]}"
        )
    return given[0] if given else default
