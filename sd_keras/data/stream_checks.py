"""What `stream` answers to wrong arguments."""

import numbers

from sd_keras.data.batches import check_whole
from sd_keras.data.crops import PAPER_SIZE, PROTOCOLS


def check_crops(protocol, size, views, max_pixels):
    """Raises ValueError where the crops asked for cannot be made."""
    check_whole("size", size, 1)
    check_whole("max_pixels", max_pixels, 1)
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}. Received: protocol={protocol!r}"
        )
    if protocol != "random_resized_crop" and size > PAPER_SIZE:
        raise ValueError(
            f"`size` must be at most {PAPER_SIZE} for the protocol {protocol!r}, which crops "
            f"images of {PAPER_SIZE} × {PAPER_SIZE}. Received: size={size}"
        )
    check_whole("views", views, 1)
    if views > (2 if protocol != "center" else 1):
        allowed = "1, as its crop is not random," if protocol == "center" else "1 or 2"
        raise ValueError(
            f"`views` must be {allowed} for the protocol {protocol!r}. Received: views={views}"
        )


def check_batches(batch_size, shard, seed):
    """Raises ValueError where batches of that size and order cannot be divided so."""
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    pair = isinstance(shard, (tuple, list)) and len(shard) == 2
    if (
        not pair
        or not all(type(number) is int for number in shard)
        or not (0 <= shard[0] < shard[1])
    ):
        raise ValueError(
            "`shard` must be a pair (index, count) of integers with 0 <= index < count. "
            f"Received: shard={shard!r}"
        )
    check_divisible(batch_size, shard[1])


def check_limit(max_bad_images):
    """Raises ValueError where the limit is neither a number of images nor a share."""
    real = isinstance(max_bad_images, numbers.Real) and not isinstance(max_bad_images, bool)
    whole = real and (max_bad_images < 1 or max_bad_images == int(max_bad_images))
    if not whole or max_bad_images < 0:
        raise ValueError(
            "`max_bad_images` must be a whole number of images, or a share of them of at least 0 "
            f"and below 1. Received: max_bad_images={max_bad_images!r}"
        )


def check_enough(batch_size, total, protocol, count):
    """Raises ValueError where training would have no whole batch, or a part no image."""
    if protocol != "center" and batch_size > total:
        raise ValueError(
            f"`batch_size` must be at most the number of images, {total}, as training leaves "
            f"out an incomplete batch. Received: batch_size={batch_size}"
        )
    steps = -(-total // batch_size)
    if count > 1 and steps * count > total:
        raise ValueError(
            f"`batch_size` must give each of {count} parts an image of each batch: {steps} "
            f"batches of {total} images do not. Received: batch_size={batch_size}"
        )


def check_divisible(batch_size, count):
    """Raises ValueError where a batch cannot be divided into `count` equal parts."""
    if batch_size % count:
        raise ValueError(
            f"`batch_size` must be divisible by the number of shards, {count}. "
            f"Received: batch_size={batch_size}"
        )
