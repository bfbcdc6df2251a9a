"""What a process says to benchmark.py that works in turn with others, and how it waits for them.

A line of input asks for a turn, a line of JSON on the output answers it.
"""

import json
import os
import sys
import time


class Turns:
    """The conversation of such a process, which ends when whoever asked is gone.

    What libraries print goes to the errors: the output is for the answers alone.
    """

    def __init__(self):
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def answer(self, **values):
        """Sends one answer."""
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def wait(self):
        """Waits until a turn is asked for; False says that none will be."""
        return bool(sys.stdin.readline())


def turns_callback(turns, memory):
    """Returns a Keras callback for a `fit` whose epochs are turns, the first one asked for.

    Args:
        turns: the conversation.
        memory: a function that returns the bytes taken at most so far.
    """
    import keras

    class Epochs(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            # The logs are numbers already, so the device has done its work.
            seconds = time.perf_counter() - self.start
            turns.answer(seconds=seconds, memory=memory())
            if not turns.wait():
                self.model.stop_training = True
            self.start = time.perf_counter()

    return Epochs()


def resident_set():
    """The most bytes of memory that this process has had at once."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
