"""What is checked around every step: labels in range, loss finite and not blown up."""

import math

from sd_keras.trainer.labels import HIGH, LOW, range_message


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
            "no longer usable, so go on from a checkpoint."
        )


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


def guarded(step_function, model, training):
    """Wraps a step function of Keras's trainer so that bad steps raise.

    Works on what the function returns, logs or (logs, state), and so on every backend.
    The label range leaves the logs here and never reaches a callback.
    """

    def checked(*args):
        result = step_function(*args)
        logs = result[0] if isinstance(result, tuple) else result
        if LOW not in logs:
            return result
        low, high = float(logs.pop(LOW)), float(logs.pop(HIGH))
        out_of_range = low < 0 or high >= model.num_classes
        what = _diverged(model, logs) if training else None
        if (out_of_range or what) and isinstance(result, tuple):
            # On JAX the step has consumed the model's variables; without the new ones it
            # could not be used, nor saved, after the error.
            model.take_back(result[1], training)
        if out_of_range:
            raise ValueError(range_message(low, high, model.num_classes))
        if what:
            error = what(int(model.step.numpy()))
            if model.position.recover is None or not model.position.recover(error):
                raise error
            return _recovered(model, isinstance(result, tuple))
        return result

    return checked


def _diverged(model, logs):
    """Returns None, or the function that makes the error of a step out of its number."""
    loss, limit = float(logs["loss"]), model.position.max_loss
    if not math.isfinite(loss):
        terms = [n for n in model.term_names if n in logs and not math.isfinite(float(logs[n]))]
        return lambda step: NonFiniteLossError(step, terms)
    if limit is None:
        return None
    last = model.position.loss_of(model.steps_per_execution, loss)
    return (lambda step: LossBlowUpError(step, last, limit)) if last > limit else None


def _recovered(model, is_jax):
    """Returns what a step function returns, of the state that was put back."""
    logs = {name: float(value) for name, value in model.get_metrics_result().items()}
    if not is_jax:
        return logs
    return logs, model.hand_out()
