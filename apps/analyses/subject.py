"""The networks that analyze.py looks at, with their answers computed once."""

import functools

import run_data
from app_start import lazy_import

sd_keras = lazy_import("sd_keras")

# Methods that need nothing beside the network and its data.
ALONE = ("baseline", "two_branch", "deep_supervision", "be_your_own_teacher", "data_distortion")


class Subject:
    """A network and what it says of the images of the test split.

    Args:
        label: what plots and tables call it.
        network: made by `attach_exits`.
        method: name of the method it was trained by, or None if that is not known.
        test, train: pairs of images and class numbers.
    """

    def __init__(self, label, network, method, test, train):
        self.label = label
        self.network = network
        self.method = method
        self.test = test
        self.train = train

    @functools.cached_property
    def outputs(self):
        """Logits and features of the test images."""
        return self.network.predict(self.test[0], batch_size=256, verbose=0)

    @property
    def exits(self):
        """Names of the exits, shallow to deep."""
        return sd_keras.exit_names(self.network)

    @property
    def methods(self):
        """Names of the methods by whose loss gradients are taken: its own, and the plain one.

        Where its own is not known, or needs a teacher, that of a paper.
        """
        own = self.method
        if own is None or not set(own.split("+")) <= set(ALONE):
            own = "be_your_own_teacher" if len(self.exits) > 1 else "data_distortion"
        return list(dict.fromkeys((own, "baseline")))


def some(pair, count, seed):
    """Returns at most so many of a pair's images and class numbers, drawn by the seed."""
    return pair if len(pair[0]) <= count else run_data.drawn(pair, count, seed)
