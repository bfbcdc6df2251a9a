"""Objectives between a network and another one: a teacher, a peer, or its own past."""

import keras
from keras import layers

from sd_keras import losses
from sd_keras.layers.bottleneck import kernel_initializer
from sd_keras.objectives.base import Objective, Softened, compared_exits, deepest


@keras.saving.register_keras_serializable(package="sd_keras")
class TeacherKL(Softened):
    """KL(p_teacher ‖ p) of softened probabilities (Hinton et al. 2015, section 2).

    Adds over views, each of which the teacher sees, too, and over exits.

    Args:
        weight: a number or a schedule.
        temperature: T of both networks.
        scaling: factor, `"T2"` as Hinton et al. advise.
        exits: `"deepest"`, or `"all"` for every exit to learn from the teacher.
        name: of the metric.
    """

    companion = "teacher"
    needed_outputs = ("teacher_logits",)

    def __init__(
        self, weight=0.9, temperature=4.0, scaling="T2", exits="deepest", name="teacher_kl"
    ):
        super().__init__(weight, temperature, scaling, name, exits)

    def call(self, labels, views):
        return sum(
            self.kl(view["teacher_logits"], view[f"exit_{index}"])
            for view in views
            for index in compared_exits(view, self.exits)
        )


@keras.saving.register_keras_serializable(package="sd_keras")
class TeacherHint(Objective):
    """A learned regressor brings the middle map to the teacher's (Romero et al. 2015, eq. 3).

    Half the squared distance as a mean over positions and channels; the paper has the sum. The
    regressor, a 1x1 convolution with bias, is trained with the network and saved with the
    `SelfDistillModel`. The map is the middle one of those sizes that both networks have, of an
    even number of sizes the shallower.
    """

    companion = "teacher"
    maps = True

    def __init__(self, weight=10.0, name="teacher_hint"):
        super().__init__(weight, name)

    @property
    def needed_outputs(self):
        return (f"{self.name}_regressed",)

    def adapter(self, shapes):
        """Returns the regressor and the names of what it reads and of the target.

        Args:
            shapes: dict from `map_k` and `teacher_map_k` to shapes, k from 1, large to small.
        """
        middle = (len(shapes) // 2 + 1) // 2
        own, target = f"map_{middle}", f"teacher_map_{middle}"
        regressor = layers.Conv2D(
            shapes[target][-1],
            1,
            kernel_initializer=kernel_initializer(),
            data_format="channels_last",
            name=f"{self.name}_regressor",
        )
        regressor.build(shapes[own])
        return regressor, own, target

    def call(self, labels, views):
        key = self.needed_outputs[0]
        return sum(losses.map_distance(view[f"{key}_target"], view[key]) for view in views)


@keras.saving.register_keras_serializable(package="sd_keras")
class AttentionTransfer(Objective):
    """½ Σ_j ‖Q_j/‖Q_j‖ − Q_j^T/‖Q_j^T‖‖² over maps (Zagoruyko & Komodakis 2017, eq. 2).

    Q is the sum of squares over channels of the last map of each size that both networks have.
    Squared, and a mean over positions, as the paper's β of 1000 is divided by the number of
    elements: its un-squared norm has no gradient at 0.
    """

    companion = "teacher"
    maps = True
    needed_outputs = ("teacher_map_1",)

    def __init__(self, weight=1000.0, name="attention"):
        super().__init__(weight, name)

    def call(self, labels, views):
        return sum(
            losses.attention_distance(view[name], view[name.removeprefix("teacher_")]) / 2
            for view in views
            for name in view
            if name.startswith("teacher_map_")
        )


@keras.saving.register_keras_serializable(package="sd_keras")
class PeerKL(Softened):
    """KL(p_peer ‖ p) + KL(p ‖ p_peer), each for one of two networks (Zhang et al. 2018).

    Targets are detached, so each network learns from its own term only. Both are updated in the
    same step; the paper updates one after the other.
    """

    companion = "peer"
    needed_outputs = ("peer_logits",)

    def __init__(self, weight=1.0, temperature=1.0, scaling="T2", name="peer_kl"):
        super().__init__(weight, temperature, scaling, name)

    def call(self, labels, views):
        return sum(self.symmetric_kl(deepest(view), view["peer_logits"]) for view in views)


@keras.saving.register_keras_serializable(package="sd_keras")
class PastCrossEntropy(Objective):
    """Cross entropy with the answers of the epoch before as targets (Kim et al. 2021)."""

    companion = "past"
    needed_outputs = ("past_logits",)

    def __init__(self, weight=0.8, name="past_cross_entropy"):
        super().__init__(weight, name)

    def call(self, labels, views):
        return sum(losses.soft_cross_entropy(view["past_logits"], deepest(view)) for view in views)
