"""Objectives: which exits and which views are compared.

An objective is a `keras.losses.Loss` whose `call(labels, views)` takes a tuple with one dict
of network outputs per view and returns one value per example. Weights and temperatures are
numbers or schedules; `at(step)` returns a copy in which they are numbers of that step.
"""

import copy
import inspect

import keras
from keras import layers, ops

from sd_keras import losses
from sd_keras.layers.bottleneck import kernel_initializer
from sd_keras.schedules import value_at


class Objective(keras.losses.Loss):
    """Base of the objectives: weight, name, schedules.

    Args:
        weight: factor in the total loss; a number or a schedule.
        name: of the metric that reports the (unweighted) value.
        exits: `"deepest"`, or `"all"` to compare at every exit; for objectives that take it.

    What else a constructor takes must be an attribute of that name, for `get_config`.

    Attributes:
        num_views: how many views `call` needs.
        min_exits: how many exits the network must have.
        scheduled: names of the attributes that may be schedules.
        companion: the other network that `call` reads, None, "teacher", "peer" or "past" (a
            copy of the network itself, of the epoch before).
        pairs: whether the two views are two images of a class, as `SameClassPairs` gives them.
        maps: whether `call` reads feature maps, of the network and of its teacher.
        needed_outputs: names of outputs without which `call` cannot be; those of companions
            are there in training only.
    """

    num_views = 1
    min_exits = 1
    scheduled = ("weight",)
    companion = None
    pairs = False
    maps = False
    needed_outputs = ()

    def __init__(self, weight, name, exits="deepest"):
        super().__init__(name=name)
        if not callable(weight) and not weight >= 0:
            raise ValueError(
                f"`weight` of {name} must be a number of at least 0 or a schedule. "
                f"Received: weight={weight!r}"
            )
        if exits not in ("deepest", "all"):
            raise ValueError(f"`exits` must be 'deepest' or 'all'. Received: exits={exits!r}")
        self.weight = weight
        self.exits = exits

    def at(self, step):
        """Returns a copy with every schedule replaced by its value at `step`."""
        fixed = copy.copy(self)
        for name in self.scheduled:
            setattr(fixed, name, value_at(getattr(self, name), step))
        return fixed

    def get_config(self):
        names = [*inspect.signature(type(self)).parameters, "name", *self.scheduled]
        config = {name: getattr(self, name) for name in names if hasattr(self, name)}
        for name in self.scheduled:
            config[name] = keras.saving.serialize_keras_object(config[name])
        return config

    @classmethod
    def from_config(cls, config):
        schedules = {name: config[name] for name in cls.scheduled if name in config}
        deserialize = keras.saving.deserialize_keras_object
        return cls(**config | {name: deserialize(value) for name, value in schedules.items()})


class Softened(Objective):
    """An objective on softened probabilities: temperature and its scaling."""

    scheduled = ("weight", "temperature")

    def __init__(self, weight, temperature, scaling, name, exits="deepest"):
        super().__init__(weight, name, exits)
        if not callable(temperature) and not temperature > 0:
            raise ValueError(
                f"`temperature` of {name} must be a positive number or a schedule. "
                f"Received: temperature={temperature!r}"
            )
        losses.temperature_factor(1.0, scaling)  # refuses an unknown scaling
        self.temperature = temperature
        self.scaling = scaling

    def kl(self, target_logits, logits):
        """Returns KL(p_target ‖ p) of softened probabilities, `(n,)`; the target is detached."""
        return losses.kl_divergence(target_logits, logits, self.temperature, self.scaling)

    def symmetric_kl(self, logits_a, logits_b):
        """Returns KL(p_b ‖ p_a) + KL(p_a ‖ p_b), `(n,)`, each with its target detached."""
        return losses.symmetric_kl_divergence(logits_a, logits_b, self.temperature, self.scaling)


def count_exits(outputs):
    """Returns the number of exits in a dict of network outputs."""
    return sum(name.startswith("exit_") for name in outputs)


def deepest(outputs):
    """Returns the logits of the deepest exit."""
    return outputs[f"exit_{count_exits(outputs)}"]


def compared_exits(outputs, exits):
    """Resolves `exits="deepest" | "all"` to the numbers of the exits."""
    count = count_exits(outputs)
    return range(1, count + 1) if exits == "all" else [count]


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
