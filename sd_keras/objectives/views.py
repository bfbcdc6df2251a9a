"""Objectives between two views of the same images (data-distortion guided self-distillation).

Besides the paper's terms, other measures of how far apart two views' features are."""

import keras
from keras import ops

from sd_keras import losses
from sd_keras.objectives.base import Objective, Softened, check_exits, compared_exits


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewKL(Softened):
    """KL(p_b ‖ p_a) + KL(p_a ‖ p_b) between two views, targets detached (DDGSD eq. 5)."""

    num_views = 2

    def __init__(
        self, weight=1.0, temperature=3.0, scaling="none", exits="deepest", name="view_kl"
    ):
        super().__init__(weight, temperature, scaling, name)
        check_exits(exits)
        self.exits = exits

    def call(self, labels, views):
        del labels
        a, b = views
        return sum(
            losses.symmetric_kl_divergence(
                a[f"exit_{index}"], b[f"exit_{index}"], self.temperature, self.scaling
            )
            for index in compared_exits(a, self.exits)
        )

    def get_config(self):
        return super().get_config() | {"exits": self.exits}


class ViewDiscrepancy(Objective):
    """Base: how far apart two views' features are, added over the exits compared.

    A statistic of the batch, given to each of its examples alike.
    """

    num_views = 2

    def __init__(self, weight, exits, name):
        super().__init__(weight, name)
        check_exits(exits)
        self.exits = exits

    def discrepancy(self, features_a, features_b):
        """Returns a scalar for two batches of features `(n, d)`."""
        raise NotImplementedError

    def call(self, labels, views):
        del labels
        a, b = views
        value = sum(
            self.discrepancy(a[f"features_{index}"], b[f"features_{index}"])
            for index in compared_exits(a, self.exits)
        )
        return ops.broadcast_to(value, (ops.shape(a["exit_1"])[0],))

    def get_config(self):
        return super().get_config() | {"exits": self.exits}


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewMMD(ViewDiscrepancy):
    """‖mean h(x_a) − mean h(x_b)‖²₂ between two views' features (DDGSD eq. 4)."""

    def __init__(self, weight=5e-4, exits="deepest", name="view_mmd"):
        super().__init__(weight, exits, name)

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
        super().__init__(weight, exits, name)
        losses.check_factors(factors)
        self.factors = list(factors)

    def discrepancy(self, features_a, features_b):
        return losses.multi_kernel_discrepancy(features_a, features_b, self.factors)

    def get_config(self):
        return super().get_config() | {"factors": self.factors}


@keras.saving.register_keras_serializable(package="sd_keras")
class ViewCORAL(ViewDiscrepancy):
    """‖C_a − C_b‖²_F / (4 d²) of the features' covariances (Sun & Saenko 2016).

    Args:
        weight, exits, name: as `ViewMMD`.
    """

    def __init__(self, weight=0.5, exits="deepest", name="view_coral"):
        super().__init__(weight, exits, name)

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
        super().__init__(weight, exits, name)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"`k` must be an integer of at least 1. Received: k={k!r}")
        self.k = k

    def discrepancy(self, features_a, features_b):
        return losses.top_k_discrepancy(features_a, features_b, self.k)

    def get_config(self):
        return super().get_config() | {"k": self.k}
