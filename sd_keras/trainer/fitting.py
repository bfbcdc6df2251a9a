"""What surrounds Keras's `fit`, `evaluate` and `predict`: checks, streams, progress, resuming."""

import math

import keras

from sd_keras.callbacks import Backup, LossBlowUpError, NonFiniteLossError
from sd_keras.data.batches import Batches
from sd_keras.data.stream import saying_why
from sd_keras.trainer import checks, resident
from sd_keras.trainer.companions import Renewal
from sd_keras.trainer.labels import HIGH, LOW, range_message
from sd_keras.trainer.metrics import SEEN
from sd_keras.trainer.streams import as_data, description, is_stream


class Fitting:
    """Mixin in front of `keras.Model`."""

    def make_train_function(self, force=False):
        """Builds the step function and the checks around it. Called by Keras."""
        if self._compile_config.config.get("loss_weights") is not None:
            raise ValueError("`loss_weights` must be None: the method weights the exits")
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = skip_completed_steps(
                check_logs(self.train_function, self, True), self
            )

    def make_test_function(self, force=False):
        """Builds the evaluation function and the checks around it. Called by Keras."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = check_logs(self.test_function, self, training=False)

    def fit(self, x=None, y=None, *args, validation_data=None, callbacks=None, **kwargs):
        """As `keras.Model.fit`; takes a `sd_keras.data.Stream`, too, and checks arrays first.

        With a `sd_keras.Backup` among the callbacks it resumes where a run stopped.
        """
        checks.check_arrays(x, y, self.network, self.num_classes)
        if isinstance(validation_data, (tuple, list)):
            arguments = ("validation_data[0]", "validation_data[1]")
            held, held_labels, _ = keras.utils.unpack_x_y_sample_weight(tuple(validation_data))
            checks.check_arrays(held, held_labels, self.network, self.num_classes, arguments)
        if is_stream(x) or resident.is_resident(x):
            checks.check_stream_arguments(x, y, kwargs)
        # On PyTorch Keras takes a batch before the step that would be left out.
        self.position.is_seekable = is_stream(x) and keras.config.backend() != "torch"
        self.position.data = description(x)
        self.position.batches = x if isinstance(x, Batches) else None
        self.position.num_steps = x.steps_per_epoch if is_stream(x) else None
        why = saying_why(x, validation_data)
        validation_data, validation_steps = as_data(validation_data, self)
        renewals = [] if self.past is None else [Renewal(self.network, self.past)]
        callbacks, listed, internal = _with_internal_callbacks(callbacks, self.position, renewals)
        kwargs |= {"validation_data": validation_data, "callbacks": callbacks}
        try:
            x, steps = self._resident_or(x) or as_data(x, self, self.position)
            defaults = {"steps_per_epoch": steps, "validation_steps": validation_steps}
            kwargs = _with_defaults(kwargs, defaults)
            checks.check_callbacks(listed, Backup)
            with why:
                return super().fit(x, y, *args, **kwargs)
        finally:
            self._hold(None)
            for callback in internal:
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


def _with_internal_callbacks(callbacks, position, renewals):
    """Adds the library's callbacks to those of the user; renewals come before saving.

    Returns:
        What Keras takes; the list that they are in; and those of them that are the library's.
    """
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    users = callbacks.callbacks if is_list else callbacks
    users = users if isinstance(users, (list, tuple)) else [users]
    savings = [Saving(callback) for callback in users if isinstance(callback, Backup)]
    # Before the user's, one of which may save the whole model.
    first = [Follow(position), *renewals]
    internal = [*first, *savings]
    listed = [*first, *(callback for callback in users if callback is not None), *savings]
    if not is_list:
        return listed, listed, internal
    for callback in internal:
        callback.set_params(callbacks.params)
    users[:] = listed
    return callbacks, users, internal


def _with_defaults(arguments, defaults):
    """Returns the arguments, with defaults for those that are missing or None."""
    missing = {name: value for name, value in defaults.items() if arguments.get(name) is None}
    return arguments | {name: value for name, value in missing.items() if value is not None}


class Position:
    """The progress of a `fit`, and what of its epoch an earlier process has done already.

    Attributes:
        epoch: of the current step, counted from 0.
        skip_steps: first steps of this epoch that are not made again.
        skip_logs: the logs of the last of them.
        is_seekable: whether the data can begin after `skip_steps`.
        stop_wanted: this process was asked to end.
        stop_agreed: any of the workers was, known by all of them since the same step.
        data: what the places in the data depend on, or None.
        batches: the `Batches` whose epoch is to be set where `fit` resumes, or None.
        recover: None, or a function of a `DivergenceError` that restores usable weights and
            returns True.
        max_loss: loss of a step above which it counts as diverged, or None.
        num_steps: of an epoch, or None if unknown.
        seen: images that the metrics have seen since they were reset.
    """

    def __init__(self):
        self.is_seekable = self.stop_wanted = self.stop_agreed = False
        self.data = self.batches = self.recover = self.max_loss = self.num_steps = None
        self.begin_epoch(0)

    def __call__(self):
        """Returns the place from which the data of this epoch are to be read."""
        return self.epoch, self.skip_steps

    def begin_epoch(self, epoch, skip_steps=0, skip_logs=None):
        """Records that an epoch begins, or resumes after some steps."""
        self.epoch = epoch
        self.skip_steps = self._left = skip_steps
        self.skip_logs = skip_logs or {}
        self.count(0.0, 0.0)

    def check_resumable(self, step, data, received):
        """Raises ValueError unless the data can begin after a step of an epoch.

        Args:
            step: the number of steps made, 0 at the end of an epoch.
            data: the `data` of the position that made them.
            received: what the error names.
        """
        if step and not self.is_seekable:
            raise ValueError(
                "`x` must be a sd_keras.data.Stream to resume in the middle of an epoch, where "
                f"the newest backup is. Received: {received}"
            )
        if step and data != self.data:
            raise ValueError(
                f"`x` must be the stream that the backup was made with, {data}, to resume "
                f"in the middle of an epoch. Received: x with {self.data}"
            )

    def check_together(self, step, together):
        """Raises ValueError unless executions of `together` steps can begin after a step."""
        if step % together and step != self.num_steps:
            raise ValueError(
                f"`steps_per_execution` must divide {step}, the step of the epoch after which "
                f"the run was stopped. Received: steps_per_execution={together}"
            )

    def skips(self, steps):
        """Returns whether the next `steps` steps are to be skipped, and counts them off."""
        self._left -= steps
        return self._left + steps > 0

    def count(self, seen, loss):
        """Records how many images the metrics have seen, and their mean loss."""
        self.seen, self._loss = seen, loss

    def loss_of_last(self, seen, mean):
        """Records as `count` does; returns the mean loss of the images seen since."""
        if seen <= self.seen:  # the metrics were reset
            self.count(0.0, 0.0)
        last = (mean * seen - self._loss * self.seen) / max(1.0, seen - self.seen)
        self.count(seen, mean)
        return last


class Follow(keras.callbacks.Callback):
    """Updates a position when an epoch begins. `fit` puts it before the user's callbacks."""

    def __init__(self, position):
        super().__init__()
        self.position = position

    def on_epoch_begin(self, epoch, logs=None):
        # A CallbackList that the user made may lack the number of steps.
        self.position.num_steps = (self.params or {}).get("steps") or self.position.num_steps
        self.position.begin_epoch(epoch)


class Saving(keras.callbacks.Callback):
    """Has a Backup save when all callbacks are done. `fit` puts it after the user's."""

    def __init__(self, backup):
        super().__init__()
        self.backup = backup

    def on_train_batch_end(self, batch, logs=None):
        self.backup.after_batch(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self.backup.after_test_batch()

    def on_epoch_end(self, epoch, logs=None):
        self.backup.after_epoch(epoch, logs)

    def on_train_end(self, logs=None):
        self.backup.after_training()


def skip_completed_steps(step_function, model):
    """Wraps a step function so that steps of an earlier process are not made again."""

    def function(*args):
        if model.position.skips(model.steps_per_execution):
            logs = dict(model.position.skip_logs)
            return (logs, args[0]) if len(args) > 1 else logs  # on JAX the state goes through
        return step_function(*args)

    return function


def check_logs(step_function, model, training):
    """Wraps a step function of Keras's trainer so that bad steps raise.

    Works on what the function returns, logs or (logs, state), and so on every backend.
    The label range and the number of images leave the logs here and never reach a callback.
    """

    def checked(*args):
        result = step_function(*args)
        logs = result[0] if isinstance(result, tuple) else result
        if LOW not in logs:
            return result
        low, high, seen = (float(logs.pop(name)) for name in (LOW, HIGH, SEEN))
        out_of_range = low < 0 or high >= model.num_classes
        # In an evaluation, too: one in the middle of an epoch fills the same metrics.
        last = model.position.loss_of_last(seen, float(logs["loss"]))
        what = _diverged(model, logs, last) if training else None
        if (out_of_range or what) and isinstance(result, tuple):
            # On JAX the step has consumed the model's variables; without the new ones it
            # could not be used, nor saved, after the error.
            model.take_back(result[1], training)
        if out_of_range:
            raise ValueError(range_message(low, high, model.num_classes))
        if what:
            error = what(int(model.step.numpy()))
            if model.position.recover is None or not model.position.recover(error):
                raise error
            return _recovered(model, isinstance(result, tuple))
        return result

    return checked


def _diverged(model, logs, last):
    """Returns None, or the function that makes the error out of the number of the step."""
    limit = model.position.max_loss
    if not math.isfinite(float(logs["loss"])):
        terms = [n for n in model.term_names if n in logs and not math.isfinite(float(logs[n]))]
        return lambda step: NonFiniteLossError(step, terms)
    if limit is None or last <= limit:
        return None
    return lambda step: LossBlowUpError(step, last, limit)


def _recovered(model, is_jax):
    """Returns what a step function returns, of the state that was put back."""
    logs = {name: float(value) for name, value in model.get_metrics_result().items()}
    if not is_jax:
        return logs
    return logs, model.hand_out()
