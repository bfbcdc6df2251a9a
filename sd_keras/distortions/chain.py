"""Several distortions one after another, and how a distortion of any kind is called."""

import inspect

import keras
import numpy as np

from sd_keras.distortions import base, operations


@keras.saving.register_keras_serializable(package="sd_keras")
class Chain(keras.layers.Layer):
    """Applies distortions one after another, each with draws of its own.

        Chain([CropFlip(4, seed=0), Affine(seed=1), Color(seed=2)])

    Args:
        distortions: list of distortions of this package, of preprocessing layers of Keras or
            KerasCV, or of functions of a batch; at least one. Their random states are saved
            with the model's. Functions must be serializable if the model is to be saved, and
            are called once per trace, so their draws must be operations of the backend.
        **kwargs: as `keras.layers.Layer`.

    Shapes: `(n, height, width, channels)` in and out, dtype kept: what a layer gives in another
    dtype is rounded and cut to the range of the integers that came in.
    """

    def __init__(self, distortions, **kwargs):
        super().__init__(**kwargs)
        is_list = isinstance(distortions, (list, tuple)) and len(distortions) > 0
        if not is_list or not all(callable(d) and not isinstance(d, type) for d in distortions):
            raise ValueError(
                "`distortions` must be a list of at least one layer or function, for instance "
                f"[CropFlip(4), Affine()]. Received: distortions={distortions!r}"
            )
        self.distortions = list(distortions)
        self.built = True

    # Not `call` alone: Layer.__call__ would cast images to the compute dtype.
    def __call__(self, images, training=True):
        """Returns a new draw for each image; with `training=False` the images themselves."""
        if not training:
            return images
        views = images
        for distortion in self.distortions:
            views = apply(distortion, views)
        return _in_dtype_of(images, views)

    def call(self, images, training=True):
        return self(images, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {"distortions": [serialize(d) for d in self.distortions]}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls(**config | {"distortions": [deserialize(d) for d in config["distortions"]]})


def apply(distortion, images):
    """Returns the images distorted, with a new draw.

    Args:
        distortion: a layer, which is told that there is training, or a function of a batch.
        images: `(n, h, w, c)`.

    Raises:
        ValueError: for a layer of KerasCV on tensors of another backend than TensorFlow.
    """
    arguments = {}
    if isinstance(distortion, keras.Layer):
        # Some layers distort in training only, and take it that there is none.
        names = inspect.signature(distortion.call).parameters
        arguments = {"training": True} if "training" in names else {}
    if type(distortion).__module__.partition(".")[0] == "keras_cv":
        distortion = _converted(distortion, images)
    return distortion(images, **arguments)


def _converted(layer, images):
    """Returns a layer of KerasCV with its conditions on tensors made TensorFlow's.

    Keras's training step, unlike tf.data, would leave them to Python, which cannot decide. Not
    by a tf.function, in each of which the layer's operations would get the same random seeds,
    so that all views would be alike.
    """
    tensorflow = operations.tensorflow_of(images)
    backend = keras.config.backend()
    if tensorflow is None and backend != "tensorflow":
        raise ValueError(
            "`distortion` must not be a layer of KerasCV in a training step under another backend "
            "than TensorFlow: map it over a tf.data.Dataset that gives the views. "
            f"Received: {type(layer).__name__} under {backend}"
        )
    if tensorflow is None or tensorflow.executing_eagerly():
        return layer
    call = tensorflow.autograph.to_graph(_call)
    return lambda images: call(layer, images)


def _call(layer, images):
    return layer(images)


def _in_dtype_of(images, views):
    """Returns the views in the dtype that the images had."""
    dtype = keras.backend.standardize_dtype(images.dtype)
    if keras.backend.standardize_dtype(views.dtype) == dtype:
        return views
    xp = operations.of(views)
    largest = None if "float" in dtype else float(np.iinfo(dtype).max)
    return base.as_pixels(views, images, xp, largest)
