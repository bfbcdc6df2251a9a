"""Seeds of random layers, so that layers of one seed do not draw the same numbers."""

import zlib


def of_kind(seed, kind):
    """Returns the seed that a kind of layer draws from, of the one that the user gave.

    Two layers that draw from one seed at each step get the same numbers, so that, say, how far
    an image is mixed would depend on how it was cropped.

    Args:
        seed: integer or None.
        kind: name of the class.
    """
    return None if seed is None else (int(seed) + zlib.crc32(kind.encode())) % 2**31
