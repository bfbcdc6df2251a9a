"""What a policy comes to on labelled images."""

from dataclasses import dataclass

import numpy as np

from sd_keras.inference.arrays import class_numbers, exits_of, per_exit
from sd_keras.inference.policy import Policy, check_exits, confidences, predictions


@dataclass(frozen=True)
class Outcome:
    """What a policy comes to on labelled images.

    Attributes:
        policy: the `Policy`.
        accuracy: share of rows answered rightly.
        deepest_accuracy: the same of the deepest exit alone.
        drop: deepest_accuracy − accuracy.
        drop_standard_error: of the drop, which is paired: both answer the same rows. Half a
            row is added to each cell of the table of who is right (Agresti & Min 2005), so
            that few rows without a difference do not count as proof.
        cost: average, in the unit of the costs.
        cost_standard_error: of that.
        shares: of the rows that leave at each exit, a tuple of C.
        lost, won: numbers of rows that only the deepest exit, or only the policy, gets right.
        rows: number of all rows.
    """

    policy: Policy
    accuracy: float
    deepest_accuracy: float
    drop: float
    drop_standard_error: float
    cost: float
    cost_standard_error: float
    shares: tuple
    lost: int
    won: int
    rows: int

    @property
    def is_exact(self):
        """Whether no row can leave early, so that drop and cost are known, not estimated."""
        return not np.isfinite(self.policy.thresholds).any()

    def drop_is_below(self, limit, errors):
        """Tests whether the drop on new rows is at most `limit`.

        The score test of a difference of two shares of the same rows (Tango 1998), with half a
        row against the promise since counts are whole: plain standard errors are too small
        where few rows differ.

        Args:
            limit: share of 1, above −1 and below 1.
            errors: quantile of the normal distribution for the confidence level; 0 takes the
                rows as they come.
        """
        if self.is_exact or errors == 0:
            return self.drop <= limit
        linear = (2 * self.rows - self.lost + self.won) * limit - self.lost - self.won
        root = np.sqrt(linear**2 + 8 * self.rows * self.won * limit * (1 - limit))
        won = (root - linear) / (4 * self.rows)  # share that a drop of `limit` makes likeliest
        error = np.sqrt(max(0.0, self.rows * (2 * won + limit * (1 - limit))))
        surplus = self.lost - self.won + 0.5 - self.rows * limit
        return bool(surplus <= -errors * error and surplus < 0)

    def cost_is_below(self, limit, errors):
        """Tests whether the average cost on new rows is at most `limit`; arguments alike."""
        error = 0.0 if self.is_exact else self.cost_standard_error
        return self.cost + errors * error <= limit


def measure(logits, labels, costs, policy):
    """Measures what a policy comes to on labelled images.

    Args:
        logits, labels, costs: as of `curve`.
        policy: a `Policy` for C exits.

    Returns:
        An `Outcome`.

    Raises:
        ValueError: for an argument that does not fit.
    """
    return next(measures(logits, labels, costs, [policy]))


def measures(logits, labels, costs, policies):
    """Yields the `Outcome` of policies that share rule and temperatures, measured once."""
    exits = exits_of(logits)
    labels = class_numbers(labels, *exits[0].shape)
    costs = per_exit("costs", costs, len(exits))
    check_exits(policies[0], len(exits))
    correct = predictions(exits) == labels
    sure = confidences(exits, policies[0].rule, policies[0].temperatures)
    for policy in policies:
        yield _outcome(policy, policy.first_exits(sure), correct, costs)


def _outcome(policy, used, correct, costs):
    rows = len(used)
    right, deepest = correct[used, np.arange(rows)], correct[-1]
    counts = np.bincount(used, minlength=len(costs))
    spent = costs[used]
    lost, won = int((deepest & ~right).sum()), int((right & ~deepest).sum())
    drop_error = 0.0
    if counts[-1] < rows:  # half a row more in each cell: see `Outcome`
        drop_error = np.sqrt(lost + won + 1 - (lost - won) ** 2 / (rows + 2)) / (rows + 2)
    return Outcome(
        policy=policy,
        accuracy=float(right.mean()),
        deepest_accuracy=float(deepest.mean()),
        drop=float(deepest.mean() - right.mean()),
        drop_standard_error=float(drop_error),
        cost=float(spent.mean()),
        # With two rows more, at the ends, so that rows that all leave at one exit are no proof.
        cost_standard_error=float(np.append(spent, costs[[0, -1]]).std() / rows**0.5),
        shares=tuple((counts / rows).tolist()),
        lost=lost,
        won=won,
        rows=rows,
    )
