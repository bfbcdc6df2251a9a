"""Methods made of other methods: in turn, until a step, or balanced."""

import copy
import dataclasses

from sd_keras.methods.method import Method
from sd_keras.schedules import Alternating, Switch


def deepest_last(method, steps):
    """The last steps of a training on the deepest exit and the labels alone.

    Be Your Own Teacher reports 0.3 to 0.7 points from going on conventionally.

    Args:
        method: a `Method`.
        steps: how many steps `method` itself lasts.

    Returns:
        A `Method`; from step `steps` on, only labels teach, and only the deepest exit.
    """
    return _in_time(method, "then_deepest", Switch, 0.0, steps)


def alternating(method, steps):
    """A method in turn with plain learning from labels at the exits that it trains.

    Args:
        method: a `Method`, which begins.
        steps: how many steps each turn lasts.
    """
    _check(method, needs_objectives=True)
    return _in_time(method, "alternating", Alternating, 1.0, steps)


def balanced(method, share=1.0):
    """A method whose objectives weigh what balances their gradients with the labels'.

    In each step each objective gets the weight that makes its gradient `share` times as long
    as the label losses', both with respect to all features, the vectors in front of the
    classifiers: the last place that all terms go through. An objective's own weight counts no
    more, but for 0, which leaves it out. Weights end at `sd_keras.trainer.balance.LIMIT`.

    Args:
        method: a `Method`.
        share: length of each objective's gradient in units of the labels' gradient.
    """
    if not share > 0:
        raise ValueError(f"`share` must be a number above 0. Received: share={share!r}")
    _check(method, needs_objectives=True)
    name = f"{method.name}_balanced"
    return dataclasses.replace(method, name=name, balance=float(share))


def _check(method, needs_objectives=False):
    """Raises ValueError unless a method has something that would be changed."""
    is_method = isinstance(method, Method)
    others = is_method and not needs_objectives and method.shallow_label_weight is not None
    if not is_method or not (method.objectives or others):
        shown = repr(method.name if is_method else method)
        raise ValueError(
            "`method` must be a sd_keras.methods.Method with terms besides the labels of the "
            f"deepest exit. Received: method={shown}"
        )


def _in_time(method, suffix, schedule, shallow_weight, steps):
    """Returns a method in turn with labels alone.

    Args:
        method: a `Method`.
        suffix: of the new one's name.
        schedule: class of two values, `Switch` or `Alternating`.
        shallow_weight: weight of the shallow exits' labels while there are labels alone.
        steps: of the schedule.
    """
    _check(method)
    shallow = method.shallow_label_weight
    objectives = []
    for objective in method.objectives:
        objective = copy.copy(objective)
        objective.weight = schedule(objective.weight, 0.0, steps)
        objectives.append(objective)
    return dataclasses.replace(
        method,
        name=f"{method.name}_{suffix}",
        objectives=tuple(objectives),
        shallow_label_weight=None if shallow is None else schedule(shallow, shallow_weight, steps),
        label_weight=schedule(method.label_weight, 1.0, steps),
    )
