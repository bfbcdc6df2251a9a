"""Adversarial views: images changed where it raises the network's loss most."""

import keras
from keras import ops

from sd_keras import gradients, losses
from sd_keras.models.exits import exit_names


@keras.saving.register_keras_serializable(package="sd_keras")
class FastGradientSign:
    """x + ε sign(∇_x CE(network(x), y)) (Goodfellow et al. 2015, section 4).

    The gradient is the deepest exit's, at the moving statistics of BatchNormalization. It costs
    one more forward and backward pass of the images that it changes.

    Args:
        epsilon: ε in pixel values of 0…255; a number above 0.
    """

    def __init__(self, epsilon=2.0):
        if not 0 < epsilon <= 255:
            raise ValueError(
                f"`epsilon` must be a number in pixel values, 0 < epsilon ≤ 255. "
                f"Received: epsilon={epsilon!r}"
            )
        self.epsilon = float(epsilon)

    def attack(self, network, images, labels):
        """Returns the changed images, float32 and within 0…255.

        Args:
            network: made by `attach_exits`.
            images: `(n, h, w, c)`, raw pixels.
            labels: class numbers `(n,)`, or probabilities `(n, classes)`.
        """
        deepest = exit_names(network)[-1]
        images = ops.cast(images, "float32")

        def loss(images):
            logits = network(images, training=False)[deepest]
            return ops.sum(losses.label_cross_entropy(labels, logits))

        (gradient,) = gradients.of_inputs(loss, [images])
        changed = images + self.epsilon * ops.sign(ops.stop_gradient(gradient))
        return ops.clip(changed, 0.0, 255.0)

    def get_config(self):
        return {"epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
