"""Recipes for ImageNet by name: everything of a run but network, method and data."""

import dataclasses

import keras

from sd_keras.mixing import Mix
from sd_keras.optimizers import SGD
from sd_keras.schedules import WarmUp, multi_step


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained; `dataclasses.replace` changes single figures.

    Attributes:
        epochs, batch_size: images per step, over all replicas.
        learning_rate: at the beginning, or after the warm-up.
        schedule: "step", "cosine" to 0, or "constant".
        drops: "step": shares of the epochs at which the rate drops to a tenth.
        warmup_epochs: over which the rate rises from 0; at most a tenth of `epochs`.
        momentum, nesterov, weight_decay: of `sd_keras.optimizers.SGD`.
        undecayed: parts of names of variables that are not decayed.
        label_smoothing: share of a label's probability spread over all classes.
        mixup, cutmix: α of `sd_keras.mixing.Mix`, 0 for none.
        rand_augment: `factor` of Keras's RandAugment of two operations, 0…1; 0 for none. It
            draws them once a batch, and its strengths are not those of the paper's scale.
        ema_epochs: epochs that the moving average of the weights looks back; 0 for none.
        image_size: height and width of the crops.
        protocol: of `sd_keras.data.stream`.
    """

    epochs: int = 90
    batch_size: int = 256
    learning_rate: float = 0.1
    schedule: str = "step"
    drops: tuple = (1 / 3, 2 / 3)
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    undecayed: tuple = ()
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: float = 0.0
    ema_epochs: float = 0.0
    image_size: int = 224
    protocol: str = "paper"

    def rate(self, steps):
        """Returns the learning rate, a number or a schedule of steps.

        Args:
            steps: batches per epoch.
        """
        total, rate = self.epochs * steps, self.learning_rate
        if self.schedule == "step":
            # In a short run several drops can fall on one step, where only the last can stand.
            drops = sorted({max(1, round(share * total)) for share in self.drops})
            rate = multi_step(rate, drops)
        if self.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, total)
        if self.warmup_epochs:
            # A short run keeps the form of a long one.
            rise = min(self.warmup_epochs, self.epochs / 10)
            rate = WarmUp(rate, max(1, round(rise * steps)))
        return rate

    def optimizer(self, steps, accumulate=1):
        """Returns the optimizer.

        Args:
            steps: batches per epoch.
            accumulate: batches whose gradients are averaged for one update. Keras counts, and
                averages weights, once a batch all the same.
        """
        average = {}
        if self.ema_epochs:
            look_back = max(1.0, self.ema_epochs * steps)
            average = {"use_ema": True, "ema_momentum": 1 - 1 / look_back}
        return SGD(
            self.rate(steps),
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            undecayed=self.undecayed,
            gradient_accumulation_steps=accumulate if accumulate > 1 else None,
            **average,
        )

    def loss(self):
        """Returns the label loss for `compile`; None for plain cross entropy."""
        if not self.label_smoothing:
            return None
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=self.label_smoothing
        )

    def mixing(self, seed):
        """Returns the layer that mixes batches, or None."""
        return Mix(self.mixup, self.cutmix, seed=seed) if self.mixup or self.cutmix else None

    def distortion(self, seed):
        """Returns the layer that distorts crops further, or None."""
        if not self.rand_augment:
            return None
        return keras.layers.RandAugment((0, 255), factor=self.rand_augment, seed=seed)


RECIPES = {
    # The original papers of the networks, as the self-distillation papers use them. Of those
    # one mentions Nesterov's momentum in general; none of the networks' papers used it.
    "resnet": Recipe(),
    "vgg": Recipe(),
    "alexnet": Recipe(
        learning_rate=0.01, drops=(2 / 9, 4 / 9, 6 / 9, 8 / 9), weight_decay=5e-4, image_size=227
    ),
    # What is usual today, put together by this project and not yet measured at full length.
    # RandAugment is Cubuk et al. 2020, here with Keras's layer and its own scale of strength.
    "modern": Recipe(
        epochs=100,
        learning_rate=0.125,
        schedule="cosine",
        warmup_epochs=5.0,
        nesterov=True,
        weight_decay=5e-5,
        undecayed=("bias", "gamma", "beta"),
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        rand_augment=0.3,
        ema_epochs=2.0,
        protocol="random_resized_crop",
    ),
}


def of_network(name):
    """Returns the name of the recipe that a network's own paper gives."""
    family = name.removesuffix("_bn").rstrip("0123456789")
    return family if family in RECIPES else "resnet"
