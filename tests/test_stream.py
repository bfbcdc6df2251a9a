"""The input pipeline for image folders: order, crops against NumPy, bad images, every error."""

import re
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from sd_keras.data import Stream, stream
from sd_keras.data.crops import crops, draw
from sd_keras.data.stream import SHOWN, BadImages

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet_sample"
RANDOM = ("paper", "random_resized_crop")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keeps what is remembered of data sets out of the home of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def smooth(height, width, seed=0):
    """A picture without detail, of which half a pixel's shift changes little."""
    generator = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    a, b, phase = generator.uniform(1, 4, (3, 3))
    return (127.5 + 120 * np.sin(a * rows + b * columns + phase)).astype("uint8")


def jpeg(image, quality=95):
    import tensorflow as tf

    return tf.io.encode_jpeg(image, quality=quality).numpy()


def png(image):
    import tensorflow as tf

    return tf.io.encode_png(image).numpy()


def write(root, contents, classes=None):
    """Writes one file per content into its class folder, each file a class if none are given."""
    for index, content in enumerate(contents):
        name = f"class{index if classes is None else index % classes:03}"
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{index:03}.JPEG").write_bytes(content)
    return f"folder:{root}"


def read(data):
    """Returns the batches as NumPy arrays: views (tuple of one or two), labels, weights."""
    batches = []
    for views, labels, weights in data.as_numpy_iterator():
        views = views if isinstance(views, tuple) else (views,)
        assert all(view.dtype == np.uint8 for view in views)
        assert labels.dtype == np.int32 and weights.dtype == np.float32
        batches.append((*views, labels, weights))
    return batches


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for value, another in zip(batch, other, strict=True):
            np.testing.assert_array_equal(value, another)


def resized(image, height, width):
    """Bilinear interpolation between pixel centres, without antialiasing, in float64."""
    for axis, size in ((0, height), (1, width)):
        place = (np.arange(size) + 0.5) * image.shape[axis] / size - 0.5
        place = np.clip(place, 0, image.shape[axis] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        part = (place - low).reshape([-1 if k == axis else 1 for k in range(3)])
        image = np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part
    return image


def crop_of(content, protocol, row, size=224, form=None):
    """Returns the views of one image for row `row` of the draws of epoch 0, seed 0."""
    draws = draw(protocol, size, 1 if protocol == "center" else 2, 0, 0, row + 1)
    form = form or ("jpeg" if content[:2] == b"\xff\xd8" else "other")
    made = crops(content, form, protocol, size, *(column[row] for column in draws), 10**7)
    return [view.numpy().astype(int) for view in made], [column[row] for column in draws]


# Order: a function of seed and epoch, whatever is skipped and however it is divided.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """148 small images in 148 classes: JPEGs, here and there a PNG or a damaged file."""
    contents = [jpeg(smooth(30 + i % 7, 40 - i % 5, i)) for i in range(148)]
    contents[3] = contents[90] = png(smooth(31, 33, 3))
    contents[10], contents[140] = b"no image", contents[140][:300]
    return write(tmp_path_factory.mktemp("mixed"), contents)


@pytest.mark.large
@pytest.mark.parametrize("protocol", RANDOM)
def test_skipping_and_sharding_leave_every_batch_as_it_is(mixed, protocol):
    def opened(**changes):
        settings = {"size": 16, "protocol": protocol, "views": 2, "seed": 5, "max_bad_images": 2}
        return stream(mixed, 66, **settings | changes)

    whole = opened()
    assert (whole.num_examples, whole.num_classes, whole.steps_per_epoch) == (148, 148, 2)
    batches = read(whole.dataset(3))
    assert [batch[0].shape for batch in batches] == [(66, 16, 16, 3)] * 2
    assert_same(batches, read(opened().dataset(3)))
    assert_same(batches[1:], read(whole.dataset(3, skip_steps=1)))
    assert read(whole.dataset(3, skip_steps=2)) == []
    # 66 images are two calls of 33, a third of them one call of 22.
    shards = [read(opened(shard=(index, 3)).dataset(3)) for index in range(3)]
    joined = [[np.concatenate(parts) for parts in zip(*step)] for step in zip(*shards)]
    assert_same(batches, joined)

    labels = np.concatenate([batch[2] for batch in batches])
    weights = np.concatenate([batch[3] for batch in batches])
    order = whole.rows(3).ravel()
    np.testing.assert_array_equal(labels[weights == 1], order[weights == 1])
    assert set(order[weights == 0]) <= {10, 140} and len(set(order)) == 132
    assert not np.array_equal(order, whole.rows(4).ravel())
    assert not np.array_equal(order, opened(seed=6).rows(3).ravel())


def test_both_crops_and_order_change_with_the_epoch(tmp_path):
    images = stream(write(tmp_path, [jpeg(smooth(40, 50))] * 8), 8, size=100, views=2)
    first, second = (read(images.dataset(epoch))[0] for epoch in range(2))
    # All eight files hold the same picture, so that only the crops differ.
    views = [view[index] for batch in (first, second) for view in batch[:2] for index in range(8)]
    assert len({view.tobytes() for view in views}) == 32
    assert not np.array_equal(first[2], second[2])


def test_what_is_skipped_is_not_read(tmp_path):
    images = stream(write(tmp_path, [jpeg(smooth(20, 20, i)) for i in range(12)]), 4, size=8)
    for index in images.rows(1)[:2].ravel():
        next((tmp_path / f"class{index:03}").iterdir()).unlink()
    (batch,) = read(images.dataset(1, skip_steps=2))
    assert batch[2].all() and images.bad_images.count == 0
    np.testing.assert_array_equal(batch[1], images.rows(1)[2])


def test_evaluation_keeps_the_remainder_and_the_order_of_the_files(tmp_path):
    contents = [jpeg(smooth(30, 40, i)) for i in range(11)]
    write(tmp_path / "train", contents)
    folder = write(tmp_path / "val", contents).removesuffix("/val")
    images = stream(folder, 8, "validation", size=16, protocol="center")
    whole = read(images.dataset())
    assert images.steps_per_epoch == 2 and [len(batch[1]) for batch in whole] == [8, 3]
    np.testing.assert_array_equal(np.concatenate([b[1] for b in whole]), np.arange(11))
    assert all(batch[2].all() for batch in whole)
    assert_same(whole[1:], read(images.dataset(7, skip_steps=1)))
    # Shards make the same number of steps, and each has an image in each of them.
    shards = []
    for index in range(4):
        shard = stream(folder, 8, "validation", size=16, protocol="center", shard=(index, 4))
        shards.append(read(shard.dataset()))
        assert len(shards[-1]) == 2 and {len(batch[1]) for batch in shards[-1]} <= {1, 2}
        assert shard.bad_images.count == 0
    joined = [np.concatenate(p) for p in zip(*(s[step] for step in range(2) for s in shards))]
    assert_same([joined], [[np.concatenate(part) for part in zip(*whole)]])


# Crops against NumPy.


@pytest.mark.parametrize("shape", [(375, 500), (333, 256), (200, 240), (256, 100), (1, 1)])
def test_paper_crops_are_those_of_the_resized_image(shape):
    import tensorflow as tf

    content = jpeg(smooth(*shape, 1))
    decoded = tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()
    whole = resized(decoded, 256, 256)
    (center,), _ = crop_of(content, "center", 0)
    assert np.abs(center - whole[16:240, 16:240]).max() <= 0.51
    flipped = 0
    for row in range(3):
        views, (corners, flips) = crop_of(content, "paper", row)
        for view, (top, left), flip in zip(views, corners, flips):
            expected = whole[top : top + 224, left : left + 224]
            flipped += flip
            difference = np.abs(view - (expected[:, ::-1] if flip else expected))
            # Exact where the image is enlarged, else off by up to half a pixel of the file.
            steps = np.abs(np.diff(decoded.astype(int), axis=0)).max(initial=0)
            steps += np.abs(np.diff(decoded.astype(int), axis=1)).max(initial=0)
            assert difference.max() <= (0.51 if max(shape) < 256 else 1.01 + steps / 2)
    assert 0 < flipped < 6


def test_paper_crops_of_detail_are_exact_where_edges_lie_between_pixels():
    # 512 wide would be reduced, 256 is as it is: windows lie on pixels.
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), "uint8")
    for row in range(4):
        views, (corners, flips) = crop_of(png(image), "paper", row)
        for view, (top, left), flip in zip(views, corners, flips):
            expected = image[top : top + 224, left : left + 224]
            np.testing.assert_array_equal(view, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize(("shape", "ratio"), [((600, 800), 2), ((1100, 1024), 4)])
def test_large_images_are_averaged_and_not_sampled(shape, ratio):
    generator = np.random.default_rng(0)
    image = np.repeat(generator.integers(0, 256, (*shape, 1), "uint8"), 3, -1)
    (view,), _ = crop_of(jpeg(image, 100), "center", 0)
    trimmed = image[: shape[0] // ratio * ratio, : shape[1] // ratio * ratio].astype(float)
    blocks = trimmed.reshape(shape[0] // ratio, ratio, shape[1] // ratio, ratio, 3).mean((1, 3))
    expected = resized(blocks, 256, 256)[16:240, 16:240]
    # The scaled cosine transform is close to the mean of each block; sampling would be noise.
    assert np.corrcoef(view.ravel(), expected.ravel())[0, 1] > 0.95
    for protocol in RANDOM:
        views, _ = crop_of(jpeg(smooth(*shape)), protocol, 0)
        assert [view.shape for view in views] == [(224, 224, 3)] * 2


@pytest.mark.parametrize("as_jpeg", [False, True])
def test_windows_of_random_resized_crop(as_jpeg):
    # Red tells how far right a pixel was, green how far down: the crop tells its window.
    height, width = 200, 250
    image = np.zeros((height, width, 3), "uint8")
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    content = jpeg(image, 100) if as_jpeg else png(image)
    areas, mirrored, firsts = [], [], []
    for row in range(60):
        views, (_, flips) = crop_of(content, "random_resized_crop", row, size=32)
        assert not np.array_equal(*views)
        for view, flip in zip(views, flips):
            across, down = view[16, :, 0], view[:, 16, 1]
            across = across[::-1] if flip else across
            sides = (across[31] - across[0]) * 32 / 31, (down[31] - down[0]) * 32 / 31
            assert 0.68 < sides[0] / sides[1] < 1.47  # 3/4 … 4/3, of whole pixels
            areas.append(sides[0] * sides[1] / (height * width))
            straight = np.linspace(across[0], across[31], 32)
            assert np.abs(across - straight).max() <= (4 if as_jpeg else 1.1)
            mirrored.append(flip)
            firsts.append(across[0])
    assert 0.06 < min(areas) < 0.2 and 0.75 < max(areas) < 1.1
    assert 0.35 < np.mean(mirrored) < 0.65
    # Mirroring must not depend on where the window lies.
    assert abs(np.corrcoef(mirrored, firsts)[0, 1]) < 0.3


# What a folder may hold: every kind of image, and what is none.


def bitmap(width=24, height=16):
    """An 8-bit BMP of two colours; rows run from the bottom up."""
    header = struct.pack("<2sI4xI", b"BM", 0, 62) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 0, 384, 0, 0, 2, 0
    )
    indices = np.zeros((height, width), "uint8")
    indices[: height // 2] = 1
    return header + bytes([10, 20, 30, 0, 40, 50, 60, 0]) + indices.tobytes()


def with_pillow(image, kind, **options):
    import io

    pillow = pytest.importorskip("PIL.Image", reason="only Pillow writes these kinds")
    file = io.BytesIO()
    pillow.fromarray(image).convert(options.pop("mode", "RGB")).save(file, kind, **options)
    return file.getvalue()


COLOUR = np.full((20, 30, 3), (200, 40, 90), "uint8")
KINDS = {
    "TensorFlow": lambda: {
        "PNG": (png(COLOUR), COLOUR),
        "PNG with alpha": (png(np.pad(COLOUR, [(0, 0)] * 2 + [(0, 1)])), COLOUR),
        "grey PNG": (png(COLOUR[..., :1]), COLOUR[..., [0, 0, 0]]),
        "grey JPEG": (jpeg(COLOUR[..., :1]), COLOUR[..., [0, 0, 0]]),
        "BMP with palette": (
            bitmap(),
            np.repeat([[[30, 20, 10]], [[60, 50, 40]]], 8, 0) * np.ones((1, 24, 1)),
        ),
    },
    "Pillow": lambda: {
        "CMYK JPEG": (with_pillow(COLOUR, "JPEG", mode="CMYK", quality=100), COLOUR),
        "progressive JPEG": (with_pillow(COLOUR, "JPEG", progressive=True), COLOUR),
        "GIF": (with_pillow(COLOUR, "GIF"), COLOUR),
        "BMP": (with_pillow(COLOUR, "BMP"), COLOUR),
    },
}


@pytest.mark.parametrize("writer", KINDS)
def test_every_kind_of_image_becomes_rgb(tmp_path, writer):
    kinds = KINDS[writer]()
    folder = write(tmp_path, [content for content, _ in kinds.values()])
    images = stream(folder, len(kinds), size=224, protocol="center")
    ((views, _, weights),) = read(images.dataset())
    # The same in training, where JPEGs are decoded in part.
    training = stream(folder, len(kinds), size=200, protocol="random_resized_crop")
    ((crops_of_all, order, more_weights),) = read(training.dataset())
    assert weights.all() and more_weights.all()
    for index, (kind, (_, image)) in enumerate(kinds.items()):
        expected = resized(image.astype(float), 256, 256)[16:240, 16:240]
        assert np.abs(views[index] - expected).max() <= 4, kind
        colours = image.reshape(-1, 3)
        crop = crops_of_all[list(order).index(index)]
        assert (crop >= colours.min(0) - 4).all() and (crop <= colours.max(0) + 4).all(), kind


def damaged():
    """Contents that are no usable image, by what is wrong with them."""
    whole, header = jpeg(smooth(60, 80, 1)), struct.pack(">II", 40_000, 40_000)
    broken = bytearray(jpeg(smooth(60, 80, 1)))
    broken[2:40] = bytes(38)
    huge_jpeg = whole.replace(struct.pack(">HH", 60, 80), struct.pack(">HH", 65_000, 65_000), 1)
    return {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut off": whole[: len(whole) // 4],
        "header only": whole[:20],
        "overwritten": bytes(broken),
        "cut off PNG": png(smooth(60, 80))[:200],
        "huge PNG": png(smooth(9, 9))[:16] + header + png(smooth(9, 9))[24:],
        "huge JPEG": huge_jpeg,
        "huge BMP": bitmap(30_000, 16)[:62],
    }


@pytest.mark.parametrize("protocol", [*RANDOM, "center"])
def test_bad_images_are_grey_weigh_nothing_and_move_no_other(tmp_path, protocol):
    good = [jpeg(smooth(50, 60, i)) for i in range(12)]
    bad = list(good)
    bad[2:11] = damaged().values()
    settings = {"size": 24, "protocol": protocol}
    expected = stream(write(tmp_path / "good", good), 12, **settings).dataset(1)
    images = stream(write(tmp_path / "bad", bad), 12, max_bad_images=9, **settings)
    assert images.bad_images.count == 0
    ((view, labels, weights),) = read(images.dataset(1))
    ((good_view, good_labels, _),) = read(expected)
    rows = images.rows(1)[0]
    usable = (rows < 2) | (rows == 11)
    if protocol == "center":  # evaluation leaves them out
        assert weights.tolist() == [1, 1, 1]
        good_view, good_labels, usable = good_view[usable], good_labels[usable], np.arange(3)
    else:
        np.testing.assert_array_equal(weights, usable)
        assert (view[~usable] == 128).all() and not labels[~usable].any()
    np.testing.assert_array_equal(view[usable], good_view[usable])
    np.testing.assert_array_equal(labels[usable], good_labels[usable])
    assert images.bad_images.count == 9 and len(images.bad_images.names) == 9
    assert set(images.bad_images.names) == {
        str(tmp_path / "bad" / f"class{i:03}" / f"{i:03}.JPEG") for i in range(2, 11)
    }
    read(images.dataset(2))
    assert images.bad_images.count == 9  # each counts once, however often it is met


def test_no_image_of_a_batch_is_usable(tmp_path):
    images = stream(write(tmp_path, [b"a", b"b"]), 2, size=8, views=2, max_bad_images=2)
    ((view_a, view_b, labels, weights),) = read(images.dataset())
    assert (view_a == 128).all() and (view_b == 128).all() and view_a.shape == (2, 8, 8, 3)
    assert not labels.any() and not weights.any()


def test_pixel_limit(tmp_path):
    folder = write(tmp_path, [jpeg(smooth(50, 60)), png(smooth(50, 60)), jpeg(smooth(50, 59))])
    images = stream(folder, 3, size=8, protocol="center", max_pixels=2999, max_bad_images=2)
    assert [batch.tolist() for batch in read(images.dataset())[0][1:]] == [[2], [1]]
    images = stream(folder, 3, size=8, protocol="center", max_pixels=3000)
    assert read(images.dataset())[0][2].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("allowed", "limit"), [(0, 0), (0.1, 1), (2, 2), (2.0, 2), (0.3, 2)])
def test_limit_of_bad_images_is_a_number_or_a_share(tmp_path, allowed, limit):
    images = stream(write(tmp_path, [b"never read"] * 6), 2, max_bad_images=allowed)
    assert images.bad_images.limit == limit


@pytest.mark.large
@pytest.mark.parametrize("protocol", ["paper", "center"])
@pytest.mark.parametrize("allowed", [0, 2])
def test_bad_images_up_to_the_limit_are_fine_and_one_more_stops(tmp_path, allowed, protocol):
    import tensorflow as tf

    contents = [jpeg(smooth(20, 20))] * 12
    bad = (7, 5, 2)[: allowed + 1]
    settings = {"size": 8, "protocol": protocol, "max_bad_images": allowed}
    for index in bad[:allowed]:
        contents[index] = b"broken"
    images = stream(write(tmp_path, contents), 2, **settings)
    batches = read(images.dataset())
    assert len(batches) == 6 and sum(batch[2].sum() for batch in batches) == 12 - allowed
    assert images.bad_images.count == allowed

    contents[bad[-1]] = b"broken"
    images = stream(write(tmp_path, contents), 2, **settings)
    files = [str(tmp_path / f"class{index:03}" / f"{index:03}.JPEG") for index in bad]
    for _ in range(2):  # iterating anew does not help
        message = (
            f"`max_bad_images` allows {allowed} of the 12 images to be unreadable, .* "
            f"Received: {allowed + 1} such image{'s' if allowed else ''} so far: "
        )
        batches = []
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
            batches.extend(images.dataset())
        assert all(file in str(caught.value) for file in files)
        assert "others" not in str(caught.value) and "Traceback" not in str(caught.value)
        # It stops at the batch of the one too many, or before it, as batches are made ahead.
        last = max(np.flatnonzero(np.isin(images.rows(), bad).any(1)))
        assert len(batches) <= last
        assert allowed or len(batches) == last
    assert set(images.bad_images.names) == set(files)


def test_only_the_first_bad_images_are_named():
    found = BadImages(3, 100, lambda index: f"file {index}")
    assert found.add(np.arange(3)) == b"" and found.count == 3
    message = found.add(np.arange(20)).decode()
    assert message.endswith(
        "Received: 20 such images so far: "
        + ", ".join(f"file {index}" for index in range(SHOWN))
        + " and others"
    )


def test_bad_images_are_counted_by_several_threads():
    found = BadImages(1000, 1000, str)
    barrier = threading.Barrier(8)

    def work(first):
        barrier.wait()
        for start in range(0, 500, 5):
            found.add((np.arange(start, start + 10) + first) % 500)

    threads = [threading.Thread(target=work, args=(60 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count == 500 and len(set(found.names)) == len(found.names) == SHOWN


# The folder, and wrong arguments.


def test_parts_and_layouts_of_a_folder(tmp_path):
    contents = [jpeg(smooth(20, 20, i)) for i in range(6)]
    write(tmp_path / "train", contents, classes=3)
    write(tmp_path / "test", contents[:2], classes=2)
    (tmp_path / "train" / "class000" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "class000" / ".hidden.JPEG").write_bytes(contents[0])
    folder = f"folder:{tmp_path}"
    train = stream(folder, 6)
    assert isinstance(train, Stream)
    assert train.num_examples == 6 and train.class_names == ("class000", "class001", "class002")
    test = stream(folder, 2, "test", protocol="center", size=8)
    assert test.num_classes == 3 and read(test.dataset())[0][1].tolist() == [0, 1]
    with pytest.raises(ValueError, match="has: train, test. Received: split='validation'"):
        stream(folder, 1, "validation")
    flat = stream(f"{folder}/train", 6)
    assert flat.num_examples == 6
    with pytest.raises(ValueError, match="has: train. Received: split='test'"):
        stream(f"{folder}/train", 1, "test")
    (tmp_path / "test" / "unknown").mkdir()
    with pytest.raises(ValueError, match="classes all have train images"):
        stream(folder, 1, "test")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in '.*empty'"):
        stream(folder, 1)
    with pytest.raises(ValueError, match="has no class folders"):
        stream(f"{folder}/train/empty", 1)
    with pytest.raises(FileNotFoundError, match="Received: name='folder:.*nowhere'"):
        stream(f"{folder}/nowhere", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "resize"}, "one of paper, random_resized_crop, center. Received: proto"),
        ({"size": 257}, "`size` must be at most 256 .* Received: size=257"),
        ({"size": 0}, "`size` must be an integer of at least 1. Received: size=0"),
        ({"views": 3}, "`views` must be 1 or 2 .* Received: views=3"),
        ({"views": 0}, "`views` must .* Received: views=0"),
        ({"views": 2, "protocol": "center"}, "`views` must be 1, .* Received: views=2"),
        ({"batch_size": 0}, "`batch_size` must .* Received: batch_size=0"),
        ({"batch_size": 3}, "`batch_size` must be at most .* 2, .* Received: batch_size=3"),
        ({"seed": -1}, "`seed` must .* Received: seed=-1"),
        ({"shard": (2, 2)}, r"`shard` must .* Received: shard=\(2, 2\)"),
        ({"shard": (-1, 2)}, r"`shard` must .* Received: shard=\(-1, 2\)"),
        ({"shard": 2}, "`shard` must .* Received: shard=2"),
        ({"shard": (0, 3)}, "divisible by .* 3. Received: batch_size=2"),
        ({"max_bad_images": 1.5}, "`max_bad_images` must .* Received: max_bad_images=1.5"),
        ({"max_bad_images": -1}, "`max_bad_images` must .* Received: max_bad_images=-1"),
        ({"max_pixels": 0}, "`max_pixels` must .* Received: max_pixels=0"),
        ({"split": None}, "`split` must .* Received: split=None"),
        ({"name": "folder:"}, "`name` must .* Received: name='folder:'"),
        ({"name": None}, "`name` must .* Received: name=None"),
        ({"name": "digits"}, "use `sd_keras.data.load`. Received: name='digits'"),
    ],
)
def test_arguments_are_checked(tmp_path, changes, message):
    folder = write(tmp_path, [jpeg(smooth(9, 9))] * 2)
    with pytest.raises(ValueError, match=message):
        stream(**{"name": folder, "batch_size": 2, **changes})


def test_steps_to_skip_are_checked(tmp_path):
    images = stream(write(tmp_path, [jpeg(smooth(9, 9))] * 2), 1)
    with pytest.raises(ValueError, match="`skip_steps` .* 2. Received: skip_steps=3"):
        images.dataset(0, skip_steps=3)
    with pytest.raises(ValueError, match="`epoch` must .* Received: epoch=-1"):
        images.dataset(-1)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ImageNet sample is not there")
def test_imagenet_sample():
    images = stream(f"folder:{SAMPLE}", 50, views=2, protocol="random_resized_crop")
    batches = read(images.dataset())
    assert images.num_classes == 200 and images.steps_per_epoch == len(batches) == 4
    assert images.bad_images.count == 0 and all(batch[3].all() for batch in batches)
    assert sorted(np.concatenate([batch[2] for batch in batches])) == list(range(200))
    names = [Path(images.source.describe(i)).parent.name for i in images.rows().ravel()[:9]]
    assert names == [images.class_names[i] for i in batches[0][2][:9]]
    assert all(re.fullmatch(r"n\d{8}", name) for name in images.class_names)
