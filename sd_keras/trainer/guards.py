"""What is checked around every step: labels in range, loss finite."""

import math

from sd_keras.trainer.labels import HIGH, LOW, range_message


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite.

    Attributes:
        step: the training step, counted from 1 over the model's whole life.
        terms: names of the loss terms that are not finite.
    """

    def __init__(self, step, terms):
        self.step = step
        self.terms = terms
        super().__init__(
            f"the loss is not finite at training step {step}; terms that are not: "
            f"{', '.join(terms) or 'none, only their sum or a regularizer'}. "
            "A lower learning rate or a warm-up usually helps; the model's weights are no "
            "longer usable, so go on from a checkpoint."
        )


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
        diverged = training and not math.isfinite(float(logs["loss"]))
        if (out_of_range or diverged) and isinstance(result, tuple):
            # On JAX the step has consumed the model's variables; without the new ones it
            # could not be used, nor saved, after the error.
            model.take_back(result[1], training)
        if out_of_range:
            raise ValueError(range_message(low, high, model.num_classes))
        if diverged:
            terms = [n for n in model.term_names if n in logs and not math.isfinite(float(logs[n]))]
            raise NonFiniteLossError(int(model.step.numpy()), terms)
        return result

    return checked
