"""Objectives within a network: between exits, between views, or on smoothed targets."""

import keras
from keras import ops

from sd_keras import losses
from sd_keras.objectives.base import Objective, Softened, compared_exits, count_exits, deepest


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitKL(Softened):
    """Σ_i KL(q_C ‖ q_i) from the deepest exit to every shallow one (BYOT eq. 3).

    Adds over views. The deepest exit is detached.
    """

    min_exits = 2

    def __init__(self, weight=0.5, temperature=3.0, scaling="T2", name="exit_kl"):
        super().__init__(weight, temperature, scaling, name)

    def call(self, labels, views):
        return sum(
            self.kl(deepest(view), view[f"exit_{index}"])
            for view in views
            for index in range(1, count_exits(view))
        )


@keras.saving.register_keras_serializable(package="sd_keras")
class ExitHint(Objective):
    """Σ_i ‖F_i − F_C‖²₂ from the deepest features to every shallow exit's (BYOT eq. 4).

    Adds over views. The deepest features are detached.
    """

    min_exits = 2

    def __init__(self, weight=6.4e-5, name="exit_hint"):
        super().__init__(weight, name)

    def call(self, labels, views):
        return sum(
            losses.hint(view[f"features_{count_exits(view)}"], view[f"features_{index}"])
            for view in views
            for index in range(1, count_exits(view))
        )


@keras.saving.register_keras_serializable(package="sd_keras")
class UniformCrossEntropy(Objective):
    """−1/K Σ_k log p_k, what label smoothing adds (Szegedy et al. 2016, section 7)."""

    def __init__(self, weight=0.1, name="uniform_cross_entropy"):
        super().__init__(weight, name)

    def call(self, labels, views):
        return sum(losses.uniform_cross_entropy(deepest(view)) for view in views)


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
            logits = deepest(view)
            classes = logits.shape[-1]
            target = losses.virtual_teacher_logits(labels, classes, self.correct_probability)
            terms.append(self.kl(target, logits))
        return sum(terms)


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
        image, partner = views
        return self.kl(deepest(partner), deepest(image))


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewKL(Softened):
    """KL(p_b ‖ p_a) + KL(p_a ‖ p_b) between two views, targets detached (DDGSD eq. 5)."""

    num_views = 2

    def __init__(
        self, weight=1.0, temperature=3.0, scaling="none", exits="deepest", name="view_kl"
    ):
        super().__init__(weight, temperature, scaling, name, exits)

    def call(self, labels, views):
        a, b = views
        return sum(
            self.symmetric_kl(a[f"exit_{index}"], b[f"exit_{index}"])
            for index in compared_exits(a, self.exits)
        )


class ViewDiscrepancy(Objective):
    """Base: how far apart two views' features are, added over the exits compared.

    A statistic of the batch, given to each of its examples alike.
    """

    num_views = 2

    def discrepancy(self, features_a, features_b):
        """Returns a scalar for two batches of features `(n, d)`."""
        raise NotImplementedError

    def call(self, labels, views):
        a, b = views
        value = sum(
            self.discrepancy(a[f"features_{index}"], b[f"features_{index}"])
            for index in compared_exits(a, self.exits)
        )
        return ops.broadcast_to(value, (ops.shape(a["exit_1"])[0],))


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewMMD(ViewDiscrepancy):
    """‖mean h(x_a) − mean h(x_b)‖²₂ between two views' features (DDGSD eq. 4)."""

    def __init__(self, weight=5e-4, exits="deepest", name="view_mmd"):
        super().__init__(weight, name, exits)

    def discrepancy(self, features_a, features_b):
        return losses.mean_discrepancy(features_a, features_b)


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewMultiKernelMMD(ViewDiscrepancy):
    """MMD² with several Gaussian kernels (Gretton et al. 2012; Long et al. 2015).

    Args:
        weight, exits, name: as `ViewMMD`.
        factors: bandwidths as multiples of the mean squared distance.
    """

    def __init__(
        self,
        weight=0.01,
        exits="deepest",
        factors=losses.BANDWIDTH_FACTORS,
        name="view_multi_kernel_mmd",
    ):
        super().__init__(weight, name, exits)
        losses.check_factors(factors)
        self.factors = list(factors)

    def discrepancy(self, features_a, features_b):
        return losses.multi_kernel_discrepancy(features_a, features_b, self.factors)


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewCORAL(ViewDiscrepancy):
    """‖C_a − C_b‖²_F / (4 d²) of the features' covariances (Sun & Saenko 2016).

    Args:
        weight, exits, name: as `ViewMMD`.
    """

    def __init__(self, weight=0.5, exits="deepest", name="view_coral"):
        super().__init__(weight, name, exits)

    def discrepancy(self, features_a, features_b):
        return losses.coral(features_a, features_b)


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewTopKMMD(ViewDiscrepancy):
    """Linear MMD on the k features with the largest mean activation in the batch.

    Args:
        weight, exits, name: as `ViewMMD`.
        k: how many features, an integer of 1 to the width of the features.
    """

    def __init__(self, weight=5e-4, exits="deepest", k=32, name="view_top_k_mmd"):
        super().__init__(weight, name, exits)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"`k` must be an integer of at least 1. Received: k={k!r}")
        self.k = k

    def discrepancy(self, features_a, features_b):
        return losses.top_k_discrepancy(features_a, features_b, self.k)
