"""The `.keras` file for others: loaded in a process that cannot import this library."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import tiny_network
from test_losses import numpy
from test_models import pictures, randomize
from test_stock import answers, every_own_layer

from sd_keras import attach_exits, checkpoints, exit_names
from sd_keras.export.keras_file import write_keras

CLIENT = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sd_keras":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import keras
import numpy as np

results = {}
for path in sys.argv[2:]:
    model = keras.models.load_model(path)
    outputs = model(np.load(sys.argv[1]), training=False)
    values = keras.tree.map_structure(lambda v: keras.ops.convert_to_numpy(v).tolist(), outputs)
    results[path] = values
print("RESULT" + json.dumps(results))
assert "sd_keras" not in sys.modules
"""


def loaded_elsewhere(folder, paths, images):
    """What models answer that are loaded where this library is missing."""
    np.save(folder / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, folder / "images.npy", *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.partition("RESULT")[2]).values())


@pytest.mark.process
def test_files_load_where_the_library_is_missing(tmp_path):
    shallow = tiny_network(input_shape=(8, 8, 3), shortcut="A")
    odd = attach_exits(every_own_layer(), 5, at=[])
    images = pictures(2, 8, 8, 3)
    paths = [tmp_path / "files" / f"{name}.keras" for name in "abcd"]
    for network in (shallow, odd):
        randomize(network)
    write_keras(shallow, paths[0])
    write_keras(odd, paths[1])
    write_keras(shallow, paths[2], exit="exit_1", fold=True)
    write_keras(shallow, paths[3], exit="ensemble", fold=True)
    every, other, one, mean = loaded_elsewhere(tmp_path, paths, images)
    want = answers(shallow, images)
    for got, expected in ((every, want), (other, answers(odd, images))):
        assert sorted(got) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one, want["exit_1"], rtol=1e-4, atol=1e-4)
    logits = [want[name].astype("float64") for name in exit_names(shallow)]
    shares = [np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in logits]
    np.testing.assert_allclose(mean, np.mean(shares, 0), atol=1e-5)


def test_the_ensemble_of_one_exit(tmp_path):
    network = tiny_network(at=[])
    write_keras(network, tmp_path / "a.keras", exit="ensemble")
    images = pictures(2, 8, 8, 1)
    got = numpy(keras.models.load_model(tmp_path / "a.keras")(images))
    want = numpy(keras.ops.softmax(network(images, training=False)["exit_1"]))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_nothing_half_written_and_nothing_overwritten(tmp_path, monkeypatch):
    network, path = tiny_network(at=[]), tmp_path / "a.keras"

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_keras(network, path)
    assert list(tmp_path.iterdir()) == []
    write_keras(network, path)
    with pytest.raises(FileExistsError, match="`path` must not exist yet. Received: path=.*a.ker"):
        write_keras(network, path)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"path": "a.h5"}, "`path` must end in .keras. Received: path='.*a.h5'"),
        (
            {"exit": "exit_9"},
            r"`exit` must be None or one of \['exit_1', 'ensemble'\].*exit_9",
        ),
        ({"exit": 1}, "`exit` must be None or one of .* Received: exit=1"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    path = tmp_path / options.pop("path", "a.keras")
    with pytest.raises(ValueError, match=message):
        write_keras(tiny_network(at=[]), path, **options)
    assert list(tmp_path.iterdir()) == []


def test_layers_of_another_package_are_refused_unless_it_is_named(tmp_path):
    @keras.saving.register_keras_serializable(package="keras_hub")
    class Foreign(keras.layers.ReLU):
        pass

    Foreign.__module__ = "keras_hub.layers"
    image = keras.Input((8, 8, 3))
    x = Foreign(name="foreign")(keras.layers.Conv2D(4, 3)(image))
    network = attach_exits(keras.Model(image, x), 5, at=[])
    with pytest.raises(ValueError, match="`network` must consist.*'foreign' of type keras_hub"):
        write_keras(network, tmp_path / "a.keras")
    write_keras(network, tmp_path / "a.keras", packages=["keras_hub"])
    assert (tmp_path / "a.keras").is_file()
