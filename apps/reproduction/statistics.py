"""How sure a difference between two methods is, given a few runs of each."""

import dataclasses
import math

import numpy as np

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference of means, paired by seed.

    Attributes:
        difference: mean of the differences of runs with the same seed.
        low, high: bounds of its 95 % confidence interval; NaN for a single pair.
        p: two-sided p-value of Student's paired t-test; NaN for a single pair, and where all
            pairs differ by the same, for the test lives on their spread.
        n: number of pairs.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def mean_and_deviation(values):
    """Returns mean and sample standard deviation (n − 1), which is NaN for one value."""
    values = np.asarray(values, "float64")
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def compare(values, others):
    """Compares two methods on the seeds that both were run with.

    Args:
        values, others: dicts from seed to a figure.

    Returns:
        A Comparison, or None without a common seed.
    """
    from scipy import stats  # comes with scikit-learn

    seeds = sorted(values.keys() & others.keys())
    if not seeds:
        return None
    differences = [values[seed] - others[seed] for seed in seeds]
    mean, deviation = mean_and_deviation(differences)
    n = len(seeds)
    if n == 1:
        return Comparison(mean, math.nan, math.nan, math.nan, n)
    error = deviation / math.sqrt(n)
    if error < 1e-9 * max(1.0, abs(mean)):  # rounding, of counts of images in percent
        return Comparison(mean, mean, mean, math.nan, n)
    reach = stats.t.ppf(1 - LEVEL / 2, n - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, n - 1)
    return Comparison(mean, mean - reach, mean + reach, float(p), n)


def holm(p_values):
    """Returns p-values adjusted for their number (Holm 1979), in the order given.

    Args:
        p_values: list; NaN stays NaN and does not count.
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = largest
    return adjusted


def sentence(comparison, adjusted):
    """Says whether a difference is significant.

    Args:
        comparison: a Comparison.
        adjusted: its p-value of `holm`.
    """
    if comparison.n < 2:
        return "one pair of runs: nothing can be said"
    if math.isnan(comparison.p):
        return "all pairs differ by the same: nothing can be said"
    answers = ["yes" if p < LEVEL else "no" for p in (comparison.p, adjusted)]
    return f"significant at 5 %: {answers[0]}; after Holm's correction: {answers[1]}"
