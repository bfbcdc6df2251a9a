"""Accuracy against cost: what leaving at an exit costs, and the best policies on labelled images.

Thresholds are searched with rows counted by the bins of their confidences, so that sums over the
bins give the accuracy and the cost of every combination of a grid of thresholds at once; from
the best of these each threshold is moved alone over a finer grid.
"""

import collections
import math
from dataclasses import dataclass

import numpy as np

from sd_keras import graph
from sd_keras.costs import Measured, one_image
from sd_keras.inference.arrays import class_numbers, exits_of, per_exit
from sd_keras.inference.policy import Policy, confidences, predictions, temperatures_of
from sd_keras.models.exits import exit_names

# Combinations of thresholds that are tried together, and steps of one that is moved alone.
COMBINATIONS = 300_000
FINE_STEPS = 1000
# How many of the best are refined, and how often.
STARTS = 48
ROUNDS = 2
MOST_EXITS = 16

# Thresholds (m, C − 1), accuracy (m,) and average cost (m,) of m policies.
Front = collections.namedtuple("Front", "thresholds accuracy cost")


@dataclass(frozen=True, eq=False)
class Curve:
    """The best policies that were found, by rising cost and rising accuracy.

    Attributes:
        rule, temperatures: of all of them, see `Policy`.
        thresholds: `(m, C − 1)`.
        accuracy: `(m,)`, shares of 1.
        cost: `(m,)`, average over the rows, in the unit of the costs.
    """

    rule: str
    temperatures: tuple
    thresholds: np.ndarray
    accuracy: np.ndarray
    cost: np.ndarray

    def policy(self, index):
        """Returns one of them as a `Policy`."""
        return Policy(self.rule, tuple(self.thresholds[index].tolist()), self.temperatures)


def curve(logits, labels, costs, rule="max_probability", temperatures=None):
    """Sweeps the thresholds and keeps the best: accuracy against average cost.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list; C at most 16.
        labels: class numbers `(n,)`.
        costs: what a row costs that leaves at each exit, C numbers of at least 0 or a dict: of
            `path_costs`, milliseconds, or what you like.
        rule: one of `RULES`.
        temperatures: C numbers, for instance of `fit_temperatures`; None for 1.

    Returns:
        A `Curve`.

    Raises:
        ValueError: for an argument that does not fit.
    """
    exits = exits_of(logits)
    labels = class_numbers(labels, *exits[0].shape)
    costs = per_exit("costs", costs, len(exits))
    temperatures = tuple(temperatures_of(temperatures, len(exits)).tolist())
    sure = confidences(exits, rule, temperatures)[:-1]
    front = best_thresholds(sure, predictions(exits) == labels, costs)
    return Curve(rule, temperatures, *front)


def path_costs(network, input_shape=None):
    """Counts the multiply-accumulates of a row that leaves at each exit.

    An early exit asks one exit after the other: the cost of leaving at exit k holds the
    backbone up to it and the bottlenecks and classifiers of the exits 1 … k, whereas
    `analysis.costs` counts each exit without the shallower ones.

    Args:
        network: functional model, made by `attach_exits`.
        input_shape: size of the image, where the network takes any.

    Returns:
        A dict from `exit_1 … exit_C` to multiply-accumulates, rising.

    Raises:
        ValueError: for a network without exits, or one that cannot be counted.
    """
    names = exit_names(network)
    functional = graph.as_functional(network)
    measured = Measured(functional, one_image(functional, input_shape))
    logits = [functional.output[name] for name in names]
    return {name: measured.total(logits[: index + 1]).macs for index, name in enumerate(names)}


def best_thresholds(confidence, correct, costs):
    """Finds policies such that none found is both cheaper and more accurate.

    With so few distinct confidences that all combinations fit into `COMBINATIONS`, these are
    the best of all.

    Args:
        confidence: `(C − 1, n)`, of the shallow exits; n at least 1.
        correct: bool `(C, n)`, whether each exit is right.
        costs: `(C,)`, of leaving at each exit.

    Returns:
        A `Front`, by rising cost and rising accuracy.
    """
    if len(correct) > MOST_EXITS:
        raise ValueError(
            f"`logits` must be those of at most {MOST_EXITS} exits. Received: {len(correct)} exits"
        )
    count = int(COMBINATIONS ** (1 / max(1, len(confidence)))) - 2
    front = _of_grid(confidence, correct, costs, [levels(c, count) for c in confidence])
    fine = [levels(c, FINE_STEPS) for c in confidence]
    bins = [_bins(c, grid) for c, grid in zip(confidence, fine)]
    for _ in range(ROUNDS):
        chosen = np.unique(np.linspace(0, len(front.cost) - 1, STARTS).astype(int))
        found = [front]
        for start in front.thresholds[chosen]:
            for index in range(len(confidence)):
                found.append(_moved(confidence, correct, costs, start, index, fine, bins))
        merged = Front(*(np.concatenate(parts) for parts in zip(*found)))
        best = _pareto_indices(merged.accuracy, merged.cost)
        front = Front(*(part[best] for part in merged))
    return front


def levels(confidence, count):
    """Returns thresholds to try: 0, at most `count` between distinct confidences, infinity.

    They stand in the middle between two confidences, where rounding changes no decision, and
    divide the rows evenly where there are more distinct confidences than `count`.
    """
    ordered = np.sort(confidence)
    below = np.flatnonzero(np.diff(ordered) > 0)
    count = max(count, 1)
    if len(below) > count:
        ranks = np.linspace(0, len(ordered), count + 2)[1:-1]
        below = below[np.unique(np.searchsorted(below, ranks).clip(max=len(below) - 1))]
    low, high = ordered[below], ordered[below + 1]
    if ordered.dtype.kind in "iu":
        return np.concatenate([[0.0], high, [np.inf]])  # counts: the number itself
    middle = low + (high - low) / 2
    return np.concatenate([[0.0], np.where(middle > low, middle, high), [np.inf]])


def _bins(confidence, grid):
    """Number of levels that each row reaches, 1…len(levels) − 1: it leaves at those before."""
    return np.searchsorted(grid, confidence, side="right")


def _of_grid(confidence, correct, costs, grids):
    """Returns the front among all combinations of the exits' thresholds."""
    shape = tuple(len(grid) for grid in grids)
    bins = [_bins(c, grid) for c, grid in zip(confidence, grids)]
    right, spent = np.zeros(shape), np.zeros(shape)
    for index, own in enumerate(correct):
        axes = min(index + 1, len(grids))
        for total, weight in ((right, own), (spent, np.full(len(own), costs[index]))):
            left = _leaving(bins[:axes], shape[:axes], weight, is_last=index == len(grids))
            total += left.reshape(shape[:axes] + (1,) * (len(shape) - axes))
    rows = correct.shape[1]
    chosen = _pareto_indices(right.ravel(), spent.ravel())
    places = np.unravel_index(chosen, shape) if shape else ()
    thresholds = np.stack([grid[p] for grid, p in zip(grids, places)] or [[]], axis=-1)
    thresholds = thresholds.reshape(len(chosen), len(grids))
    return Front(thresholds, right.ravel()[chosen] / rows, spent.ravel()[chosen] / rows)


def _leaving(bins, shape, weight, is_last):
    """Sums the weight of the rows that leave at an exit, by the thresholds up to it."""
    index = np.ravel_multi_index(bins, shape) if shape else np.zeros(len(weight), int)
    counts = np.bincount(index, weight, math.prod(shape)).reshape(shape)
    # Rows that stay at a threshold are those in the bins up to it.
    for axis in range(len(shape) if is_last else len(shape) - 1):
        counts = counts.cumsum(axis=axis)
    if is_last:
        return counts
    return counts.sum(axis=-1, keepdims=True) - counts.cumsum(axis=-1)


def _moved(confidence, correct, costs, start, index, fine, bins):
    """Returns all policies that differ from `start` in the threshold of one exit."""
    leaves = confidence >= start[:, None]
    rows = np.flatnonzero(~leaves[:index].any(axis=0))
    deeper = np.vstack([leaves[index + 1 :, rows], np.ones(len(rows), bool)])
    onward = index + 1 + deeper.argmax(axis=0)
    steps, reached = fine[index], bins[index][rows]
    gain = correct[index, rows] - correct[onward, rows].astype("float64")
    saved = costs[index] - costs[onward]
    # Right answers and cost if no row left at this exit.
    used = np.vstack([leaves, np.ones(leaves.shape[1], bool)]).argmax(axis=0)
    used[rows] = onward
    right = correct[used, np.arange(len(used))].sum() + _at_least(reached, gain, len(steps))
    spent = costs[used].sum() + _at_least(reached, saved, len(steps))
    thresholds = np.repeat(start[None], len(steps), axis=0)
    thresholds[:, index] = steps
    return Front(thresholds, right / correct.shape[1], spent / correct.shape[1])


def _at_least(bins, weight, count):
    """Sums the weight of the rows that leave at each of `count` levels."""
    sums = np.bincount(bins, weight, count)
    return sums.sum() - sums.cumsum()


def _pareto_indices(accuracy, cost):
    """Returns the indices of the best, by rising cost; of equal ones the first."""
    # Sums in another order differ in the last digits, which would make a front of equals.
    scale = cost.max() or 1.0
    accuracy, cost = accuracy.round(9), (cost / scale).round(9)
    order = np.lexsort((-accuracy, cost))
    best = np.maximum.accumulate(accuracy[order])
    return order[np.concatenate([[True], best[1:] > best[:-1]])]
