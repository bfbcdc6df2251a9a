"""Networks that stop early: at the first exit that is sure enough, or by a deadline."""

import collections
import statistics
import time

import keras
import numpy as np
from keras import ops

from sd_keras.inference.arrays import log_softmax
from sd_keras.inference.compiled import compiled
from sd_keras.inference.policy import check_exits
from sd_keras.models.exits import exit_names
from sd_keras.models.sections import sections as _sections

# The median of so many times is what a section is expected to take.
REMEMBERED = 9


class EarlyExit:
    """Runs a network section by section; each sees only the rows that are still undecided.

    Answers are those of `decide` on all of the network's outputs, at less cost.

    Args:
        network: made by `attach_exits`; its weights may change afterwards.
        policy: a `Policy` for its exits.

    Raises:
        ValueError: for a network without exits, or a policy for other ones.
    """

    def __init__(self, network, policy):
        names = exit_names(network)
        check_exits(policy, len(names))
        self.policy = policy
        self.input_shape = tuple(network.input_shape[1:])
        self.classes = network.output[names[0]].shape[-1]
        self.temperatures = np.array(policy.temperatures)
        self.sections = [compiled(section) for section in _sections(network)]

    def __call__(self, images):
        """Answers one batch.

        Args:
            images: `(n, h, w, c)`, raw pixels; n may be 0. Under jax it compiles for each n.

        Returns:
            A dict of NumPy arrays in the order of the rows: `logits` `(n, classes)` float32 of
            the exit used; `probabilities`, their softmax at the exit's temperature; `exit`
            `(n,)`, 1 for exit_1; `confidence` `(n,)`, in float64.

        Raises:
            ValueError: for images of another size, or logits that are not finite.
        """
        images = checked_images(images, self.input_shape)
        rows, count = np.arange(len(images)), len(images)
        logits = np.zeros((count, self.classes), "float32")
        used, sure = np.zeros(count, "int64"), np.zeros(count)
        earlier, tensors = np.empty((count, 0), "int64"), [images]
        for index, section in enumerate(self.sections):
            if not len(rows):
                break
            outputs = section(tensors)
            own = finite_logits(outputs["logits"], index)[: len(rows)]
            confidence = self.policy.confidence(index, own, earlier)
            leaves = self.policy.leaves(index, confidence)
            left = rows[leaves]
            logits[left], used[left], sure[left] = own[leaves], index + 1, confidence[leaves]
            stay = np.flatnonzero(~leaves)
            earlier = np.concatenate([earlier, own.argmax(axis=1)[:, None]], axis=1)[stay]
            rows = rows[stay]
            tensors = _gathered(outputs["handed_on"], stay, count)
        scaled = logits / self.temperatures[used - 1][:, None]
        probabilities = np.exp(log_softmax(scaled)).astype("float32")
        return {"logits": logits, "probabilities": probabilities, "exit": used, "confidence": sure}

    def predict(self, images, batch_size=256):
        """Answers images batch by batch.

        Args:
            images: `(n, h, w, c)`, raw pixels; n may be 0.
            batch_size: images per batch, at least 1.

        Returns:
            The dict that a call returns, for all images.

        Raises:
            ValueError: as a call does, or for a `batch_size` below 1.
        """
        if not batch_size >= 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
        starts = range(0, max(len(images), 1), batch_size)
        parts = [self(images[start : start + batch_size]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Anytime:
    """Runs section after section until the next would end too late.

    How long a section takes is the median of the last times it ran with so many images, or
    else with the next larger number known; a section never timed is not begun under a deadline,
    so call `warm_up` first. The first exit is always answered, whatever the deadline.

    Args:
        network: made by `attach_exits`; its weights may change afterwards.
        clock: function that returns the time in seconds.
        slack: share of the expected time that is added to it.

    Raises:
        ValueError: for a network without exits, or a slack below 0.
    """

    def __init__(self, network, clock=time.perf_counter, slack=0.1):
        if not slack >= 0:
            raise ValueError(f"`slack` must be at least 0. Received: slack={slack!r}")
        exit_names(network)
        self.clock = clock
        self.slack = slack
        self.input = network.inputs[0]
        self.sections = [compiled(section) for section in _sections(network)]
        self.times = [{} for _ in self.sections]

    def __call__(self, images, deadline=None):
        """Answers one batch.

        Args:
            images: `(n, h, w, c)`, raw pixels, n at least 1.
            deadline: time by `clock` at which the answer is to be there, for instance
                `time.perf_counter() + 0.05`; None to run them all.

        Returns:
            A dict: `logits` `(n, classes)`, NumPy, of the deepest exit reached; `exit`, an
            integer, 1 for exit_1; `seconds`, when it was there, since the call.

        Raises:
            ValueError: for images of another size, or logits that are not finite.
        """
        start = now = self.clock()
        images = checked_images(images, tuple(self.input.shape[1:]))
        if not len(images):
            raise ValueError(
                f"`images` must hold at least one. Received: images of shape {images.shape}"
            )
        tensors, count = [images], len(images)
        for index, section in enumerate(self.sections):
            if index and deadline is not None:
                seconds = self.expected(index, count)
                if seconds is None or not seconds * (1 + self.slack) <= deadline - now:
                    break
            outputs = section(tensors)
            # The clock is read once the answer has come to the host.
            logits, reached = finite_logits(outputs["logits"], index), index + 1
            tensors, before, now = outputs["handed_on"], now, self.clock()
            memory = collections.deque(maxlen=REMEMBERED)
            self.times[index].setdefault(count, memory).append(now - before)
        return {"logits": logits, "exit": reached, "seconds": now - start}

    def warm_up(self, batch_size=1, repeats=5):
        """Runs everything on blank images, to compile it and to learn its times.

        Args:
            batch_size: how many images there will be.
            repeats: how often it is timed, after one run that compiles.

        Returns:
            Seconds to each exit, a list of C, rising: costs for `choose_thresholds` too.

        Raises:
            ValueError: for a network that takes images of any size: call it instead.
        """
        shape = self.input.shape[1:]
        if None in shape:
            raise ValueError(
                "`network` must take images of one size; call it with deadline=None instead. "
                f"Received: network with input shape {shape}"
            )
        images = np.zeros((batch_size, *shape), self.input.dtype)
        self(images)
        for times in self.times:
            times.pop(batch_size)
        for _ in range(repeats):
            self(images)
        return np.cumsum([self.expected(i, batch_size) for i in range(len(self.times))]).tolist()

    def expected(self, index, count):
        """Seconds that the section of that index takes for so many images; None if unknown.

        A batch larger than any known is expected to take proportionally longer than the largest.
        """
        known = sorted(self.times[index])
        if not known:
            return None
        size = next((size for size in known if size >= count), known[-1])
        return statistics.median(self.times[index][size]) * max(1.0, count / size)


def _gathered(tensors, stay, count):
    """Returns the rows that stay of each tensor, at most `count`.

    Under jax the number of rows is a power of two, to avoid recompiling for every size.
    """
    if not len(stay):
        return []
    if keras.config.backend() == "jax":
        padded = min(1 << (len(stay) - 1).bit_length(), count)
        stay = np.pad(stay, (0, padded - len(stay)), mode="edge")
    stay = stay.astype("int32")
    return [ops.take(tensor, stay, axis=0) for tensor in tensors]


def checked_images(images, input_shape):
    """Returns images of a network's size as an array."""
    images = ops.convert_to_numpy(images)
    shape = images.shape[1:]
    fits = len(shape) == len(input_shape)
    fits = fits and all(a in (None, b) for a, b in zip(input_shape, shape))
    if images.ndim < 2 or not fits:
        raise ValueError(
            f"`images` must be of shape (n, {', '.join(map(str, input_shape))}). "
            f"Received: images of shape {images.shape}"
        )
    return images


def finite_logits(logits, index):
    """Returns the logits of the exit of that index as an array of finite numbers.

    NaN is below every threshold, and no answer either.
    """
    logits = ops.convert_to_numpy(logits)
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise ValueError(
            f"`network` must give finite logits. Received: exit_{index + 1} with {len(bad)} rows "
            "that are not"
        )
    return logits
