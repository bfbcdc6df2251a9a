"""Thresholds that keep a promise on new images: of accuracy, of cost, or of both.

The best of many policies was also the luckiest. So one half of the rows gives the curve, and on
the other half its policies are tested in a fixed order, from the safest on, up to the first that
fails (Angelopoulos et al. 2021, "Learn then Test", fixed sequence testing). A policy passes by the
tests of `Outcome`, at the confidence level that is asked for.
"""

import statistics

import numpy as np

from sd_keras.inference.arrays import class_numbers, exits_of
from sd_keras.inference.curves import curve
from sd_keras.inference.policy import Policy, measures

# Policies that are tested one after the other. Neighbours of more would hardly differ.
TESTED = 200


def choose_thresholds(
    logits,
    labels,
    costs,
    rule="max_probability",
    max_drop=None,
    max_cost=None,
    temperatures=None,
    confidence_level=0.95,
    seed=0,
):
    """Chooses on held-out images the thresholds that keep a promise on new ones.

    Args:
        logits, labels, costs, rule, temperatures: as of `curve`, of images neither trained on
            nor measured on afterwards.
        max_drop: of the accuracy below the deepest exit's, a share of 1; asks for the cheapest
            policy that keeps it. No row leaves early if nothing else does.
        max_cost: average, in the unit of the costs; without `max_drop` it asks for the most
            accurate policy that keeps it, with it the cheapest must.
        confidence_level: above 0.5, below 1: how often either promise is kept on the population
            of the images. None or 0 takes what keeps it on these very rows, all of them, which on
            new ones holds about as often as not, or less.
        seed: of the halves of the rows.

    Returns:
        An `Outcome`: the policy, and what it comes to on the rows that it was tested on.

    Raises:
        ValueError: if no policy passes, or an argument does not fit.
    """
    check_promise(max_drop, max_cost, confidence_level)
    confidence_level = confidence_level or None
    exits = exits_of(logits)
    labels = class_numbers(labels, *exits[0].shape)
    search = proof = np.arange(len(labels))
    if confidence_level is not None:
        if len(labels) < 2:
            raise ValueError(
                f"`labels` must be of at least 2 rows, for two halves. Received: {len(labels)} rows"
            )
        order = np.random.default_rng(seed).permutation(len(labels))
        search, proof = (np.sort(half) for half in np.split(order, [len(labels) // 2]))
    swept = curve([z[search] for z in exits], labels[search], costs, rule, temperatures)
    policies = _from_the_safest(swept, max_drop, confidence_level)
    outcomes = measures([z[proof] for z in exits], labels[proof], costs, policies)
    errors = statistics.NormalDist().inv_cdf(confidence_level or 0.5)
    # Where both are asked for, the order is that of the drop, and the cost is looked at last.
    cost = max_cost if max_drop is None else None
    last = None
    for outcome in outcomes:
        nearest = last or outcome
        if not _keeps(outcome, max_drop, cost, errors):
            break
        last = nearest = outcome
    if last is None or not _keeps(last, max_drop, max_cost, errors):
        drop = nearest.drop + errors * nearest.drop_standard_error
        cost = nearest.cost + errors * nearest.cost_standard_error
        raise ValueError(
            "`max_drop` and `max_cost` must be within reach. The nearest policy has a drop of "
            f"{nearest.drop:.4f} ({drop:.4f} with its margin) and costs {nearest.cost:g} "
            f"({cost:g} with its margin). Received: max_drop={max_drop!r}, max_cost={max_cost!r}"
        )
    return last


def check_promise(max_drop, max_cost, confidence_level):
    """Raises ValueError for a promise that `choose_thresholds` does not take."""
    if max_drop is None and max_cost is None:
        raise ValueError(
            "`max_drop` or `max_cost` must be given. Received: max_drop=None, max_cost=None"
        )
    for name, value in (("max_drop", max_drop), ("max_cost", max_cost)):
        if value is not None and not np.isfinite(value):
            raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    if max_drop is not None and not -1 < max_drop < 1:
        raise ValueError(
            "`max_drop` must be a share of 1, above -1 and below 1, such as 0.01 for a point. "
            f"Received: max_drop={max_drop!r}"
        )
    if confidence_level and not 0.5 < confidence_level < 1:
        raise ValueError(
            "`confidence_level` must be above 0.5 and below 1, or 0 for no promise. "
            f"Received: confidence_level={confidence_level!r}"
        )


def explain_no_early_exit(shares, drops, confidence_level, rows):
    """Returns a line that says why no row leaves early, and what helps; None if some do.

    Args:
        shares: of the rows that leave at each exit, one list per drop.
        drops: `max_drop` of each; None for no such promise.
        confidence_level: of `choose_thresholds`.
        rows: number of labelled images.
    """
    pairs = [(drop, each) for drop, each in zip(drops, shares) if drop is not None]
    kept = [f"{100 * drop:g} %" for drop, each in pairs if not any(each[:-1])]
    if not confidence_level or not kept:
        return None
    return (
        f"no image leaves early at a drop of {', '.join(kept)}: {rows} validation images do not "
        f"prove it for {100 * confidence_level:g} of 100 times. What helps: more validation "
        "images, a larger max_drop, or confidence_level=0"
    )


def _from_the_safest(swept, max_drop, confidence_level):
    """Returns the policies of a curve in the order in which they are tested."""
    count = len(swept.cost)
    if confidence_level is not None:
        count = min(count, TESTED)
    indices = np.unique(np.linspace(0, len(swept.cost) - 1, count).round().astype(int))
    policies = [swept.policy(index) for index in indices]
    if max_drop is None:
        return policies  # the cheapest first
    # Not on the curve where a cheaper policy is as accurate, but alone sure of no drop.
    never = Policy(swept.rule, (None,) * swept.thresholds.shape[1], swept.temperatures)
    return [never] * (max_drop >= 0) + policies[::-1]


def _keeps(outcome, max_drop, max_cost, errors):
    """Returns whether a policy is known to keep the promise, by `errors` standard errors."""
    keeps_drop = max_drop is None or outcome.drop_is_below(max_drop, errors)
    return keeps_drop and (max_cost is None or outcome.cost_is_below(max_cost, errors))
