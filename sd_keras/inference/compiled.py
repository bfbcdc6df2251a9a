"""A functional model as a compiled function of its input tensors, by backend."""

import keras
import numpy as np

from sd_keras.keras_internals import tensorflow as tf


def compiled(model):
    """Compiles a model for inference with batches of any size.

    Keras's `predict_on_batch` brings every output to the host; here the feature maps that a
    section hands on stay on the device. Weights may change afterwards.

    Args:
        model: functional model.

    Returns:
        A function from a list of arrays or tensors to what the model returns, in tensors.
        Under jax it compiles once for each number of rows, else once.
    """
    if keras.config.backend() == "tensorflow":
        run = _by_tensorflow(model)
    elif keras.config.backend() == "jax":
        run = _by_jax(model)
    else:
        import torch

        run = torch.no_grad()(lambda tensors: model(tensors, training=False))
    return lambda tensors: run(keras.tree.pack_sequence_as(model.input, tensors))


def predict(model, images, batch_size=256):
    """Returns what `model.predict` returns, but compiles once for batches of all sizes.

    `model.predict` is compiled for the first size of batch, and again when another follows:
    TensorFlow warns of this once several networks have been measured. Here the function is kept
    with the model until that has other variables. Under jax it compiles for each size of batch,
    and the last batch is filled up to the size of the others.

    Args:
        model: functional model with one input.
        images: array `(n, …)`, n at least 1.
        batch_size: images per forward pass.

    Returns:
        The model's outputs, arrays `(n, …)`.
    """
    function = getattr(model, "_compiled_function", None)
    if function is None or [*map(id, function.variables)] != [*map(id, model.variables)]:
        function = model._compiled_function = compiled(model)
        function.variables = model.variables
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        rows = len(batch)
        if keras.config.backend() == "jax" and start:
            batch = np.concatenate([batch, np.repeat(batch[:1], batch_size - rows, axis=0)])
        outputs = function([keras.ops.convert_to_tensor(batch)])
        outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
        parts.append(keras.tree.map_structure(lambda each, n=rows: each[:n], outputs))
    return keras.tree.map_structure(lambda *each: np.concatenate(each), *parts)


def _by_tensorflow(model):
    shapes = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype), model.input
    )
    # One graph for any number of rows. Calls of the tf.function itself would warn of retracing
    # where a network has several sections, whose functions TensorFlow takes for one.
    function = tf.function(lambda tensors: model(tensors, training=False))
    function = function.get_concrete_function(shapes)

    return lambda tensors: function(
        keras.tree.map_structure(lambda t, s: tf.cast(t, s.dtype), tensors, shapes)
    )


def _by_jax(model):
    import jax

    @jax.jit
    def function(trainable, others, tensors):
        return model.stateless_call(trainable, others, tensors, training=False)[0]

    def run(tensors):
        variables = (model.trainable_variables, model.non_trainable_variables)
        return function(*([v.value for v in each] for each in variables), tensors)

    return run
