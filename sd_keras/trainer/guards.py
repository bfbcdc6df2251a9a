"""What is checked around every step: labels in range, loss finite and not blown up."""

import math

from sd_keras.divergence import LossBlowUpError, NonFiniteLossError
from sd_keras.trainer.labels import HIGH, LOW, range_message


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
        made = model.position.advance(model.steps_per_execution) if training else 0
        what = _diverged(model, logs, made) if training else None
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


def _diverged(model, logs, made):
    """Returns None, or the function that makes the error of `made` steps out of their number."""
    loss, limit = float(logs["loss"]), model.position.max_loss
    if not math.isfinite(loss):
        terms = [n for n in model.term_names if n in logs and not math.isfinite(float(logs[n]))]
        return lambda step: NonFiniteLossError(step, terms)
    if limit is None:
        return None
    last = model.position.loss_of(made, loss)
    return (lambda step: LossBlowUpError(step, last, limit)) if last > limit else None


def _recovered(model, is_jax):
    """Returns what a step function returns, of the state that was put back."""
    logs = {name: float(value) for name, value in model.get_metrics_result().items()}
    if not is_jax:
        return logs
    return logs, model.hand_out()
