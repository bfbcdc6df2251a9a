"""What the parts of benchmark.py train on, unless they say otherwise; needs NumPy only."""

import numpy as np

IMAGE_SHAPE = (32, 32, 3)


def batch(settings, batch_size):
    """Returns random raw images and class numbers."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, *IMAGE_SHAPE), dtype="uint8")
    return images, generator.integers(0, settings.num_classes, batch_size, dtype="int32")
