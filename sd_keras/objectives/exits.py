"""Objectives between the exits of one network (Be Your Own Teacher)."""

import keras

from sd_keras import losses
from sd_keras.objectives.base import Objective, Softened, count_exits


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitKL(Softened):
    """Σ_i KL(q_C ‖ q_i) from the deepest exit to every shallow one (BYOT eq. 3).

    Adds over views. The deepest exit is detached.
    """

    min_exits = 2

    def __init__(self, weight=0.5, temperature=3.0, scaling="T2", name="exit_kl"):
        super().__init__(weight, temperature, scaling, name)

    def call(self, labels, views):
        del labels
        terms = []
        for outputs in views:
            deepest = count_exits(outputs)
            for index in range(1, deepest):
                terms.append(
                    losses.kl_divergence(
                        outputs[f"exit_{deepest}"],
                        outputs[f"exit_{index}"],
                        self.temperature,
                        self.scaling,
                    )
                )
        return sum(terms)


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitHint(Objective):
    """Σ_i ‖F_i − F_C‖²₂ from the deepest features to every shallow exit's (BYOT eq. 4).

    Adds over views. The deepest features are detached.
    """

    min_exits = 2

    def __init__(self, weight=6.4e-5, name="exit_hint"):
        super().__init__(weight, name)

    def call(self, labels, views):
        del labels
        terms = []
        for outputs in views:
            deepest = count_exits(outputs)
            target = outputs[f"features_{deepest}"]
            for index in range(1, deepest):
                terms.append(losses.hint(target, outputs[f"features_{index}"]))
        return sum(terms)
