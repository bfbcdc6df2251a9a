"""The argument `at` of `attach_exits`: names, shares of the cost, or a number of exits."""

import numbers


def wanted(at):
    """Splits the argument `at` into names and shares of the cost.

    Returns:
        A pair of lists, one of them or both empty; `(None, None)` for `at=None`.

    Raises:
        ValueError: if it is neither.
    """
    if at is None:
        return None, None
    if isinstance(at, numbers.Integral) and not isinstance(at, bool) and at >= 1:
        return [], [index / at for index in range(1, at)]
    if isinstance(at, (list, tuple)):
        if all(isinstance(place, str) for place in at):
            return list(at), []
        if all(isinstance(place, float) and 0 < place < 1 for place in at):
            if list(at) != sorted(set(at)):
                raise ValueError(
                    f"`at` must go from shallow to deep, each share once. Received: at={at!r}"
                )
            return [], list(at)
    raise ValueError(
        "`at` must be a list of names of layers, a list of shares of the cost (0 < share < 1), "
        f"or the number of exits. Received: at={at!r}"
    )
