"""Everything that this library uses of Keras without it being public, and why.

Keras may rename these from one version to the next; `setup.py` limits the versions, and a test
keeps other modules from using them. Hooks that Keras calls must be methods of the class, so
they stay there:

- `SelfDistillModel._symbolic_build` and `_maybe_symbolic_build`: build from the data's
  specification, because the batches of `OnDevice` are indices and, under several workers,
  Keras would reduce a first batch to learn its shape.
- `SelfDistillModel._make_function` and `_get_metrics_result_or_logs`: under a strategy, Keras
  averages the logs over an axis that they do not have.
- `SGD._apply_weight_decay`: the decay is added to the gradient instead.
- `DataAdapter`'s methods: `fit` reads from these the number of steps, and the batches.
"""

import keras

SUPPORTED = "keras>=3.15,<3.17"

try:
    # The only ways to pass data of another kind to `fit`, and to tell it the number of steps.
    from keras.src.trainers.data_adapters.data_adapter import DataAdapter
    from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

    # Keras's own way to name a package that may not be installed.
    from keras.src.utils.module_utils import LazyModule
except ImportError as error:
    raise ImportError(
        f"sd_keras needs {SUPPORTED} for its data adapters and lazy modules. "
        f"Received: keras {keras.__version__}"
    ) from error

__all__ = ["DataAdapter", "TFDatasetAdapter"]

# Imported when first used: other backends, and data sets in memory, do without them.
tensorflow = LazyModule("tensorflow")
tensorflow_datasets = LazyModule("tensorflow_datasets")


def _get(owner, name):
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise AttributeError(
            f"sd_keras needs {SUPPORTED}, in which {type(owner).__name__} has the private "
            f"attribute {name!r}. Received: keras {keras.__version__}"
        ) from error


def module_of(kind):
    """Returns where Keras defines a class or function, as "layers.core.dense", or "".

    A class that Keras defines computes what its name says; a user's may not.
    """
    prefix, _, path = kind.__module__.partition("keras.src.")
    return path if not prefix else ""


# Graphs: Keras shows a model's layers, but not in which calls they make its tensors.


def operation_of(tensor):
    """Returns the operation that makes a symbolic tensor."""
    return _get(tensor, "_keras_history").operation


def node_of(tensor):
    """Returns the call that makes a symbolic tensor."""
    operation, index, _ = _get(tensor, "_keras_history")
    return inbound_nodes(operation)[index]


def inbound_nodes(operation):
    """Returns the list of an operation's calls."""
    return _get(operation, "_inbound_nodes")


def outbound_nodes(operation):
    """Returns the list of the calls that read what an operation makes."""
    return _get(operation, "_outbound_nodes")


def nodes_by_depth(model):
    """Returns the calls of a functional model, lists by their distance from the outputs."""
    return _get(model, "_nodes_by_depth")


# Layers: the public lists of variables are those of a layer and all layers within.


def flatten_layers(layer, **kwargs):
    """Returns a layer and all layers within it, those of nested models too."""
    return list(_get(layer, "_flatten_layers")(**kwargs))


def own_variables(layer):
    """Returns the trainable and the other variables of a layer without the layers within it.

    Unlike the public lists, the first one holds those of a frozen layer too.
    """
    return _get(layer, "_trainable_variables"), _get(layer, "_non_trainable_variables")


def seed_generators(layer):
    """Returns the random generators of a layer, without those of the layers within it."""
    return _get(layer, "_seed_generators")


def takes_training(layer):
    """Returns whether a layer's `call` has an argument `training`."""
    return _get(layer, "_call_has_training_arg")


# Training: what `compile` makes of its arguments, and the state of `fit`.


def compile_metrics(model):
    """Returns the metrics given to `compile` as one object, or None."""
    return _get(model, "_compile_metrics")


def user_metrics(metrics):
    """Returns `metrics` and `weighted_metrics` as given to `compile`."""
    return _get(metrics, "_user_metrics"), _get(metrics, "_user_weighted_metrics")


def replace_user_metrics(metrics, unweighted, weighted):
    """Replaces `metrics` and `weighted_metrics` before their variables are created."""
    metrics._user_metrics, metrics._user_weighted_metrics = unweighted, weighted


def loss_tracker(model):
    """Returns the metric of the total loss, whose number of images the checks read."""
    return _get(model, "_loss_tracker")


def additional_loss(model, loss):
    """Returns a regularisation loss, under a strategy divided by the number of replicas."""
    return _get(model, "_aggregate_additional_loss")(loss)


def has_strategy(model):
    """Returns whether a model was created under a strategy of `tf.distribute`."""
    return _get(model, "_distribute_strategy") is not None


def element_spec(epoch_iterator):
    """Returns the specification of distributed data without drawing a batch."""
    return _get(epoch_iterator, "_distributed_dataset").element_spec


def set_initial_epoch(model, epoch):
    """Sets the epoch that `fit` begins with, as Keras's BackupAndRestore does; None for none."""
    model._initial_epoch = epoch


def learning_rate(optimizer):
    """Returns the variable or the schedule that an optimizer's learning rate is."""
    return _get(optimizer, "_learning_rate")


def iterations(optimizer):
    """Returns the counter of batches; the public one counts updates of accumulated gradients."""
    return _get(optimizer, "_iterations")


def accumulated_gradients(optimizer):
    """Returns the gradients that wait for the next update, or an empty tuple."""
    return getattr(optimizer, "_accumulated_gradients", None) or ()


def restore_jax_state(model, state):
    """Assigns a step's state, a dict by the kind of variables, to the variables of a model.

    A step donates its arguments: after an error, the variables hold deleted arrays.
    """
    model._jax_state, model._jax_state_synced = state, False
    model.jax_state_sync()
    model._jax_state = None


def export_jax_state(model):
    """Returns the state of a model for the next step of `fit`."""
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    kinds = {f"{kind}_variables": True for kind in kinds}
    state = _get(model, "_get_jax_state")(**kinds, purge_model_variables=True)
    model._jax_state_synced = False
    return state


def model_of(callback):
    """Returns a callback's model without copying its state from the device first."""
    return _get(callback, "_model")


def variable_index(optimizer, variable):
    """Returns the index of a variable among the optimizer's."""
    return _get(optimizer, "_get_variable_index")(variable)


def is_decayed(optimizer, variable):
    """Returns whether an optimizer applies weight decay to a variable."""
    return _get(optimizer, "_use_weight_decay")(variable)
