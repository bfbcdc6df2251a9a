"""The training and prediction step on TensorFlow and PyTorch, where variables hold state."""

import keras


class BackendTrainer:
    """Draws the views in front of Keras's own step; keeps only logits in `predict`."""

    def train_step(self, data):
        """One step: views, forward, objectives, update. Called by Keras."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step((self.begin_step(x), y, sample_weight))

    def predict_step(self, data):
        """Logits of every exit for one batch. Called by Keras."""
        return self.only_exits(super().predict_step(data))
