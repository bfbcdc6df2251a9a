"""Stochastic gradient descent with the papers' weight decay."""

import keras
from keras import ops

from sd_keras import keras_internals
from sd_keras.keras_internals import tensorflow as tf


@keras.saving.register_keras_serializable(package="sd_keras")
class SGD(keras.optimizers.SGD):
    """Momentum SGD with L2 regularisation in the gradient, as both papers train.

        g = gradient + weight_decay · w
        v = momentum · v + g
        w = w − learning_rate · (g + momentum · v  if nesterov else  v)

    `keras.optimizers.SGD(weight_decay=…)` shrinks the weights beside the momentum instead,
    which is a weaker regulariser at the papers' figures. Also unlike Keras's, the velocity
    does not hold the learning rate, so a drop of the rate acts at once; both are PyTorch's
    `SGD`.

    Args:
        learning_rate: number or schedule.
        momentum: share of the velocity kept per step.
        nesterov: look ahead along the velocity.
        weight_decay: L2 coefficient, applied to every trainable variable unless
            `undecayed` says otherwise. None or 0 for none.
        undecayed: strings; a variable whose name holds one of them is not decayed, for
            instance `("bias", "gamma", "beta")`. Unlike a call of Keras's
            `exclude_from_weight_decay`, it is saved with the optimizer.
        **kwargs: as `keras.optimizers.SGD`; clipping acts on the gradient before the decay
            is added.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=None,
        undecayed=(),
        **kwargs,
    ):
        if weight_decay is not None and weight_decay < 0:
            raise ValueError(
                f"`weight_decay` must not be negative. Received: weight_decay={weight_decay}"
            )
        super().__init__(
            learning_rate=learning_rate,
            momentum=float(momentum),
            nesterov=nesterov,
            weight_decay=weight_decay,
            **kwargs,
        )
        self.undecayed = tuple(undecayed)
        if self.undecayed:
            self.exclude_from_weight_decay(var_names=list(self.undecayed))

    def _apply_weight_decay(self, variables):
        """Keras's own decay is left out: `update_step` adds it to the gradient."""

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; called by Keras."""
        # `variable` is a backend variable under some trainers, a Keras one under others.
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.weight_decay and keras_internals.is_decayed(self, variable):
            gradient = ops.add(gradient, ops.multiply(variable, self.weight_decay))
        if self.momentum == 0:
            self.assign_sub(variable, ops.multiply(gradient, learning_rate))
            return
        slot = self.momentums[keras_internals.variable_index(self, variable)]
        if keras.config.backend() == "tensorflow":
            self._fused_update(variable, slot, gradient, learning_rate)
            return
        velocity = ops.add(ops.multiply(slot, self.momentum), gradient)
        self.assign(slot, velocity)
        if self.nesterov:
            velocity = ops.add(ops.multiply(velocity, self.momentum), gradient)
        self.assign_sub(variable, ops.multiply(velocity, learning_rate))

    def _fused_update(self, variable, slot, gradient, learning_rate):
        """The same two assignments in one pass over memory by TensorFlow's own kernel."""
        if isinstance(variable, keras.Variable):
            variable = variable.value
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slot.value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=tf.cast(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov,
        )

    def get_config(self):
        return super().get_config() | {"undecayed": self.undecayed}
