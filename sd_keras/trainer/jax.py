"""The training and prediction step on JAX, where state travels through the step."""

import jax
import keras

from sd_keras import keras_internals
from sd_keras.trainer.resident import Block, pick


class BackendTrainer:
    """Draws the views in front of Keras's own step; keeps only logits in `predict`."""

    def train_step(self, state, data):
        """One step: views, forward, objectives, update; or those of a block. Called by Keras."""
        if isinstance(data, Block):
            return self._train_block(state, data)
        trainable, non_trainable, *rest = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        mapping = [
            *zip(self.trainable_variables, trainable),
            *zip(self.non_trainable_variables, non_trainable),
        ]
        # The draws and the step counter are written inside this scope only; what they
        # wrote is read back and handed on as state.
        with keras.StatelessScope(state_mapping=mapping) as scope:
            x, y = self.begin_step(x, y, sample_weight)
        non_trainable = [scope.get_current_value(v) for v in self.non_trainable_variables]
        state = (trainable, non_trainable, *rest)
        return super().train_step(state, (x, y, sample_weight))

    def _train_block(self, state, block):
        """Runs one step after another in one program; returns the logs of the last."""

        def step(state, chosen):
            picked = pick(block.images, block.labels, chosen)
            logs, state = self.train_step(state, picked)
            return state, logs

        if len(block.order) == 1:
            state, logs = step(state, block.order[0])
            return logs, state
        state, logs = jax.lax.scan(step, state, block.order)
        return {name: values[-1] for name, values in logs.items()}, state

    def take_back(self, state, training):
        """Assigns the state that a step returned to the model's variables."""
        names = ["trainable_variables", "non_trainable_variables"]
        names += ["optimizer_variables"] * training + ["metrics_variables"]
        keras_internals.restore_jax_state(self, dict(zip(names, state)))

    def hand_out(self):
        """Returns the state of the model's variables for the next step, as `fit` does."""
        return keras_internals.export_jax_state(self)

    def predict_step(self, state, data):
        """Logits of every exit for one batch. Called by Keras."""
        outputs, non_trainable = super().predict_step(state, data)
        return self.only_exits(outputs), non_trainable
