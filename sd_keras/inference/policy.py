"""A policy: how sure each exit is, which row leaves where, and what that comes to.

A rule is called with `(logits, earlier, ops)`: the logits `(n, classes)` of an exit, divided by
its temperature; the classes `(n, k − 1)` that the exits before it predicted, or None at the
first; and the module that computes, NumPy on arrays or `keras.ops` inside a graph. It returns
`(n,)`, higher for surer, and the row leaves where that is at least the exit's threshold.
"""

import collections
import math
import numbers
from dataclasses import dataclass

import numpy as np

from sd_keras.inference.arrays import blocks, class_numbers, exits_of, per_exit

SMALLEST_TEMPERATURE = 1e-6
# What `decide` returns: exits, 1 for exit_1, and how sure these were; both (n,).
Decision = collections.namedtuple("Decision", "exit confidence")


def max_probability(logits, earlier=None, ops=np):
    """Probability of the predicted class, 1/classes…1 (Hendrycks & Gimpel 2017)."""
    return ops.max(_probabilities(logits, ops), axis=-1)


def entropy(logits, earlier=None, ops=np):
    """1 − H(p) / log(classes), 0…1 (BranchyNet, Teerapittayanon et al. 2016, Algorithm 1).

    The paper lets a row leave where its entropy H is small.
    """
    p = _probabilities(logits, ops)
    # Where p is 0 in this precision its log is replaced, and p times it is 0 all the same.
    nats = ops.sum(p * ops.log(ops.where(p > 0, p, ops.ones_like(p))), axis=-1)
    return ops.clip(1 + nats / math.log(logits.shape[-1]), 0, 1)


def margin(logits, earlier=None, ops=np):
    """Probability of the first class minus that of the second, 0…1."""
    p = _probabilities(logits, ops)
    winner = ops.expand_dims(ops.argmax(p, axis=-1), -1)
    is_winner = ops.equal(ops.arange(p.shape[-1]), winner)
    return ops.max(p, axis=-1) - ops.max(ops.where(is_winner, ops.zeros_like(p), p), axis=-1)


def agreement(logits, earlier=None, ops=np):
    """How many exits in a row, right before this one, predicted the same class: 0, 1, 2, …

    PABEE's counter (Zhou et al. 2020, section 3); its patience is the threshold. 0 at exit 1.
    """
    predicted = ops.argmax(logits, axis=-1)
    if earlier is None or earlier.shape[-1] == 0:
        return ops.zeros_like(predicted)
    same = ops.equal(earlier, ops.expand_dims(predicted, -1))
    backwards = ops.flip(ops.where(same, 1, 0), axis=-1)
    return ops.sum(ops.cumprod(backwards, axis=-1), axis=-1)


RULES = {
    "max_probability": max_probability,
    "entropy": entropy,
    "margin": margin,
    "agreement": agreement,
}


def rule_named(name):
    """Returns the function of a rule."""
    if not isinstance(name, str) or name not in RULES:
        raise ValueError(f"`rule` must be one of {tuple(RULES)}. Received: rule={name!r}")
    return RULES[name]


def confidences(logits, rule="max_probability", temperatures=None):
    """Computes how sure each exit is of each row.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        rule: one of `RULES`.
        temperatures: what each exit's logits are divided by, C numbers; None for 1.

    Returns:
        `(C, n)`; float64, or integers by the rule `"agreement"`.

    Raises:
        ValueError: for an argument that does not fit.
    """
    exits = exits_of(logits)
    function = rule_named(rule)
    temperatures = temperatures_of(temperatures, len(exits))
    predicted = predictions(exits).T
    rows = [
        exit_confidence(function, z, predicted[:, :index], temperatures[index])
        for index, z in enumerate(exits)
    ]
    return np.stack(rows)


def exit_confidence(rule, logits, earlier, temperature):
    """Confidence `(n,)` of one exit, in float64 and block by block, `rule` being a function."""
    parts = [
        rule(logits[block].astype("float64") / temperature, earlier[block])
        for block in blocks(len(logits))
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def predictions(exits):
    """Classes `(C, n)` that the exits predict."""
    return np.stack([np.argmax(z, axis=1) for z in exits])


def temperatures_of(temperatures, exits):
    """Returns a positive temperature per exit, `(exits,)` float64."""
    temperatures = [1.0] * exits if temperatures is None else temperatures
    return per_exit("temperatures", temperatures, exits, SMALLEST_TEMPERATURE)


def _probabilities(logits, ops):
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    return weights / ops.sum(weights, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Policy:
    """When a row leaves: at the first exit whose confidence is at least its threshold.

    At the deepest exit all leave.

    Args:
        rule: one of `sd_keras.inference.RULES`.
        thresholds: one per shallow exit, at least 0; None or infinity where no row is to leave.
        temperatures: what the logits of each exit, the deepest too, are divided by; None for 1.

    Raises:
        ValueError: for an argument that does not fit.
    """

    rule: str
    thresholds: tuple
    temperatures: tuple | None = None

    def __post_init__(self):
        rule_named(self.rule)
        try:
            values = [np.inf if each is None else each for each in self.thresholds]
            real = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
            thresholds = tuple(float(value) for value in values) if real else (np.nan,)
        except (TypeError, OverflowError):
            thresholds = (np.nan,)
        if not all(value >= 0 for value in thresholds):
            raise ValueError(
                "`thresholds` must be numbers of at least 0, one per shallow exit, or None where "
                f"no row is to leave. Received: thresholds={self.thresholds!r}"
            )
        temperatures = temperatures_of(self.temperatures, len(thresholds) + 1)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "temperatures", tuple(temperatures.tolist()))

    @property
    def exits(self):
        """Number of exits."""
        return len(self.temperatures)

    def to_dict(self):
        """Returns what JSON can hold; a threshold that no row reaches becomes None."""
        thresholds = [None if math.isinf(each) else each for each in self.thresholds]
        return {
            "rule": self.rule,
            "thresholds": thresholds,
            "temperatures": list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, content):
        """Makes a policy of what `to_dict` returned.

        Args:
            content: dict with `rule`, `thresholds` and `temperatures`.

        Raises:
            ValueError: for other content, or values that do not fit.
        """
        names = {"rule", "thresholds", "temperatures"}
        if not isinstance(content, dict) or set(content) != names:
            received = sorted(content) if isinstance(content, dict) else content
            raise ValueError(
                f"`content` must be a dict with {sorted(names)}. Received: content={received!r}"
            )
        return cls(**content)

    def confidence(self, index, logits, earlier):
        """Confidence `(n,)` of the exit of that index, 0 for exit_1.

        `logits` is `(n, classes)`, NumPy; `earlier` the classes `(n, index)` that the exits
        before it predicted.
        """
        return exit_confidence(RULES[self.rule], logits, earlier, self.temperatures[index])

    def leaves(self, index, confidence):
        """Returns which rows leave at the exit of that index."""
        if index == len(self.thresholds):
            return np.ones(len(confidence), bool)
        return confidence >= self.thresholds[index]

    def first_exits(self, confidence):
        """Returns the index `(n,)` of the exit at which each row leaves, of `(C, n)`."""
        return np.argmax([self.leaves(k, each) for k, each in enumerate(confidence)], axis=0)


def decide(logits, policy):
    """Finds where each row would leave, given what all exits answer.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list; n may be 0.
        policy: a `Policy` for C exits.

    Returns:
        A pair `exit`, `confidence`, both `(n,)`: the exit used, 1 for exit_1, and how sure it was.

    Raises:
        ValueError: for logits that do not fit, or are not finite.
    """
    exits = exits_of(logits)
    check_exits(policy, len(exits))
    confidence = confidences(exits, policy.rule, policy.temperatures)
    used = policy.first_exits(confidence)
    sure = confidence[used, np.arange(len(used))].astype("float64")
    return Decision(used + 1, sure)


def check_exits(policy, exits):
    """Raises ValueError unless it is a policy for so many exits."""
    if not isinstance(policy, Policy) or policy.exits != exits:
        raise ValueError(
            f"`policy` must be a Policy of {exits - 1} thresholds for {exits} exits. "
            f"Received: policy={policy!r}"
        )


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
    """Measures a policy on labelled images.

    Args:
        logits: `{"exit_1": (n, classes), …}`, `(C, n, classes)` or a list.
        labels: class numbers `(n,)`.
        costs: what a row costs that leaves at each exit, C numbers of at least 0 or a dict.
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
