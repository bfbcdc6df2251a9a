"""What is raised when a training loss or weights have become useless."""


class DivergenceError(ArithmeticError):
    """The training loss became useless.

    Attributes:
        step: the training step, counted from 1 over the model's whole life.
        what: what happened, and where.
    """

    def __init__(self, step, what):
        self.step = step
        self.what = what
        super().__init__(
            f"{what}. A lower learning rate or a warm-up usually helps; the model's weights are "
            "no longer usable, so resume from a backup."
        )

    def say_more(self, reason):
        """Adds to the message why nothing could be done about it."""
        self.args = (f"{self} It was not rolled back: {reason}.",)


class NonFiniteLossError(DivergenceError):
    """The training loss became NaN or infinite.

    Attributes:
        step: the training step, counted from 1 over the model's whole life.
        terms: names of the loss terms that are not finite.
    """

    def __init__(self, step, terms):
        self.terms = terms
        named = ", ".join(terms) or "none, only their sum or a regularizer"
        where = f"the loss is not finite at training step {step}"
        super().__init__(step, f"{where}; terms that are not: {named}")


class LossBlowUpError(DivergenceError):
    """The training loss of a step was above the limit that the user set.

    Attributes:
        step: the training step, counted from 1 over the model's whole life.
        loss: of that step, or the mean of those executed together.
    """

    def __init__(self, step, loss, limit):
        self.loss = loss
        where = f"the loss is {loss:.6g} at training step {step}"
        super().__init__(step, f"{where}, above max_loss={limit:g}")
