"""Methods: the papers' names for lists of objectives and a number of views."""

from sd_keras.methods.method import Complement, Method
from sd_keras.methods.papers import (
    DISCREPANCIES,
    attention_transfer,
    baseline,
    be_your_own_teacher,
    class_wise,
    data_distortion,
    deep_mutual_learning,
    deep_supervision,
    fitnet,
    knowledge_distillation,
    label_smoothing,
    progressive,
    teacher_free,
    two_branch,
)
from sd_keras.methods.variations import alternating, balanced, deepest_last

METHODS = {
    method.__name__: method
    for method in (
        baseline,
        two_branch,
        deep_supervision,
        be_your_own_teacher,
        data_distortion,
        knowledge_distillation,
        fitnet,
        attention_transfer,
        deep_mutual_learning,
        label_smoothing,
        teacher_free,
        class_wise,
        progressive,
    )
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
