"""Noise of the sensor and of the transmission.

Like all corruptions, functions of images `(n, h, w, c)` float32 from 0 to 1, the place of the
severity 0…4 and a NumPy generator; what they return may leave that range.
"""

import numpy as np

DEVIATIONS = (0.04, 0.07, 0.11, 0.16, 0.22)
PHOTONS = (120, 60, 30, 15, 8)
SPOILT = (0.01, 0.03, 0.06, 0.10, 0.16)


def gaussian(images, severity, generator):
    """Adds normal noise of DEVIATIONS, that of an amplifier in poor light."""
    return images + DEVIATIONS[severity] * generator.standard_normal(images.shape, "float32")


def shot(images, severity, generator):
    """Counts light by the photon, at most PHOTONS of them."""
    photons = PHOTONS[severity]
    return (generator.poisson(images * photons) / photons).astype("float32")


def impulse(images, severity, generator):
    """Turns a share SPOILT of all values black or white."""
    uniform = generator.random(images.shape, "float32")
    spoilt = SPOILT[severity]
    return np.where(uniform < spoilt, (uniform < spoilt / 2).astype("float32"), images)
