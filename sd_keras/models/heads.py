"""What stands on a tensor of a backbone to make an exit of it."""

import keras
from keras import layers

from sd_keras.layers import Bottleneck
from sd_keras.layers.bottleneck import dense_initializer
from sd_keras.models.tensors import channels, grid, is_activated, is_channels_first


class Heads:
    """Builds exits on the tensors of a body.

    Args:
        body: of `body_of`.
        num_classes: number of classes.
        pooling: `"average"` or `"token"`.
    """

    def __init__(self, body, num_classes, pooling):
        if pooling == "token" and len(body.output.shape) != 3:
            raise ValueError(
                "`pooling` can be 'token' only for a backbone that ends in tokens (n, t, c). "
                f"Received: pooling={pooling!r} and output of shape {body.output.shape}"
            )
        self.model = body.model
        self.made_by = body.made_by
        self.deepest = body.output
        self.filters = channels(body.output, body.made_by)
        self.grid = grid(body.last_map, body.made_by)
        self.num_classes = num_classes
        self.pooling = pooling
        self.taken = {operation.name for operation in body.model.operations}

    def network(self, tensors):
        """Returns the model with an exit on each of the tensors and on the body's output."""
        outputs, vectors = {}, {}
        for index, tensor in enumerate([*tensors, self.deepest], start=1):
            vector = self._features(tensor, index)
            vectors[f"features_{index}"] = vector
            outputs[f"exit_{index}"] = self._logits(vector, index)
        return keras.Model(self.model.inputs[0], outputs | vectors, name=self.model.name)

    def _name(self, base):
        """Returns a name that no layer of the backbone has."""
        while base in self.taken:
            base += "_of_exit"
        return base

    def _features(self, tensor, index):
        """Returns the vector in front of the classifier of one exit."""
        if len(tensor.shape) == 2:
            return tensor
        feature_map = self._as_map(tensor, index)
        if tensor is not self.deepest:
            here = (1, 1) if len(tensor.shape) == 3 else grid(tensor, self.made_by)
            pool = max(1, min(size // last for size, last in zip(here, self.grid)))
            raw = not is_activated(tensor, self.made_by)
            name = self._name(f"bottleneck_{index}")
            feature_map = Bottleneck(self.filters, pool, preactivation=raw, name=name)(feature_map)
        return layers.GlobalAveragePooling2D(
            data_format="channels_last", name=self._name(f"pool_{index}")
        )(feature_map)

    def _as_map(self, tensor, index):
        """Brings tokens and channels_first maps into the form `(n, h, w, c)`."""
        name = self._name(f"map_{index}")
        if len(tensor.shape) == 4:
            if not is_channels_first(tensor, self.made_by):
                return tensor
            return layers.Permute((2, 3, 1), name=name)(tensor)
        count, width = tensor.shape[1:]
        if self.pooling == "token":
            token = self._name(f"token_{index}")
            tensor, count = layers.Cropping1D((0, count - 1), name=token)(tensor), 1
        return layers.Reshape((count, 1, width), name=name)(tensor)

    def _logits(self, vector, index):
        """Returns the logits of one exit."""
        # float32 whatever the policy, because softmax of 16-bit logits loses accuracy.
        return layers.Dense(
            self.num_classes,
            kernel_initializer=dense_initializer(),
            dtype="float32",
            name=self._name(f"classifier_{index}"),
        )(vector)
