"""Objectives within one view: between exits (Be Your Own Teacher), or on smoothed targets."""

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


def _deepest(view):
    return view[f"exit_{count_exits(view)}"]


@keras.saving.register_keras_serializable(package="sd_keras")
class UniformCrossEntropy(Objective):
    """−1/K Σ_k log p_k, what label smoothing adds (Szegedy et al. 2016, section 7)."""

    def __init__(self, weight=0.1, name="uniform_cross_entropy"):
        super().__init__(weight, name)

    def call(self, labels, views):
        del labels
        return sum(losses.uniform_cross_entropy(_deepest(view)) for view in views)


@keras.saving.register_keras_serializable(package="sd_keras")
class VirtualTeacherKL(Softened):
    """KL(p_virtual ‖ p), both softened, from a teacher made by hand (Yuan et al. 2020, Tf-KD_reg).

    Args:
        weight: α, a number or a schedule.
        correct_probability: that the virtual teacher gives the right class, the paper's a; the
            others share the rest evenly.
        temperature: of both.
        scaling: factor. `"T2"` by default: at the paper's temperature of 20 nothing of the
            gradient would be left otherwise.
        name: of the metric.
    """

    def __init__(
        self,
        weight=0.1,
        correct_probability=0.99,
        temperature=20.0,
        scaling="T2",
        name="virtual_teacher_kl",
    ):
        super().__init__(weight, temperature, scaling, name)
        if not 0 < correct_probability < 1:
            raise ValueError(
                f"`correct_probability` of {name} must be between 0 and 1. "
                f"Received: correct_probability={correct_probability!r}"
            )
        self.correct_probability = correct_probability

    def call(self, labels, views):
        terms = []
        for view in views:
            logits = _deepest(view)
            target = losses.virtual_teacher_logits(
                labels, logits.shape[-1], self.correct_probability
            )
            terms.append(losses.kl_divergence(target, logits, self.temperature, self.scaling))
        return sum(terms)

    def get_config(self):
        return super().get_config() | {"correct_probability": self.correct_probability}


@keras.saving.register_keras_serializable(package="sd_keras")
class PartnerKL(Softened):
    """KL(p_partner ‖ p) from another image of the same class (Yun et al. 2020, CS-KD).

    The first view holds the images, the second the partners, which are constant targets.
    """

    num_views = 2
    pairs = True

    def __init__(self, weight=1.0, temperature=4.0, scaling="T2", name="partner_kl"):
        super().__init__(weight, temperature, scaling, name)

    def call(self, labels, views):
        del labels
        image, partner = views
        return losses.kl_divergence(
            _deepest(partner), _deepest(image), self.temperature, self.scaling
        )
