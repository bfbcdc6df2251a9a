"""Objectives between two views' features beside the paper's linear MMD.

Statistics of the batch, given to each of its examples alike, as `ViewMMD`. By their default
weights they pull the features about as strongly as the paper's MMD does (docs/distortions.md).
"""

import keras

from sd_keras import losses
from sd_keras.objectives.views import ViewDiscrepancy


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
