"""The index of TFRecord files: what is remembered is right, is not stale, and is never needed."""

import errno
import io
import os
import threading

import numpy as np
import pytest

from sd_keras.data import records
from sd_keras.data.records import record_offsets


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the remembered files, not that of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sd_keras" / "records"


@pytest.fixture
def walked(monkeypatch):
    """The names of the files that were walked, in any order."""
    names, walk = [], records._walk

    def noted(path):
        names.append(os.path.basename(path))
        return walk(path)

    monkeypatch.setattr(records, "_walk", noted)
    return names


def write(path, lengths):
    """Writes a TFRecord file of records of these lengths; returns the offsets."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for length in lengths:
            writer.write(bytes(length))
    return [0, *np.cumsum([16 + length for length in lengths])]


@pytest.fixture
def files(tmp_path):
    """Three TFRecord files, one of them empty, and where their records begin."""
    lengths = {"a": [5, 0, 300], "b": [], "c": [7]}
    expected = [write(tmp_path / name, content) for name, content in lengths.items()]
    return [str(tmp_path / name) for name in lengths], expected


def assert_found(offsets, expected):
    assert [part.tolist() for part in offsets] == expected
    assert all(part.dtype == np.int64 for part in offsets)


def test_files_are_walked_once(files, walked, cache, monkeypatch):
    paths, expected = files
    assert_found(record_offsets(paths), expected)
    assert sorted(walked) == ["a", "b", "c"]
    for _ in range(2):
        assert_found(record_offsets(paths), expected)
    # The same files by another name.
    monkeypatch.chdir(os.path.dirname(paths[0]))
    assert_found(record_offsets(["a", "b", "c"]), expected)
    assert len(walked) == 3 and len(list(cache.iterdir())) == 1
    # Others, and the same in another order, are other lists.
    assert_found(record_offsets(paths[1:]), expected[1:])
    assert_found(record_offsets(paths[::-1]), expected[::-1])
    assert len(walked) == 8 and len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("change", ["size", "time", "format"])
def test_what_has_changed_is_walked_again(files, walked, cache, monkeypatch, change):
    paths, expected = files
    record_offsets(paths)
    if change == "size":
        state = os.stat(paths[2])
        expected[2] = write(paths[2], [7, 8])
        os.utime(paths[2], ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "time":
        state = os.stat(paths[0])
        expected[0] = write(paths[0], [300, 5, 0])
        os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    else:
        monkeypatch.setattr(records, "FORMAT", records.FORMAT + 1)
    for _ in range(2):
        assert_found(record_offsets(paths), expected)
        assert len(walked) == 6
    # A changed file takes the place of what was remembered, so that nothing piles up.
    assert len(list(cache.iterdir())) == (2 if change == "format" else 1)


def archive(**arrays):
    """Returns the bytes of a NumPy archive."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def with_other_sizes(content):
    with np.load(io.BytesIO(content)) as found:
        return archive(**{**found, "offsets": found["offsets"] + 1})


def without_a_file(content):
    with np.load(io.BytesIO(content)) as found:
        return archive(**{**found, "ends": found["ends"][:-1]})


DAMAGES = {
    "empty": lambda content: b"",
    "text": lambda content: b"no archive",
    "cut off": lambda content: content[:-100],
    "a bit": lambda content: content.replace(np.int64(21).tobytes(), np.int64(22).tobytes()),
    "other arrays": lambda content: archive(offsets=np.arange(3)),
    "objects": lambda content: archive(state=np.array([{}], object)),
    "other sizes": with_other_sizes,
    "fewer files": without_a_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_replaced(files, walked, cache, damage):
    paths, expected = files
    record_offsets(paths)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    assert file.read_bytes() != whole
    for _ in range(2):
        assert_found(record_offsets(paths), expected)
        assert len(walked) == 6
    assert file.read_bytes() == whole and len(list(cache.iterdir())) == 1


def no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)


def file_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")


def folder_in_the_way(tmp_path, monkeypatch):
    name = records._digest([str(tmp_path / name) for name in "abc"])
    (tmp_path / "cache" / "sd_keras" / "records" / f"{name}.npz").mkdir(parents=True)


def full_disk(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            super().write(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(file, mode="r", **options):
        return Full(file, mode) if "w" in mode else open(file, mode, **options)

    monkeypatch.setattr(records, "open", opened, raising=False)


def read_only(tmp_path, monkeypatch):
    def refused(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(records.tempfile, "mkstemp", refused)


@pytest.mark.parametrize(
    "block", [no_home, file_in_the_way, folder_in_the_way, full_disk, read_only]
)
def test_without_a_cache_files_are_walked_every_time(files, walked, tmp_path, monkeypatch, block):
    paths, expected = files
    block(tmp_path, monkeypatch)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for count in (3, 6):
        assert_found(record_offsets(paths), expected)
        assert len(walked) == count
    # Nothing half written stays.
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("given", [None, "relative"])
def test_the_folder_is_in_the_home_where_none_is_given(files, tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    record_offsets(files[0])
    (file,) = (tmp_path / "home/.cache/sd_keras/records").iterdir()
    assert file.suffix == ".npz" and not (tmp_path / "relative").exists()


def test_many_may_open_the_same_files_at_once(files, cache):
    paths, expected = files
    barrier, found = threading.Barrier(8), []

    def work():
        barrier.wait()
        found.append(record_offsets(paths))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(list(cache.iterdir())) == 1
    for offsets in found:
        assert_found(offsets, expected)


def test_what_cannot_be_walked_is_not_remembered(files, cache):
    paths, _ = files
    with open(paths[0], "ab") as file:
        file.write(bytes(5))
    for _ in range(2):
        with pytest.raises(OSError, match="a' of the data set ends within a record.* of 358 bytes"):
            record_offsets(paths)
    os.unlink(paths[2])
    with pytest.raises(FileNotFoundError) as caught:
        record_offsets(paths)
    assert caught.value.filename == paths[2] and not cache.exists()
