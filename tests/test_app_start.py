"""How apps start: `--help` without Keras, flags that know its names, a quiet terminal."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from sd_keras import distribute, inference, recipes
from sd_keras.export import encoded_images, lite_file

APPS = pathlib.Path(__file__).parents[1] / "apps"
NAMES = ("train_cifar", "train_imagenet", "evaluate", "export", "analyze", "card")
NAMES += ("reproduce", "benchmark", "client")
# Prints the help of an app, then what was imported for it and what its flags may be.
PROGRAM = """
import json, runpy, sys
path, sys.argv = sys.argv[1], [sys.argv[1], "--help"]
try:
    runpy.run_path(path, run_name="__main__")
except SystemExit:
    from absl import flags
    values = {f: getattr(flags.FLAGS[f].parser, "enum_values", None) for f in flags.FLAGS}
    print(json.dumps([list(sys.modules), values]))
"""


@pytest.fixture(scope="module")
def helps():
    """By app: its help, names of imported modules, and the choices of its flags."""
    paths = [APPS / f"{name}.py" for name in NAMES]
    options = {"env": os.environ | {"PYTHONPATH": str(APPS)}, "stdout": subprocess.PIPE}
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM, p], **options) for p in paths]
    printed = [process.communicate(timeout=60)[0].decode() for process in started]
    texts = [text.strip().rpartition("\n") for text in printed]
    return {path.stem: (text, *json.loads(last)) for path, (text, _, last) in zip(paths, texts)}


def test_help_imports_neither_tensorflow_nor_keras(helps):
    for name, (text, modules, _) in helps.items():
        assert "flags:" in text, name
        assert not {"tensorflow", "keras", "sd_keras", "jax", "torch"} & set(modules), name


def test_flags_have_the_names_of_the_library(helps):
    choices = {app: flags for app, (_, _, flags) in helps.items()}
    for app in ("evaluate", "export", "card"):
        assert choices[app]["early_exit"] == list(inference.RULES)
    assert choices["train_imagenet"]["recipe"] == list(recipes.RECIPES)
    assert choices["train_imagenet"]["strategy"] == list(distribute.STRATEGIES)
    assert choices["export"]["precision"] == list(lite_file.PRECISIONS)
    assert choices["export"]["preprocessing"] == list(encoded_images.PREPROCESSING)


@pytest.fixture
def app_start(monkeypatch):
    monkeypatch.syspath_prepend(str(APPS))
    module = importlib.import_module("app_start")
    monkeypatch.setattr(module, "IS_QUIET", True)
    return module


def test_native_notes_are_kept_from_the_terminal(app_start, capfd):
    with app_start.quiet_native_stderr():
        os.write(2, b"a note of a native library\n")
        print("a warning of Python", file=sys.stderr)
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "a warning of Python\nafterwards\n"


def test_native_notes_are_shown_with_an_error(app_start, capfd):
    with pytest.raises(ImportError), app_start.quiet_native_stderr():
        os.write(2, b"a library is missing\n")
        raise ImportError
    assert capfd.readouterr().err == "a library is missing\n"


def test_native_notes_are_shown_if_the_user_asks(app_start, capfd, monkeypatch):
    monkeypatch.setattr(app_start, "IS_QUIET", False)
    with app_start.quiet_native_stderr():
        os.write(2, b"a note\n")
    assert capfd.readouterr().err == "a note\n"


def test_modules_are_imported_when_they_are_used(app_start, monkeypatch, tmp_path):
    (tmp_path / "heavy_module.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = app_start.lazy_import("heavy_module")
    assert "heavy_module" not in sys.modules
    assert module.value == 3 and sys.modules["heavy_module"].value == 3
    assert app_start.lazy_import("heavy_module") is sys.modules.pop("heavy_module")
