"""Batches in which each image comes with another one of its class."""

import numpy as np

from sd_keras.data.batches import Batches


class SameClassPairs(Batches):
    """As `Batches`, with a partner of the same class for each image: the data of CS-KD.

    Each batch is `((images, partners), labels)`; a partner is drawn evenly among the other
    images of the class, by the seed, the epoch and the batch alone. The only image of a class
    is its own partner. For `sd_keras.methods.class_wise` (Yun et al. 2020, section 3.1), which
    takes the two as views.

    Args and errors: as `Batches`, with class numbers `(n,)` as labels.
    """

    def __init__(
        self, images, labels, batch_size, seed=None, initial_epoch=0, drop_remainder=False
    ):
        if getattr(labels, "ndim", 0) != 1:
            raise ValueError(
                "`labels` must be class numbers (n,), of which partners share one. "
                f"Received: labels of shape {np.shape(labels)}"
            )
        super().__init__(images, labels, batch_size, seed, initial_epoch, drop_remainder)
        self._by_class = np.argsort(labels, kind="stable")
        _, self._class, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._counts = counts
        self._firsts = np.cumsum(counts) - counts
        self._place = np.empty(len(labels), "int64")
        self._place[self._by_class] = np.arange(len(labels))

    def __getitem__(self, index):
        """Returns batch `index`, 0 to len − 1, of the current epoch."""
        images, labels = super().__getitem__(index)
        first = index * self.batch_size
        chosen = self.order[first : first + len(labels)]
        generator = np.random.default_rng((self.seed or 0, self.epoch, index, 1))
        return (images, self.images[self._partners(chosen, generator)]), labels

    def _partners(self, chosen, generator):
        """Returns the number of a partner for each of the images with these numbers."""
        kinds = self._class[chosen]
        counts, firsts = self._counts[kinds], self._firsts[kinds]
        # A step of 1 … count − 1 around the class never comes back to the image itself.
        steps = 1 + (generator.random(len(chosen)) * (counts - 1)).astype("int64")
        return self._by_class[firsts + (self._place[chosen] - firsts + steps) % counts]
