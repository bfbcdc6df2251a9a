"""Draws that depend on nothing but their view; large images, averaged whatever their form."""

import numpy as np
import pytest
from test_stream import RANDOM, bitmap, crop_of, png, read, smooth, write

from sd_keras.data import stream
from sd_keras.data.crops import PROTOCOLS, draw
from sd_keras.data.decoding import decode_part


@pytest.mark.parametrize("protocol", RANDOM)
def test_a_view_is_drawn_alike_whatever_else_is_drawn(protocol):
    both = draw(protocol, 200, 2, 7, 3, 4000)
    for count in (4000, 20):
        alone = draw(protocol, 200, 1, 7, 3, count)
        for column, columns in zip(alone, both):
            assert column.dtype == columns.dtype and column.shape[:2] == (count, 1)
            np.testing.assert_array_equal(column[:, 0], columns[:count, 0])
    places, flips = both
    assert places.shape == (4000, 2, 2) and flips.shape == (4000, 2) and flips.dtype == bool
    # Corners in both directions, and flips, of both views: none tells of another.
    numbers = np.concatenate([places.reshape(4000, 4) / places.max(), flips], 1)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.07
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.03
    for changed in ((8, 3), (7, 4)):
        for column, other in zip(both, draw(protocol, 200, 2, *changed, 4000)):
            assert 0.4 < (column != other).mean() <= 1
    if protocol == "paper":
        assert places.dtype == np.int32
        assert places.min((0, 1)).tolist() == [0, 0] and places.max((0, 1)).tolist() == [56, 56]
    else:
        assert places.dtype == np.int64 and places.min() >= 0


@pytest.mark.parametrize("protocol", RANDOM)
def test_one_view_is_the_first_of_two(tmp_path, protocol):
    folder = write(tmp_path, [png(smooth(40, 50, i)) for i in range(12)])
    settings = {"size": 32, "protocol": protocol, "seed": 4}
    alone = read(stream(folder, 6, **settings).dataset(2))
    both = read(stream(folder, 6, views=2, **settings).dataset(2))
    for (view, labels, _), (first, second, more_labels, _) in zip(alone, both, strict=True):
        np.testing.assert_array_equal(view, first)
        np.testing.assert_array_equal(labels, more_labels)
        assert not any(np.array_equal(*pair) for pair in zip(first, second))


def averaged(image, ratio):
    """Rounded means of squares; those beyond the edge are filled with the last pixels."""
    height, width = (-(-side // ratio) for side in image.shape[:2])
    beyond = [(0, height * ratio - image.shape[0]), (0, width * ratio - image.shape[1]), (0, 0)]
    squares = np.pad(image, beyond, "edge").reshape(height, ratio, width, ratio, 3)
    return np.floor(squares.mean((1, 3)) + 0.5).astype("uint8")


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(48, 40), (49, 41), (31, 57)])
def test_a_part_of_a_png_is_of_means(shape, which):
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), "uint8")
    expected = averaged(image, 2**which)
    height, width = expected.shape[:2]
    # All of it; the last pixel, in which there may be one pixel of the image; one in between.
    parts = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (1, 2, height - 2, width - 2)]
    for top, left, height, width in parts:
        window = tf.constant([top, left]), tf.constant([height, width])
        part = decode_part(png(image), "other", which, *window).numpy()
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, expected[top : top + height, left : left + width])


@pytest.mark.parametrize("shape", [(600, 800), (513, 1027), (1031, 1333), (2049, 2055)])
def test_png_and_jpeg_of_a_picture_give_the_same_crops(shape):
    import tensorflow as tf

    # Noise, in which every pixel that is left out would show.
    noise = np.random.default_rng(1).normal(0, 20, (*shape, 3))
    image = np.clip(smooth(*shape, 3) + noise, 0, 255).astype("uint8")
    # Colours at full resolution: what JPEG otherwise leaves out of them is no matter of crops.
    as_jpeg = tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False).numpy()
    as_png = png(image)
    for protocol in PROTOCOLS:
        for row in range(2):
            views, others = (crop_of(c, protocol, row)[0] for c in (as_jpeg, as_png))
            for view, other in zip(views, others, strict=True):
                # 0.3 to 0.4 of 255, as by rounding; 8 or more if pixels were left out.
                assert np.abs(view - other).mean() < 0.5
                assert np.abs(view - other).max() <= 6


def checkerboard(height, width):
    """Pixels 0 and 1 in turn."""
    return (np.add.outer(np.arange(height), np.arange(width)) % 2).astype("uint8")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shape", [(512, 600), (1028, 1100), (2056, 2048)])
def test_a_checkerboard_of_single_pixels_becomes_grey(shape, protocol):
    board = np.repeat(255 * checkerboard(*shape)[..., None], 3, 2)
    bmp = bitmap(shape[1], shape[0])[:62] + checkerboard(*shape).tobytes()
    # The smallest windows of random_resized_crop, too, have more than twice this size.
    size = 64 if protocol == "random_resized_crop" else 224
    for content, colour in ((png(board), (128, 128, 128)), (bmp, (45, 35, 25))):
        for row in range(2):
            for view in crop_of(content, protocol, row, size)[0]:
                assert (view == colour).all()


def test_a_checkerboard_of_odd_size_becomes_grey():
    board = np.repeat(255 * checkerboard(1031, 1333)[..., None], 3, 2)
    ((view,), _) = crop_of(png(board), "center", 0)
    assert (view == 128).all()
