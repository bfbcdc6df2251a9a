"""The input pipeline for what TensorFlow Datasets prepared, imagenet2012 itself among them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_stream import SAMPLE, read, resized

from sd_keras.data import records, stream

CENTER = {"size": 16, "protocol": "center"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keeps what is remembered of data sets out of the home of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(count):
    """Images of one grey each, so that a crop tells the image's number."""
    return np.arange(count, dtype="uint8")[:, None, None, None] * np.ones((1, 20, 24, 3), "uint8")


def prepare(data_dir, sizes, **options):
    """Prepares the set "grey" of PNGs in three classes, several files per split.

    `options`: `label` of all test images, `supervised` keys.
    """
    import tensorflow_datasets as tfds

    class Grey(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=options.get("supervised", ("image", "label")),
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {part: self._generate_examples(part) for part in sizes}

        def _generate_examples(self, part):
            for index, image in enumerate(pictures(sizes[part])):
                label = options.get("label", index % 3) if part == "test" else index % 3
                yield index, {"image": image, "label": label, "file_name": str(index)}

    Grey.name = "grey"
    builder = Grey(data_dir=str(data_dir), file_format="tfrecord")
    settings = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=3)
    builder.download_and_prepare(download_config=settings)


@pytest.fixture
def grey(tmp_path):
    """23 train images in three files and 7 test images without labels."""
    prepare(tmp_path, {"train": 23, "test": 7}, label=-1)
    return tmp_path


def files_of(data_dir, part):
    return sorted((data_dir / "grey" / "1.0.0").glob(f"grey-{part}.tfrecord-*"))


def test_records_are_read_in_any_order(grey):
    images = stream("grey", 10, data_dir=grey, **CENTER)
    assert len(files_of(grey, "train")) == 3 and images.num_examples == 23
    assert images.class_names == ("red", "green", "blue")
    batches = read(images.dataset())
    seen = np.concatenate([view[:, 0, 0, 0] for view, _, _ in batches])
    np.testing.assert_array_equal(seen, np.arange(23))
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), np.arange(23) % 3)
    training = stream("grey:1.0.0", 10, data_dir=grey, size=16, views=2)
    for (view_a, view_b, labels, weights), rows in zip(read(training.dataset(2)), training.rows(2)):
        np.testing.assert_array_equal(view_a[:, 3, 5, 1], rows)
        np.testing.assert_array_equal(view_b, view_a)  # each image is of one grey
        np.testing.assert_array_equal(labels, rows % 3)
        assert weights.all()
    # A part that begins within one file and ends within another.
    part = stream("grey", 8, "train[5:18]", data_dir=str(grey), **CENTER)
    seen = np.concatenate([view[:, 0, 0, 0] for view, _, _ in read(part.dataset())])
    np.testing.assert_array_equal(seen, np.arange(5, 18))


def test_the_second_opening_does_not_walk(grey, monkeypatch):
    first = stream("grey", 10, data_dir=grey, **CENTER)
    walk = records._walk
    monkeypatch.setattr(records, "_walk", lambda path: pytest.fail(f"walked {path}"))
    again = stream("grey", 10, data_dir=grey, **CENTER)
    for column, other in zip(first.source.places, again.source.places, strict=True):
        assert column.dtype == other.dtype
        np.testing.assert_array_equal(column, other)
    assert again.source.describe(22) == first.source.describe(22)
    # A part within the same files needs no other walk.
    assert stream("grey", 8, "train[5:18]", data_dir=grey, **CENTER).num_examples == 13
    changed = files_of(grey, "train")[1]
    changed.write_bytes(changed.read_bytes())
    with pytest.raises(pytest.fail.Exception, match="walked .*grey-train"):
        stream("grey", 10, data_dir=grey, **CENTER)
    monkeypatch.setattr(records, "_walk", walk)
    assert stream("grey", 10, data_dir=grey, **CENTER).num_examples == 23
    # Nothing of ours lies beside the data.
    assert not [path for path in (grey / "grey").rglob("*") if "npz" in path.name]
    assert len(list((grey / "cache/sd_keras/records").iterdir())) == 1


def test_a_damaged_record_is_one_bad_image(grey):
    first, second, _ = files_of(grey, "train")
    for path in (first, second):
        content = bytearray(path.read_bytes())
        content[60] ^= 255  # within the first record
        path.write_bytes(content)
    images = stream("grey", 23, data_dir=grey, max_bad_images=2, **CENTER)
    ((view, labels, weights),) = read(images.dataset())
    # Evaluation leaves them out. How many images lie in the first file is up to the shards.
    good = np.delete(np.arange(23), [0, images.source.places[0].tolist().index(1)])
    assert weights.tolist() == [1] * 21
    np.testing.assert_array_equal(view[:, 0, 0, 0], good)
    np.testing.assert_array_equal(labels, good % 3)
    assert set(images.bad_images.names) == {f"{path.name}, record 0" for path in (first, second)}


def test_what_is_missing_or_damaged_is_named(grey):
    with pytest.raises(ValueError, match="one with labels.* Received: split='test', name='grey'"):
        stream("grey", 1, "test", data_dir=grey)
    for split in ("validation", "train[:x]"):
        with pytest.raises(ValueError, match="`split` must be one of test, train or a part") as e:
            stream("grey", 1, split, data_dir=grey)
        assert f"Received: split={split!r}" in str(e.value)
    with pytest.raises(ValueError, match="`split` must hold at least one image"):
        stream("grey", 1, "train[5:5]", data_dir=grey)
    with pytest.raises(FileNotFoundError, match="tfds build imagenet2012 --data_dir"):
        stream("imagenet2012", 256, data_dir=grey)
    with pytest.raises(ValueError, match="Close matches: .*imagenet2012"):
        stream("imagenet2013", 256, data_dir=grey)
    last = files_of(grey, "train")[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-9])
    with pytest.raises(OSError, match="ends within a record.* Received: file of"):
        stream("grey", 1, data_dir=grey)
    length = int.from_bytes(content[:8], "little")
    last.write_bytes(content[: length + 16])
    with pytest.raises(OSError, match="but has 1; prepare it again. Received: name='grey'"):
        stream("grey", 1, data_dir=grey)
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"looked for its files in .*{last.name}"):
        stream("grey", 1, data_dir=grey)


def test_sets_of_another_kind(tmp_path):
    prepare(tmp_path / "a", {"train": 3}, supervised=("file_name", "label"))
    with pytest.raises(ValueError, match="must be an image classification data set"):
        stream("grey", 1, data_dir=tmp_path / "a")
    prepare(tmp_path / "b", {"train": 3})
    info = tmp_path / "b" / "grey" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    with pytest.raises(ValueError, match="as TFRecord files .*, not array_record"):
        stream("grey", 1, data_dir=tmp_path / "b")


def tar_of(files):
    """Returns a tar archive of (name, content) pairs, as bytes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ImageNet sample is not there")
def test_imagenet2012_as_tensorflow_datasets_prepares_it(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # The two archives of ILSVRC 2012: one of an archive per synset, one of the images alone.
    files = sorted(SAMPLE.glob("*/*.JPEG"))[::8]
    train, held = files[:18], files[18:]
    manual = tmp_path / "manual"
    manual.mkdir()
    synsets = [(f"{f.parent.name}.tar", tar_of([(f.name, f.read_bytes())])) for f in train]
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar_of(synsets))
    flat = [(f"ILSVRC2012_val_{i:08}.JPEG", f.read_bytes()) for i, f in enumerate(held, 1)]
    (manual / "ILSVRC2012_img_val.tar").write_bytes(tar_of(flat))
    builder = tfds.builder("imagenet2012", data_dir=tmp_path / "data", file_format="tfrecord")
    settings = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=settings)

    images = stream("imagenet2012", 6, data_dir=tmp_path / "data", views=2)
    assert (images.num_examples, images.num_classes, images.steps_per_epoch) == (18, 1000, 3)
    batches = read(images.dataset())
    labels = np.concatenate([batch[2] for batch in batches])
    wanted = [images.class_names.index(path.parent.name) for path in train]
    assert sorted(labels) == sorted(wanted) and all(batch[3].all() for batch in batches)

    held_images = stream(
        "imagenet2012", 4, "validation", data_dir=tmp_path / "data", protocol="center"
    )
    batches = read(held_images.dataset())
    assert [len(batch[1]) for batch in batches] == [4, 3]
    labels = Path(tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")).read_text()
    wanted = {held_images.class_names.index(label) for label in labels.split()[:7]}
    assert set(np.concatenate([batch[1] for batch in batches])) == wanted
    expected = []
    for path in held:
        decoded = tf.io.decode_jpeg(
            path.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE"
        ).numpy()
        expected.append(resized(decoded, 256, 256)[16:240, 16:240])
    for view in np.concatenate([batch[0] for batch in batches]):
        assert min(np.abs(view - image).max() for image in expected) <= 0.51
