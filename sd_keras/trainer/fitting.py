"""What surrounds Keras's `fit`, `evaluate` and `predict`: checks, streams, resuming."""

import keras

from sd_keras.backup import Backup
from sd_keras.data.stream import saying_why
from sd_keras.trainer import checks, resident
from sd_keras.trainer.companions import Renewal
from sd_keras.trainer.guards import guarded
from sd_keras.trainer.position import Follow, Saving, skipping
from sd_keras.trainer.streams import as_data, description, is_stream


class Fitting:
    """Mixin in front of `keras.Model`."""

    def make_train_function(self, force=False):
        """Builds the step function and the checks around it. Called by Keras."""
        if self._compile_config.config.get("loss_weights") is not None:
            raise ValueError("`loss_weights` must be None: the method weights the exits")
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = skipping(guarded(self.train_function, self, True), self)

    def make_test_function(self, force=False):
        """Builds the evaluation function and the checks around it. Called by Keras."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = guarded(self.test_function, self, training=False)

    def fit(self, x=None, y=None, *args, validation_data=None, callbacks=None, **kwargs):
        """As `keras.Model.fit`; takes a `sd_keras.data.Stream`, too, and checks arrays first.

        With a `sd_keras.Backup` among the callbacks it goes on where a run stopped.
        """
        checks.check_arrays(x, y, self.network, self.num_classes)
        if isinstance(validation_data, (tuple, list)):
            arguments = ("validation_data[0]", "validation_data[1]")
            held, held_labels, _ = keras.utils.unpack_x_y_sample_weight(tuple(validation_data))
            checks.check_arrays(held, held_labels, self.network, self.num_classes, arguments)
        if is_stream(x) or resident.is_resident(x):
            checks.check_stream_arguments(x, y, kwargs)
        # On PyTorch Keras takes a batch before the step that would be left out.
        self.position.counts_on = is_stream(x) and keras.config.backend() != "torch"
        self.position.data = description(x)
        self.position.num_steps = x.steps_per_epoch if is_stream(x) else None
        why = saying_why(x, validation_data)
        validation_data, validation_steps = as_data(validation_data, self)
        renewals = [] if self.past is None else [Renewal(self.network, self.past)]
        callbacks, listed, own = _surrounded(callbacks, self.position, renewals)
        kwargs |= {"validation_data": validation_data, "callbacks": callbacks}
        try:
            x, steps = self._resident_or(x) or as_data(x, self, self.position)
            given = {"steps_per_epoch": steps, "validation_steps": validation_steps}
            kwargs = _with_defaults(kwargs, given)
            checks.check_callbacks(listed, Backup)
            with why:
                return super().fit(x, y, *args, **kwargs)
        finally:
            self._hold(None)
            for callback in own:
                listed.remove(callback)
                # Keras calls nothing on a callback when `fit` ends by an error.
                if isinstance(callback, Saving):
                    callback.backup.release()

    def _resident_or(self, x):
        """Sends an `OnDevice` there; returns what Keras takes in its place, or None."""
        if not resident.is_resident(x):
            return None
        resident.check(x, self)
        checks.check_arrays(x.images, x.labels, self.network, self.num_classes)
        self._hold(resident.Resident(x))
        return resident.adapter(self.resident), None

    def _hold(self, data):
        """Takes a Resident in place of the one that is held, or None to let go of it."""
        if self.resident is not data and keras.config.backend() == "tensorflow":
            self.train_function = None  # it holds the images; on JAX they are its arguments
        self.resident = data

    def _symbolic_build(self, iterator=None, data_batch=None):
        """Builds by the form of the data. Called by Keras."""
        if self.resident is not None:
            data_batch = self.resident.sample()
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; takes a Stream, too, and checks arrays first."""
        checks.check_arrays(x, y, self.network, self.num_classes)
        data, steps = as_data(x, self)
        with saying_why(x):
            return super().evaluate(data, y, *args, **_with_defaults(kwargs, {"steps": steps}))

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`; takes a Stream, too."""
        data, steps = as_data(x, self)
        with saying_why(x):
            return super().predict(data, *args, **_with_defaults(kwargs, {"steps": steps}))


def _surrounded(callbacks, position, renewals):
    """Puts the library's own callbacks around those given to `fit`; renewals go before saving.

    Returns:
        What Keras takes; the list that they are in; and those of them that are the library's.
    """
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = callbacks.callbacks if is_list else callbacks
    given = given if isinstance(given, (list, tuple)) else [given]
    follow = Follow(position)
    savings = [Saving(callback) for callback in given if isinstance(callback, Backup)]
    # In front of the user's, one of which may save the whole model.
    own = [follow, *renewals, *savings]
    listed = [follow, *renewals, *(each for each in given if each is not None), *savings]
    if not is_list:
        return listed, listed, own
    for callback in own:
        callback.set_params(callbacks.params)
    given[:] = listed
    return callbacks, given, own


def _with_defaults(arguments, defaults):
    """Adds to arguments what is known and not among them."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return arguments | {k: v for k, v in defaults.items() if v is not None and k not in given}
