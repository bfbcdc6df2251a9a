"""Methods: the papers' names for lists of objectives and a number of views."""

import dataclasses
import numbers

import keras

from sd_keras.objectives import ExitHint, ExitKL, Objective, ViewKL, ViewMMD
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


def baseline():
    """Label cross entropy at the deepest exit on one view: the plain network."""
    return Method("baseline")


def two_branch():
    """Label cross entropy at the deepest exit on two views, CE_a + CE_b (DDGSD table 6).

    The fair baseline of `data_distortion`: it sees as many images a step.
    """
    return Method("two_branch", num_views=2)


def deep_supervision(label_weight=1.0):
    """Label cross entropy at every exit (Lee et al. 2015; BYOT table 4).

    The fair baseline of `be_your_own_teacher`.

    Args:
        label_weight: of the shallow exits; a number or a schedule.
    """
    return Method("deep_supervision", shallow_label_weight=label_weight)


def be_your_own_teacher(alpha=0.5, hint_weight=6.4e-5, temperature=3.0, scaling="T2"):
    """Every exit learns from labels, deepest probabilities and deepest features (BYOT eq. 5).

        Σ_i (1 − α) CE(q_i, y) + α KL(q_C ‖ q_i) + λ ‖F_i − F_C‖²;  α = λ = 0 at the deepest

    Args:
        alpha: α, a number in 0…1 or a schedule.
        hint_weight: λ on the squared distance per example; a number or a schedule.
        temperature: T of the KL; the first author's code has 3, the paper says "normally 1".
        scaling: factor of the KL, `"none"`, `"T"` or `"T2"`.
    """
    is_share = isinstance(alpha, numbers.Real) and 0 <= alpha <= 1
    if not callable(alpha) and not is_share:
        raise ValueError(f"`alpha` must be in 0…1 or a schedule. Received: alpha={alpha!r}")
    objectives = (ExitKL(alpha, temperature, scaling), ExitHint(hint_weight))
    label_weight = Complement(alpha) if callable(alpha) else 1.0 - alpha
    return Method("be_your_own_teacher", objectives, shallow_label_weight=label_weight)


def data_distortion(
    kl_weight=1.0,
    mmd_weight=5e-4,
    temperature=3.0,
    scaling="none",
    exits="deepest",
    kl_only=False,
    mmd_only=False,
):
    """Two views are made consistent by symmetric KL and MMD (DDGSD eq. 5).

        CE_a + CE_b + λ (KL(p_b ‖ p_a) + KL(p_a ‖ p_b)) + μ MMD

    Args:
        kl_weight: λ, a number or a schedule.
        mmd_weight: μ, a number or a schedule; the paper's range is 1e-4 … 5e-4.
        temperature: T of the KL: 3 for CIFAR-100 and ImageNet, 2 for CIFAR-10.
        scaling: factor of the KL, `"none"` (the paper), `"T"` or `"T2"`.
        exits: `"deepest"`, or `"all"` to compare the views at every exit.
        kl_only, mmd_only: leave the other term out (the rows of DDGSD table 6).
    """
    if kl_only and mmd_only:
        raise ValueError(
            "`kl_only` and `mmd_only` exclude each other; with neither term use two_branch(). "
            "Received: kl_only=True, mmd_only=True"
        )
    objectives = []
    if not mmd_only:
        objectives.append(ViewKL(kl_weight, temperature, scaling, exits))
    if not kl_only:
        objectives.append(ViewMMD(mmd_weight, exits))
    return Method("data_distortion", tuple(objectives), num_views=2)


METHODS = {
    method.__name__: method
    for method in (baseline, two_branch, deep_supervision, be_your_own_teacher, data_distortion)
}


def get(name, **arguments):
    """Returns the method called `name`, or the sum of several joined by `+`.

    Args:
        name: for instance `"be_your_own_teacher+data_distortion"`.
        **arguments: of the methods, as `method_name={argument: value}`.

    Raises:
        ValueError: if there is no such method, or an argument is for none of them.
    """
    names = name.split("+")
    unknown = [part for part in names if part not in METHODS]
    if unknown or not name:
        raise ValueError(
            f"`name` must be one of {sorted(METHODS)}, or several joined by '+'. "
            f"Received: name={name!r}"
        )
    stray = sorted(set(arguments) - set(names))
    if stray:
        raise ValueError(
            f"arguments for methods that `name` does not hold: {stray}. Received: {name=}"
        )
    first, *rest = (METHODS[part](**arguments.get(part, {})) for part in names)
    for method in rest:
        first = first + method
    return first
