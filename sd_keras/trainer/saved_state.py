"""What a model's file holds beside weights and optimizer: the step and the random draws."""


class SavedState:
    """Mixin in front of `keras.Model`, whose files leave the random generators out."""

    def _random_states(self):
        """States of all random generators; Keras's files leave them out."""
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def save_own_variables(self, store):
        """Saves the step and the random states. Called by Keras."""
        store["step"] = self.step.numpy()
        for index, state in enumerate(self._random_states()):
            store[f"random_state_{index}"] = state.numpy()

    def load_own_variables(self, store):
        """Restores the step and the random states. Called by Keras."""
        self.step.assign(store["step"])
        states = self._random_states()
        keys = list(store.keys())
        saved = sum(key.startswith("random_state_") for key in keys)
        if saved != len(states):
            raise ValueError(
                f"the file holds {saved} random states where the model has {len(states)}: "
                "it was saved with another distortion or other Dropout layers"
            )
        for index, state in enumerate(states):
            state.assign(store[f"random_state_{index}"])
