"""A policy: which row leaves at which exit."""

import collections
import math
import numbers
import sys
from dataclasses import dataclass

import numpy as np

from sd_keras.inference.arrays import exits_of
from sd_keras.inference.confidence import exit_confidence, rule_named, temperatures_of

# What `decide` returns: exits, 1 for exit_1, and how sure these were; both (n,).
Decision = collections.namedtuple("Decision", "exit confidence")


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
        thresholds = _thresholds(self.thresholds)
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

        Raises:
            ValueError: for missing, other or wrong entries.
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

        Args:
            index: of the exit.
            logits: `(n, classes)`, NumPy.
            earlier: classes `(n, index)` that the exits before it predicted.
        """
        rule = rule_named(self.rule)
        return exit_confidence(rule, logits, earlier, self.temperatures[index])

    def leaves(self, index, confidence):
        """Tells which rows leave at the exit of that index."""
        if index == len(self.thresholds):
            return np.ones(len(confidence), bool)
        return confidence >= self.thresholds[index]


def _thresholds(thresholds):
    """Returns thresholds as a tuple of floats."""
    try:
        values = tuple(np.inf if each is None else each for each in thresholds)
    except TypeError:
        values = (np.nan,)
    is_number = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
    if not is_number or not all(
        0 <= value <= sys.float_info.max or value == np.inf for value in values
    ):
        raise ValueError(
            "`thresholds` must be numbers of at least 0, one per shallow exit, or None where no "
            f"row is to leave. Received: thresholds={thresholds!r}"
        )
    return tuple(float(value) for value in values)


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
    rows = np.arange(len(exits[0]))
    used, sure = np.zeros(len(rows), "int64"), np.zeros(len(rows))
    earlier = np.empty((len(rows), 0), "int64")
    for index, z in enumerate(exits):
        own = z[rows]
        confidence = policy.confidence(index, own, earlier)
        leaves = policy.leaves(index, confidence)
        used[rows[leaves]], sure[rows[leaves]] = index + 1, confidence[leaves]
        earlier = np.concatenate([earlier, own.argmax(axis=1)[:, None]], axis=1)[~leaves]
        rows = rows[~leaves]
    return Decision(used, sure)


def check_exits(policy, exits):
    """Raises ValueError unless it is a policy for so many exits."""
    if not isinstance(policy, Policy) or policy.exits != exits:
        raise ValueError(
            f"`policy` must be a Policy of {exits - 1} thresholds for {exits} exits. "
            f"Received: policy={policy!r}"
        )
