"""Damaged and foreign files end with a ValueError that names the file."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest

from sd_keras.checkpoints import load_network, read_json
from sd_keras.data.npz import read_npz
from sd_keras.inference import Policy

POLICY = Policy("margin", [0.5, None], [1.0, 1.5, 2.0])


def damages(content, count, seed=0):
    """Yields `count` copies of some bytes: cut off, with a bit flipped or with a few replaced."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        changed, place = bytearray(content), int(generator.integers(len(content)))
        if index % 3 == 0:
            del changed[place:]
        elif index % 3 == 1:
            changed[place] ^= 1 << int(generator.integers(8))
        else:
            changed[place : place + 4] = generator.bytes(4)
        yield bytes(changed)


def refused(path, content, read):
    """Writes a file and returns whether reading it ended with a ValueError that names it."""
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error) or "Received: " in str(error), error
        return True
    return False


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "network.keras"
    image = keras.Input((2,))
    keras.Model(image, {"exit_1": keras.layers.Dense(2)(image)}).save(path)
    return path


def archive(compressed=False):
    """Bytes of a small data set."""
    file, save = io.BytesIO(), np.savez_compressed if compressed else np.savez
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3)).astype("uint8")
    labels = np.arange(4)
    save(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return file.getvalue()


def test_damaged_policies_are_refused_or_valid(tmp_path):
    content = json.dumps(POLICY.to_dict()).encode()
    path = tmp_path / "policy.json"
    cases = list(damages(content, 400))
    count = sum(refused(path, c, lambda p: Policy.from_dict(read_json(p))) for c in cases)
    assert 200 < count < len(cases)  # a digit may become another


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives_are_refused(tmp_path, compressed):
    content, path = archive(compressed), tmp_path / "data.npz"
    expected = read_arrays(path, content)
    for case in damages(content, 200):
        if not refused(path, case, read_npz):
            # Bytes without meaning, such as the time of a member.
            for part, whole in zip(read_arrays(path, case), expected):
                np.testing.assert_array_equal(part, whole)


def read_arrays(path, content):
    path.write_bytes(content)
    sets = read_npz(path)
    return [*sets.train, *sets.test]


def test_damaged_networks_are_refused(tmp_path, network_file):
    content, path = network_file.read_bytes(), tmp_path / "network.keras"
    expected = load_network(network_file).get_weights()
    for case in damages(content, 24):
        if not refused(path, case, load_network):
            for part, whole in zip(load_network(path).get_weights(), expected):
                np.testing.assert_array_equal(part, whole)


def rewritten(network_file, name, content):
    """Bytes of a `.keras` file with another member."""
    file = io.BytesIO()
    with zipfile.ZipFile(network_file) as before, zipfile.ZipFile(file, "w") as after:
        for member in before.namelist():
            after.writestr(member, content if member == name else before.read(member))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"null", b"[1]", b"\xff", b"{}", b""])
def test_networks_of_other_configs_are_refused(tmp_path, network_file, content):
    for name in ("config.json", "metadata.json"):
        if (name, content) != ("metadata.json", b"{}"):  # Keras does without
            data = rewritten(network_file, name, content)
            path = tmp_path / "network.keras"
            path.write_bytes(data)
            try:
                load_network(path)
            except ValueError as error:
                assert "`network` must be a whole .keras file" in str(error)
            else:
                assert name == "metadata.json"


def test_a_network_that_unpacks_to_far_more_is_refused_unread(tmp_path):
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", bytes(10_000_000))
    with pytest.raises(ValueError, match="it holds 10000000 bytes when unpacked"):
        load_network(path)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"\xff{}", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' * 100_000, "recursion"),
        (b"", "Expecting value"),
        (b"null", r"must hold a JSON object. Received: NoneType"),
        (b"[1]", r"must hold a JSON object. Received: list"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a finite number"),
        (b'{"fraction": 1e999}', "1e999 is not a finite number"),
        (b'{"a": 1', "delimiter"),
        (b'{"a": ' + b"1" * 5000 + b"}", "limit"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_other_json_is_refused(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_json_of_either_kind_is_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('["ä", null]')
    assert read_json(path, list) == ["ä", None]
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    "entries",
    [
        {"rule": None},
        {"rule": ["margin"]},
        {"thresholds": None},
        {"thresholds": 0.5},
        {"thresholds": [[0.5], 0.5]},
        {"thresholds": [10**400, 0.5]},
        {"thresholds": {"a": 1}},
        {"temperatures": [10**400, 1, 1]},
        {"temperatures": [None, 1, 1]},
        {"temperatures": [[1], 1]},
        {"temperatures": "111"},
    ],
    ids=repr,
)
def test_policies_of_wrong_types_are_refused(entries):
    (name,) = entries
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Policy.from_dict(POLICY.to_dict() | entries)


def member(header, data=b"", version=b"\1\0"):
    """Bytes of a .npy file of any header."""
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content,message",
    [
        (b"x" * 50, "magic string"),
        (member(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999,9999999)}\n"), "long"),
        (member(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,2,2)}\n", b"abc"), "long"),
        (member(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,2,2)}\n", b"abc"), "long"),
        (member(b"[" * 9000 + b"\n"), "npz:"),
        (member(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"."), "pickled"),
        (member(b"{}", version=b"\3\0"), r"\(3, 0\)"),
    ],
    ids=range(7),
)
def test_arrays_that_are_not_what_their_header_says(tmp_path, content, message):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{key}.npy", content)
    with pytest.raises(ValueError, match=message) as raised:
        read_npz(path)
    assert str(path) in str(raised.value)


def test_encrypted_and_huge_members_are_refused_unread(tmp_path):
    content, path = archive(), tmp_path / "data.npz"
    start = content.index(b"PK\1\2")  # of the directory: flags at 8, sizes at 20 and 24
    encrypted = content[: start + 8] + b"\1\0" + content[start + 10 :]
    huge = content[: start + 24] + (2**32 - 2).to_bytes(4, "little") + content[start + 28 :]
    for case, message in ((encrypted, "encrypted"), (huge, "4294967294 bytes when unpacked")):
        path.write_bytes(case)
        with pytest.raises(ValueError, match=message):
            read_npz(path)


def test_a_label_does_not_name_millions_of_classes(tmp_path):
    images, labels = np.zeros((2, 3, 3), "uint8"), np.array([0, 2**31 - 1])
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(ValueError, match="`y_train` must hold labels from 0 on, below 1000000"):
        read_npz(path)
