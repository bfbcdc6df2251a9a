"""Where a `fit` stands: what its data, its step function and its callbacks must agree on."""

import keras


class Position:
    """The epoch of a fit, and what of it an earlier process has done already.

    Attributes:
        epoch: of the step being made, counted from 0.
        skip_steps: first steps of this epoch that are not made again.
        skip_logs: what the logs said behind them.
        counts_on: whether the data can begin behind `skip_steps`.
        stop_wanted: this process was asked to end.
        stop_agreed: any of the workers was, known by all of them since the same step.
        data: what the places in the data depend on, or None.
        recover: None, or a function of a `DivergenceError` that puts usable weights in place and
            returns True.
        max_loss: loss of a step above which it counts as diverged, or None.
        num_steps: of an epoch, or None where nobody knows.
    """

    def __init__(self):
        self.counts_on = self.stop_wanted = self.stop_agreed = False
        self.data = self.recover = self.max_loss = self.num_steps = None
        self.begin_epoch(0)

    def __call__(self):
        """Returns the place from which the data of this epoch are to be read."""
        return self.epoch, self.skip_steps

    def begin_epoch(self, epoch, skip_steps=0, skip_logs=None):
        """Takes note of an epoch that begins, or goes on behind some steps."""
        self.epoch = epoch
        self.skip_steps = self._left = self._at = skip_steps
        self.skip_logs = skip_logs or {}
        self.count(skip_steps, self.skip_logs.get("loss", 0.0))

    def check_goes_on(self, step, data, received):
        """Raises ValueError unless the data can begin behind a step of an epoch.

        Args:
            step: the number of steps made, 0 at the end of an epoch.
            data: the `data` of the position that made them.
            received: what the error names.
        """
        if step and not self.counts_on:
            raise ValueError(
                "`x` must be a sd_keras.data.Stream to go on in the middle of an epoch, where "
                f"the newest backup is. Received: {received}"
            )
        if step and data != self.data:
            raise ValueError(
                f"`x` must be the stream that the backup was made with, {data}, to go on "
                f"in the middle of an epoch. Received: x with {self.data}"
            )

    def skips(self, steps):
        """Tells whether the next `steps` steps are not to be made, and counts them off."""
        self._left -= steps
        return self._left + steps > 0

    def advance(self, steps):
        """Goes on by steps executed together; returns their number, smaller at an epoch's end."""
        made = steps if self.num_steps is None else min(steps, self.num_steps - self._at)
        self._at += made
        return max(1, made)

    def count(self, steps, loss):
        """Takes note of how many steps the metrics have seen, and their mean loss."""
        self._steps, self._loss = steps, loss

    def loss_of(self, steps, mean):
        """Returns the mean loss of the last `steps` steps, given that of all of this epoch."""
        total = mean * (self._steps + steps)
        last = (total - self._loss * self._steps) / steps
        self.count(self._steps + steps, mean)
        return last


class Follow(keras.callbacks.Callback):
    """Tells a position when an epoch begins. `fit` puts it in front of the user's callbacks."""

    def __init__(self, position):
        super().__init__()
        self.position = position

    def on_epoch_begin(self, epoch, logs=None):
        self.position.num_steps = self.params["steps"]
        self.position.begin_epoch(epoch)


def skipping(step_function, model):
    """Wraps a step function so that steps of an earlier process are not made again."""

    def function(*args):
        if model.position.skips(model.steps_per_execution):
            logs = dict(model.position.skip_logs)
            return (logs, args[0]) if len(args) > 1 else logs  # on JAX the state goes through
        return step_function(*args)

    return function
