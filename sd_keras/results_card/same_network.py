"""Whether the functions of an exported file answer as the network that it should be made of."""

import keras
import numpy as np

from sd_keras import keras_internals
from sd_keras.models.exits import exit_names

# Largest difference of logits as a share of the largest; least correlation of rounded ones.
TOLERANCE = 1e-2
CORRELATION = 0.95


def check_same(functions, images, network, batch=None, rounded=False):
    """Compares the logits of an export's exits with the network's on a few images.

    Args:
        functions: from the names of exits to functions of raw images that return logits.
        images: raw.
        network: made by `attach_exits`.
        batch: number of images in a call; None for any.
        rounded: whether the export holds numbers of 8 or 16 bits, whose answers need only
            correlate.

    Raises:
        ValueError: if an exit answers otherwise, or the network has none of that name.
    """
    names = exit_names(network)
    others = sorted(functions.keys() - {*names, "ensemble"})
    if others:
        raise ValueError(f"`path` must hold exits of the network, {names}. Received: {others}")
    batch = batch or min(len(images), 32)
    images = np.resize(images, (-(-min(len(images), 32) // batch) * batch, *np.shape(images)[1:]))
    expected = network.predict(images, batch_size=32, verbose=0)
    rounded = rounded or any(
        "16" in each.compute_dtype for each in keras_internals.flatten_layers(network)
    )
    for name in [name for name in names if name in functions]:
        parts = [functions[name](images[at : at + batch]) for at in range(0, len(images), batch)]
        wanted = keras.ops.convert_to_numpy(expected[name]).astype("float64")
        found = np.concatenate(parts)
        if found.shape != wanted.shape or not _alike(found, wanted, rounded):
            raise ValueError(
                "`path` must hold an export of this network: logits differ. "
                f"Received: other logits at {name}"
            )


def _alike(found, wanted, rounded):
    if np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max():
        return True
    if not rounded:
        return False
    found, wanted = found - found.mean(), wanted - wanted.mean()
    scale = np.linalg.norm(found) * np.linalg.norm(wanted)
    return scale > 0 and (found * wanted).sum() >= CORRELATION * scale
