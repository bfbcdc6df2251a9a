"""Data sets: every source, every error, and the order of batches that training really sees."""

import dataclasses
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from sd_keras.data import Batches, Splits, load
from sd_keras.data.loading import hold_out_test, hold_out_validation
from sd_keras.data.splits import channel_statistics

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def pictures(count, shape=(6, 4, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype="uint8")


def write_png(path, image):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(image).numpy())


# Digits, and what is common to all sources.


def test_digits_are_split_by_class_with_a_fixed_test_set():
    from sklearn.datasets import load_digits

    first, second, again = load("digits"), load("digits", seed=1), load("digits")
    assert [len(part[1]) for part in (first.train, first.validation, first.test)] == [
        1294,
        144,
        359,
    ]
    np.testing.assert_array_equal(first.test[0], second.test[0])
    np.testing.assert_array_equal(first.validation[0], again.validation[0])
    assert not np.array_equal(first.validation[0], second.validation[0])
    parts = [first.train, first.validation, first.test]
    # Pixels 0…16 became 0…255; sorted as rows, the three sets are all digits, each once.
    ours = np.concatenate([np.c_[x.reshape(-1, 64), y] for x, y in parts]).astype(int)
    whole = load_digits()
    theirs = np.c_[np.rint(whole.data * 255 / 16), whole.target].astype(int)
    np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert len(ours) == len(theirs) == 1797
    assert set(np.bincount(first.validation[1])) <= {14, 15}
    assert first.input_shape == (8, 8, 1) and first.class_names == tuple("0123456789")


def test_no_validation_and_statistics_of_the_train_images_only():
    splits = load("digits", validation=0)
    assert splits.validation is None and len(splits.train[1]) == 1438
    scaled = splits.train[0] / 255
    np.testing.assert_allclose(splits.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.std, scaled.std((0, 1, 2)), rtol=1e-9)
    assert "array" not in repr(splits)
    mean, std = channel_statistics(np.full((2, 3, 3, 2), 255, "uint8"))
    assert mean == (1.0, 1.0) and std == (1e-6, 1e-6)


def test_image_size_resizes_arrays_too():
    splits = load("digits", image_size=(12, 16))
    assert splits.train[0].shape == (1294, 12, 16, 1) and splits.input_shape == (12, 16, 1)
    original = load("digits").train[0]
    assert abs(splits.train[0].mean() - original.mean()) < 2
    np.testing.assert_array_equal(load("digits", image_size=8).train[0], original)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1}, "`validation` must .* Received: validation=1"),
        ({"validation": -0.1}, "`validation` must .* Received: validation=-0.1"),
        ({"validation": None}, "`validation` must .* Received: validation=None"),
        ({"seed": -1}, "`seed` must .* Received: seed=-1"),
        ({"seed": 0.5}, "`seed` must .* Received: seed=0.5"),
        ({"image_size": 0}, "`image_size` must .* Received: image_size=0"),
        ({"image_size": (1, 2, 3)}, "`image_size` must .* Received: image_size=.1, 2, 3."),
        ({"name": "folder:"}, "`name` must be 'digits', .* Received: name='folder:'"),
        ({"name": None}, "`name` must be 'digits', .* Received: name=None"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**{"name": "digits", **arguments})


def test_test_images_are_held_out_of_every_class_that_can_spare_one():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 10, 13])
    kept, held = hold_out_test(labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [0, 1, 2, 3]
    assert sorted([*kept, *held]) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([10, 20, 30], 0.1, [1, 2, 3]),  # exact shares
        ([1, 1, 50], 0.2, [0, 0, 10]),  # single images stay as long as others can give
        ([2, 2], 0.9, [2, 1]),  # beyond that, any image
        ([3, 3], 0.01, [1, 0]),  # never none
    ],
)
def test_validation_images_are_shared_out(sizes, fraction, expected):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    kept, held = hold_out_validation(labels, fraction, 3)
    counts = np.bincount(labels[held], minlength=len(sizes)).tolist()
    assert sorted(counts) == sorted(expected) and sum(counts) == sum(expected)
    assert sorted([*kept, *held]) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "`train` must be a tuple"),
        ({"train": (pictures(0), np.zeros(0, "int32"))}, "`train` must hold at least one image"),
        ({"test": (pictures(2) / 255, np.zeros(2, "int32"))}, "`test` must .*float64 images"),
        ({"test": (pictures(2, (6, 4)), np.zeros(2, "int32"))}, r"`test` must .*\(2, 6, 4\)"),
        ({"validation": (pictures(2), np.zeros(2))}, "`validation` must hold one int32 label"),
        ({"test": (pictures(2), np.zeros(3, "int32"))}, r"`test` must .* shape \(2,\)"),
        ({"test": (pictures(2), np.full(2, 2, "int32"))}, r"`test` must hold labels of 0…1"),
        ({"test": (pictures(2), np.full(2, -1, "int32"))}, "Received: test=.*-1…-1"),
        ({"class_names": ("a",)}, "`class_names` must .* num_classes=2"),
        ({"std": (1.0, 0.0, 1.0)}, "`std` must hold one positive value"),
        ({"mean": (1.0,)}, "`mean` must hold one finite value for each of the 3"),
    ],
)
def test_splits_check_what_they_hold(change, message):
    pair = (pictures(2), np.array([0, 1], "int32"))
    numbers = (0.5, 0.5, 0.5)
    whole = Splits(pair, None, pair, 2, ("a", "b"), (6, 4, 3), numbers, numbers, "made up")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(whole, **change)


# NumPy archives.


def archive(path, **changes):
    """Writes an archive of 20 train and 6 test images; a change of None leaves a key out."""
    arrays = {
        "x_train": pictures(20),
        "y_train": np.arange(20) % 4,
        "x_test": pictures(6, seed=1),
        "y_test": np.arange(6) % 4,
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return f"npz:{path}"


def test_npz(tmp_path):
    name = archive(tmp_path / "a.npz")
    splits = load(name, validation=0.2)
    assert splits.train[0].shape == (16, 6, 4, 3) and len(splits.validation[1]) == 4
    np.testing.assert_array_equal(splits.test[0], pictures(6, seed=1))
    assert splits.train[1].dtype == np.int32 and splits.num_classes == 4 and splits.name == name
    grey = archive(
        tmp_path / "b.npz",
        x_train=pictures(20, (5, 5)),
        y_train=(np.arange(20)[:, None] % 2).astype("uint8"),
        x_test=pictures(6, (5, 5, 1)),
        y_test=np.zeros(6, int),
        x_val=pictures(3, (5, 5), seed=2),
        y_val=np.ones(3, int),
        class_names=np.array(["cat", "dog", "owl"]),
    )
    splits = load(grey)
    assert splits.input_shape == (5, 5, 1) and splits.class_names == ("cat", "dog", "owl")
    assert len(splits.train[1]) == 20
    np.testing.assert_array_equal(splits.validation[0], pictures(3, (5, 5, 1), seed=2))
    assert load(grey, validation=0).validation is None
    resized = load(grey, image_size=(3, 4))
    assert resized.test[0].shape == (6, 3, 4, 1)
    assert resized.validation[0].shape == (3, 3, 4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "Missing: y_test. Found: x_test, x_train, y_train. Received: name="),
        ({"x_val": pictures(2)}, "Missing: y_val"),
        ({"x_train": pictures(20) / 255}, "`x_train` must be uint8.*inside the network.*float64"),
        ({"x_test": pictures(6, (4,))}, "`x_test` must have the shape"),
        ({"y_train": np.eye(20, dtype=int)}, "`y_train` must hold integer class labels"),
        ({"y_train": np.zeros(20)}, "`y_train` must hold integer class labels.*float64"),
        ({"y_train": np.arange(20) - 1}, "`y_train` must hold labels from 0 on"),
        ({"y_train": np.full(20, 2**32)}, "`y_train` must hold labels from 0 on"),
        ({"y_train": np.arange(19)}, "`x_train` and `y_train` must have the same length"),
        ({"class_names": np.arange(4)}, "`class_names` must be a one-dimensional array of str"),
        ({"class_names": np.array(["a"])}, "`train` must hold labels of 0…0"),
        ({"y_test": np.array([{}] * 6)}, "plain, not pickled, arrays after 'npz:'"),
    ],
)
def test_npz_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(archive(tmp_path / "a.npz", **changes))


def test_npz_in_place_of_tfds(tmp_path):
    archive(tmp_path / "cifar100.npz")
    splits = load("cifar100", tmp_path, validation=0)
    assert splits.name == "cifar100" and len(splits.test[0]) == 6
    with pytest.raises(FileNotFoundError, match="cifar10"):
        load("cifar10", tmp_path)


def test_npz_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="`name` must give an existing file .* Received"):
        load(f"npz:{tmp_path}/missing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "array.npy", pictures(1))
    for file in ("text.npz", "array.npy"):
        with pytest.raises(ValueError, match="`name` must give a NumPy archive"):
            load(f"npz:{tmp_path}/{file}")
    one = archive(tmp_path / "one.npz", x_train=pictures(1), y_train=np.zeros(1, int))
    with pytest.raises(ValueError, match="`validation` must be 0 for .* single train image"):
        load(one)
    assert len(load(one, validation=0).train[1]) == 1


@pytest.mark.process
def test_npz_without_tensorflow(tmp_path):
    pytest.importorskip("jax", reason="needs a backend beside TensorFlow")
    name = archive(tmp_path / "a.npz")
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from sd_keras.data import Batches, load\n"
        f"splits = load({name!r})\n"
        "batches = Batches(*splits.train, 5, seed=0)\n"
        "print(splits.train[0].shape, batches[0][0].shape)\n"
        # This backend begins an epoch to build the model, which is not to be counted.
        "import keras\n"
        "model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])\n"
        "model.compile('sgd', 'sparse_categorical_crossentropy')\n"
        "model.fit(batches, epochs=2, shuffle=False, verbose=0)\n"
        "print(batches.epoch)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:2] == ["(18, 6, 4, 3) (5, 6, 4, 3)", "2"], done.stderr


# Image folders.


def image_folder(root, counts, seed=0):
    """Writes PNGs named by number into one folder per class; returns them by class."""
    written = {}
    for offset, (name, count) in enumerate(counts.items()):
        written[name] = pictures(count, seed=seed + offset)
        for index, image in enumerate(written[name]):
            write_png(root / name / f"{index:02}.png", image)
    return written


def test_flat_folder(tmp_path):
    written = image_folder(tmp_path, {"owl": 10, "cat": 5, "single": 1, "train": 2})
    (tmp_path / "cat" / "notes.txt").write_text("left out")
    (tmp_path / "cat" / "._00.png").write_text("left out")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "00.png").rename(tmp_path / "cat" / "00.JPEG")
    splits = load(f"folder:{tmp_path}", validation=0)
    assert splits.class_names == ("cat", "owl", "single", "train")
    assert np.bincount(splits.test[1], minlength=4).tolist() == [1, 2, 0, 1]
    assert np.bincount(splits.train[1]).tolist() == [4, 8, 1, 1]
    np.testing.assert_array_equal(splits.train[0][splits.train[1] == 2], written["single"])
    cats = np.concatenate([part[0][part[1] == 0] for part in (splits.train, splits.test)])
    assert sorted(map(bytes, cats)) == sorted(map(bytes, written["cat"]))
    np.testing.assert_array_equal(load(f"folder:{tmp_path}", seed=5).test[0], splits.test[0])


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (["train"], (7, 1, 2)),
        (["train", "test"], (9, 1, 4)),
        (["train", "val"], (9, 1, 6)),
        (["train", "test", "val"], (10, 6, 4)),
    ],
)
def test_folder_with_parts(tmp_path, parts, sizes):
    counts = {"train": 5, "test": 2, "val": 3}
    for seed, part in enumerate(parts):
        image_folder(tmp_path / part, {"a": counts[part], "b": counts[part]}, seed)
    splits = load(f"folder:{tmp_path}", image_size=8)
    assert splits.input_shape == (8, 8, 3)
    assert tuple(len(p[1]) for p in (splits.train, splits.validation, splits.test)) == sizes


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="`name` must give an existing folder"):
        load(f"folder:{tmp_path}/missing")
    with pytest.raises(ValueError, match="it has no class folders. Received: name='folder:"):
        load(f"folder:{tmp_path}")
    image_folder(tmp_path / "train", {"a": 3, "b": 3})
    image_folder(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(ValueError, match="classes all have train images.*'.*c'; .* a, b"):
        load(f"folder:{tmp_path}")
    write_png(tmp_path / "train" / "b" / "99.png", pictures(1, (6, 5, 3))[0])
    with pytest.raises(ValueError, match=r"`image_size` must be given.*99.png.*image_size=None"):
        load(f"folder:{tmp_path}/train")
    (tmp_path / "train" / "b" / "98.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    with pytest.raises(ValueError, match="must be a readable JPEG.* Received: path='.*98.jpg'"):
        load(f"folder:{tmp_path}/train", image_size=8)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in '.*empty'"):
        load(f"folder:{tmp_path}/train")


def test_images_of_too_many_pixels_are_refused_unread(tmp_path):
    """50 million pixels, as in `data.stream` and in serving."""
    import zlib

    def png(width, height):
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))]
        chunks += [(b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        body = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(body)

    write_png(tmp_path / "a/0.png", pictures(1)[0])
    file = tmp_path / "a/1.png"
    for size, message in (
        ((12_000, 12_000), f"most 50000000 pixels. Received: path='{file}' of 12000 x 12000"),
        ((2**31 - 1, 2**31 - 1), "most 50000000 pixels"),
        ((0, 5), "must be a readable JPEG"),
        ((5000, 10_000), "must be a readable JPEG"),  # is decoded, and cut off
    ):
        file.write_bytes(png(*size))
        with pytest.raises(ValueError, match=message):
            load(f"folder:{tmp_path}", image_size=8)


def test_all_kinds_of_images_become_rgb(tmp_path):
    import tensorflow as tf

    colour = np.kron(pictures(1, (2, 3, 3))[0], np.ones((8, 8, 1), "uint8"))
    grey = colour[..., :1]
    folder = tmp_path / "only"
    write_png(folder / "0.png", colour)
    write_png(folder / "1.png", grey)
    write_png(folder / "2.png", np.concatenate([colour, grey], -1))
    (folder / "3.jpg").write_bytes(tf.io.encode_jpeg(grey, quality=100).numpy())
    # An 8-bit bitmap of two colours, rows from the bottom up and padded to four bytes.
    header = struct.pack("<2sI4xI", b"BM", 0, 62) + struct.pack(
        "<IiiHHIIiiII", 40, 24, 16, 1, 8, 0, 384, 0, 0, 2, 0
    )
    indices = np.zeros((16, 24), "uint8")
    indices[-1] = 1
    palette = bytes([10, 20, 30, 0, 40, 50, 60, 0])
    (folder / "4.bmp").write_bytes(header + palette + indices.tobytes())
    images = load(f"folder:{tmp_path}", validation=0)
    images = np.concatenate([images.train[0], images.test[0]])
    wanted = [colour, np.repeat(grey, 3, -1), colour, np.repeat(grey, 3, -1)]
    bitmap = np.full((16, 24, 3), (30, 20, 10), "uint8")
    bitmap[0] = (60, 50, 40)
    for image in [*wanted, bitmap]:
        assert np.abs(images.astype(int) - image).max((1, 2, 3)).min() <= 1


def test_cmyk_becomes_rgb(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="only Pillow writes CMYK")
    colour = np.full((16, 16, 3), (200, 40, 90), "uint8")
    (tmp_path / "a").mkdir()
    pillow.fromarray(colour).convert("CMYK").save(tmp_path / "a" / "0.jpg", quality=100)
    splits = load(f"folder:{tmp_path}", validation=0)
    assert np.abs(splits.train[0].astype(int) - colour).max() <= 3 and len(splits.test[1]) == 0


def test_resizing_averages_and_rounds(tmp_path):
    stripes = np.zeros((16, 16, 3), "uint8")
    stripes[:, 0::4] = stripes[:, 3::4] = 255
    write_png(tmp_path / "a" / "0.png", stripes)
    image = load(f"folder:{tmp_path}", image_size=4, validation=0).train[0][0]
    # Without antialiasing only the two black columns between the white ones would be sampled.
    assert image.shape == (4, 4, 3) and image.min() > 80 and image.max() < 175


def test_imagenet_sample():
    if not (SHARED / "imagenet_sample").is_dir():
        pytest.skip("the shared ImageNet sample is not there")
    splits = load(f"folder:{SHARED / 'imagenet_sample'}", image_size=(48, 64))
    assert splits.num_classes == 200 and splits.input_shape == (48, 64, 3)
    assert [len(p[1]) for p in (splits.train, splits.validation, splits.test)] == [180, 20, 0]
    assert all(0.3 < value < 0.6 for value in splits.mean)


# TensorFlow Datasets, with real files prepared on the spot.


def prepare(data_dir, name, sizes, shape=(6, 4, 3), supervised=("image", "label"), **options):
    """Prepares a data set of random PNGs with three classes; `sizes` gives images per split.

    `options`: `label` of all test images, `image_of` (index to image), `configuration`, `version`.
    """
    import tensorflow_datasets as tfds

    image_of = options.get("image_of", lambda index: pictures(1, seed=index)[0])
    configuration = options.get("configuration")

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(options.get("version", "1.0.0"))
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=configuration)] if configuration else []

        def _info(self):
            label = tfds.features.ClassLabel(names=["red", "green", "blue"])
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(shape=shape), "label": label}
                ),
                supervised_keys=supervised,
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {part: self._generate_examples(part) for part in sizes}

        def _generate_examples(self, part):
            for index in range(sizes[part]):
                label = options.get("label", index % 3) if part == "test" else index % 3
                yield index, {"image": image_of(index), "label": label}

    Prepared.name = name
    builder = Prepared(data_dir=str(data_dir))
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=settings)


def test_tfds_files_are_read_in_order(tmp_path):
    prepare(tmp_path, "tiny", {"train": 12, "test": 6}, version="1.9.0")
    prepare(tmp_path, "tiny", {"train": 9, "test": 6}, version="1.10.0")
    splits = load("tiny:1.9.0", data_dir=tmp_path, validation=0)
    expected = np.stack([pictures(1, seed=index)[0] for index in range(12)])
    np.testing.assert_array_equal(splits.train[0], expected)
    np.testing.assert_array_equal(splits.train[1], np.arange(12) % 3)
    assert splits.train[1].dtype == np.int32 and splits.class_names == ("red", "green", "blue")
    assert splits.input_shape == (6, 4, 3) and len(splits.test[1]) == 6
    # Without a version the newest counts, by number and not by letter.
    newest = load("tiny", data_dir=str(tmp_path), image_size=(3, 2))
    assert newest.train[0].shape == (8, 3, 2, 3) and len(newest.validation[1]) == 1


@pytest.mark.parametrize(
    ("sizes", "label", "expected"),
    [
        ({"train": 12, "validation": 3, "test": 6}, 0, (12, 3, 6)),
        ({"train": 12, "validation": 3}, 0, (11, 1, 3)),
        ({"train": 12, "validation": 3, "test": 6}, -1, (11, 1, 3)),  # test without labels
        ({"train": 15}, 0, (11, 1, 3)),
    ],
)
def test_tfds_missing_splits(tmp_path, sizes, label, expected):
    prepare(tmp_path, "tiny", sizes, label=label)
    splits = load("tiny", data_dir=tmp_path)
    assert tuple(len(p[1]) for p in (splits.train, splits.validation, splits.test)) == expected
    np.testing.assert_array_equal(splits.test[0], load("tiny", tmp_path, seed=9).test[0])


def test_tfds_images_of_different_sizes(tmp_path):
    def image_of(index):
        return pictures(1, (6, 4 + index // 2, 3))[0]

    prepare(tmp_path, "tiny", {"train": 4, "test": 2}, (None, None, 3), image_of=image_of)
    assert load("tiny", tmp_path, image_size=5).input_shape == (5, 5, 3)
    with pytest.raises(ValueError, match="`image_size` must be given.*Received: image_size=None"):
        load("tiny", tmp_path)
    prepare(tmp_path, "same", {"train": 4, "test": 2}, (None, None, 3))
    assert load("same", tmp_path).input_shape == (6, 4, 3)


def test_tfds_configurations(tmp_path):
    prepare(tmp_path, "tiny", {"train": 4, "test": 2}, configuration="small")
    assert len(load("tiny", tmp_path, validation=0).train[1]) == 4
    prepare(tmp_path, "tiny", {"train": 5, "test": 2}, configuration="large")
    assert len(load("tiny/large:1.0.0", tmp_path, validation=0).train[1]) == 5
    with pytest.raises(ValueError, match="configuration is meant, one of tiny/large, tiny/small"):
        load("tiny", tmp_path)


def test_tfds_set_of_another_kind(tmp_path):
    prepare(tmp_path, "plain", {"train": 3}, supervised=None)
    with pytest.raises(ValueError, match="supervised_keys=None of the features image, label"):
        load("plain", tmp_path)
    prepare(tmp_path, "swapped", {"train": 3}, supervised=("label", "image"))
    with pytest.raises(ValueError, match="must be an image classification data set"):
        load("swapped", tmp_path)
    prepare(tmp_path, "untrained", {"test": 3})
    with pytest.raises(ValueError, match="'train' split, but it has only test. Received"):
        load("untrained", tmp_path)


def test_tfds_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        load("cifar100", data_dir=tmp_path)
    message = str(raised.value)
    assert f"in {tmp_path / 'cifar100'}" in message
    assert f"tfds build cifar100 --data_dir {tmp_path}" in message
    assert message.endswith(f"Received: name='cifar100', data_dir='{tmp_path}'")
    prepare(tmp_path, "tiny", {"train": 3, "test": 2})
    with pytest.raises(FileNotFoundError, match="found there: 1.0.0"):
        load("tiny:2.0.0", data_dir=tmp_path)
    (records,) = (tmp_path / "tiny" / "1.0.0").glob("tiny-train.tfrecord*")
    content = records.read_bytes()
    records.write_bytes(content[:-20])
    with pytest.raises(OSError, match="damaged"):
        load("tiny", data_dir=tmp_path)
    records.unlink()
    with pytest.raises(FileNotFoundError, match="tfds build tiny"):
        load("tiny", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar1000", "Cifar100", "cifar100:latest", "cifr100/x"])
def test_unknown_names(tmp_path, name):
    with pytest.raises(ValueError, match="`name` must be one of 'digits', 'npz:PATH'") as raised:
        load(name, data_dir=tmp_path)
    assert "Close matches: cifar100" in str(raised.value)
    assert str(raised.value).endswith(f"Received: name='{name}'")


@pytest.mark.large
def test_cifar100():
    if not (SHARED / "tensorflow_datasets" / "cifar100").is_dir():
        pytest.skip("the shared CIFAR-100 files are not there")
    splits = load("cifar100", data_dir=SHARED / "tensorflow_datasets", validation=0)
    assert splits.train[0].shape == (50000, 32, 32, 3) and len(splits.test[1]) == 10000
    assert set(np.bincount(splits.train[1])) == {500} and splits.num_classes == 100
    np.testing.assert_allclose(splits.mean, (0.50708, 0.48655, 0.44092), atol=1e-5)


# Batches.


def numbered(count):
    return np.arange(count, dtype="uint8").reshape(-1, 1, 1, 1), np.arange(count, dtype="int32")


def expected_order(count, epochs, seed=3):
    orders = [np.random.default_rng((seed, epoch)).permutation(count) for epoch in epochs]
    return np.concatenate(orders).tolist()


def order_of(batches):
    return np.concatenate([labels for _, labels in batches]).tolist()


def test_batches_by_hand():
    images, labels = numbered(10)
    batches = Batches(images, labels, 4)
    assert len(batches) == 3 and [len(x) for x, _ in batches] == [4, 4, 2]
    assert order_of(batches) == list(range(10))
    assert [len(x) for x, _ in Batches(images, labels, 4, drop_remainder=True)] == [4, 4]
    shuffled = Batches(images, labels, 4, seed=3)
    for epoch in range(3):
        assert shuffled.epoch == epoch
        assert all((x.ravel() == y).all() for x, y in shuffled)
        assert order_of(shuffled) == expected_order(10, [epoch])
        shuffled.on_epoch_end()
        # A second call, without a pass in between, is not another epoch.
        shuffled.on_epoch_end()
    assert order_of(Batches(images, labels, 4, seed=3, initial_epoch=7)) == expected_order(10, [7])
    shuffled.set_epoch(1)
    assert [shuffled[index][1].tolist() for index in (2, 0)] == [
        expected_order(10, [1])[8:],
        expected_order(10, [1])[:4],
    ]
    with pytest.raises(IndexError, match="`index` must .* Received: index=3"):
        shuffled[3]


class Recorder(keras.Model):
    """A model that notes which images its training steps really get."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(200)
        self.seen = []

    def call(self, inputs):
        return self.dense(keras.ops.reshape(keras.ops.cast(inputs, "float32"), (-1, 1)))

    def train_step(self, data):
        self.seen += np.asarray(data[0]).ravel().tolist()
        assert np.array_equal(self.seen[-len(data[1]) :], data[1])
        return super().train_step(data)


@pytest.mark.parametrize("workers", [1, 3])
# One batch, two (as many as Keras looks at before training), and more than are prefetched.
@pytest.mark.parametrize(("count", "batch_size"), [(5, 5), (9, 5), (60, 2)])
def test_fit_sees_the_order_of_each_epoch_also_when_resumed(count, batch_size, workers):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("recording by train_step is written for the TensorFlow backend")
    model = Recorder()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)

    def seen(batches, **arguments):
        model.seen = []
        batches.workers = workers
        model.fit(batches, shuffle=False, verbose=0, **arguments)
        return model.seen

    random.seed(0)
    batches = Batches(*numbered(count), batch_size, seed=3)
    validation = Batches(*numbered(5), 5)
    whole = seen(batches, epochs=3, validation_data=validation)
    assert whole == expected_order(count, range(3))
    resumed = Batches(*numbered(count), batch_size, seed=3, initial_epoch=1)
    # Looking through the batches beforehand changes nothing.
    assert order_of(resumed) == whole[count : 2 * count]
    assert seen(resumed, epochs=3, initial_epoch=1) == whole[count:]
    # A second training with the same object goes on where the first one ended.
    assert seen(batches, epochs=2) == expected_order(count, [3, 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must .* Received: batch_size=0"),
        ({"batch_size": 2.0}, "`batch_size` must .* Received: batch_size=2.0"),
        ({"seed": -1}, "`seed` must .* Received: seed=-1"),
        ({"initial_epoch": -1}, "`initial_epoch` must .* Received: initial_epoch=-1"),
        ({"labels": np.zeros(4)}, r"`images` and `labels` must .* labels=\(4\)"),
        ({"batch_size": 6, "drop_remainder": True}, "`batch_size` must be at most .* 5"),
    ],
)
def test_batches_check_their_arguments(change, message):
    images, labels = numbered(5)
    with pytest.raises(ValueError, match=message):
        Batches(**{"images": images, "labels": labels, "batch_size": 2, **change})
