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
    changes = isinstance(method, Method) and (
        method.objectives or method.shallow_label_weight is not None
    )
    _check(method, changes)
    shallow = method.shallow_label_weight
    return _with_weights(
        method,
        f"{method.name}_then_deepest",
        lambda weight: Switch(weight, 0.0, steps),
        None if shallow is None else Switch(shallow, 0.0, steps),
        Switch(method.label_weight, 1.0, steps),
    )


def alternating(method, steps):
    """A method in turn with plain learning from labels at the exits that it trains.

    Args:
        method: a `Method`, which begins.
        steps: how many steps each turn lasts.
    """
    _check(method, method.objectives if isinstance(method, Method) else ())
    shallow = method.shallow_label_weight
    return _with_weights(
        method,
        f"{method.name}_alternating",
        lambda weight: Alternating(weight, 0.0, steps),
        None if shallow is None else Alternating(shallow, 1.0, steps),
        Alternating(method.label_weight, 1.0, steps),
    )


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
    _check(method, method.objectives if isinstance(method, Method) else ())
    name = f"{method.name}_balanced"
    return dataclasses.replace(method, name=name, balance=float(share))


def _check(method, changes):
    """Raises ValueError unless a method has something that would be changed."""
    if not changes:
        shown = repr(method.name if isinstance(method, Method) else method)
        raise ValueError(
            "`method` must be a sd_keras.methods.Method with terms besides the labels of the "
            f"deepest exit. Received: method={shown}"
        )


def _with_weights(method, name, change, shallow_label_weight, label_weight):
    """Returns a method with other weights; `change` makes an objective's new one."""
    objectives = []
    for objective in method.objectives:
        objective = copy.copy(objective)
        objective.weight = change(objective.weight)
        objectives.append(objective)
    return dataclasses.replace(
        method,
        name=name,
        objectives=tuple(objectives),
        shallow_label_weight=shallow_label_weight,
        label_weight=label_weight,
    )
