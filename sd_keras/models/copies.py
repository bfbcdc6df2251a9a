"""Copies of functional models, call by call, on layers with variables of their own."""

import keras
from keras import tree

from sd_keras import calls, graph, keras_internals


def rebuild(model, call):
    """Makes the calls of a functional model again, also those inside nested models.

    Args:
        model: functional model.
        call: function of an operation, its positional and its keyword arguments that returns
            its outputs, or those of what takes its place.

    Returns:
        A flat functional model with inputs and outputs of the same names and structure.
    """
    inputs = tree.map_structure(new_input, model.input)
    tensors = calls.replay(model, tree.flatten(inputs), _is_nested, call)
    outputs = tree.map_structure(lambda tensor: tensors[id(tensor)], model.output)
    return keras.Model(inputs, outputs, name=model.name)


def new_input(tensor, name=None):
    """Returns a `keras.Input` that takes what a symbolic tensor holds."""
    name = name or keras_internals.operation_of(tensor).name
    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, name=name
    )


def only_tensor(args, kwargs):
    """Returns the symbolic tensor among the arguments of a call that takes one."""
    (tensor,) = (t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor))
    return tensor


class Copies:
    """The copies of a network's operations: one of each, however often it is called.

    Args:
        taken: names that no copy may have.
    """

    def __init__(self, taken):
        self.taken = set(taken)
        self.made = {}

    def free_name(self, name):
        """Returns the name, or with a number behind it if it is taken, and takes it."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def call(self, operation, args, kwargs, kind=None, config=None):
        """Calls the copy of an operation, which the first call makes.

        Args:
            operation: layer or other operation to copy.
            args, kwargs: of the call.
            kind, config: class of the copy and its config; None for the operation's own.
        """
        if id(operation) in self.made:
            return self.made[id(operation)](*args, **kwargs)
        config = operation.get_config() if config is None else config
        name = self.free_name(config.get("name", operation.name))
        if "name" in config:
            config = config | {"name": name}
        copy = self.made[id(operation)] = (kind or type(operation)).from_config(config)
        copy.name = name
        outputs = copy(*args, **kwargs)
        if isinstance(operation, keras.Layer):
            _copy_weights(operation, copy)
        return outputs


def _is_nested(operation):
    return graph.as_functional(operation) is not None


def _copy_weights(layer, copy):
    """Gives a built layer the weights of another one, and what else its file would hold."""
    pairs = list(zip(*map(keras_internals.flatten_layers, (layer, copy))))
    if [w.shape for w in layer.weights] != [w.shape for w in copy.weights]:
        raise ValueError(
            "`network` must hold layers that their own `get_config` makes again, with the same "
            f"weights. Received: network with layer {layer.name!r} of type "
            f"{type(layer).__module__}.{type(layer).__name__}"
        )
    for old, new in pairs:
        # As a file does it: some layers compute more from their variables.
        store = {}
        old.save_own_variables(store)
        new.load_own_variables({key: keras.ops.convert_to_numpy(v) for key, v in store.items()})
