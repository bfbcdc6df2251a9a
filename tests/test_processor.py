"""oneDNN is switched on before TensorFlow loads; slow choices warn."""

import os
import subprocess
import sys
import types
import warnings

import keras
import pytest
from conftest import smallest_network

import sd_keras
from sd_keras import processor

CPU_FLAGS = processor.cpu_flags
AVX2 = "fpu sse4_2 avx avx2 fma"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Returns a function that makes this an x86 processor with the given instruction sets."""

    def give(flags, machine="x86_64", accelerator=False):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n\n" * 2)
        monkeypatch.setattr(processor.platform, "machine", lambda: machine)
        monkeypatch.setattr(processor, "cpu_flags", lambda: CPU_FLAGS(path))
        monkeypatch.setattr(processor, "_has_accelerator", lambda: accelerator)
        processor.warn_of_slow_bfloat16.cache_clear()

    yield give
    processor.warn_of_slow_bfloat16.cache_clear()


def messages(function, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(each.message) for each in caught]


def test_flags_are_read(cpu, monkeypatch, tmp_path):
    cpu(AVX2)
    assert processor.cpu_flags() == set(AVX2.split())
    assert processor.cpu_flags() & processor.ONEDNN_FLAGS == set()
    cpu(AVX2, machine="aarch64")
    assert processor.cpu_flags() == set()
    monkeypatch.undo()
    assert processor.cpu_flags(tmp_path / "missing") == set()


@pytest.mark.parametrize(
    ("flags", "setting", "is_loaded", "warns", "after"),
    [
        (AVX2, None, False, False, "1"),
        (AVX2, None, True, True, None),
        (AVX2, "0", True, False, "0"),
        (AVX2, "0", False, False, "0"),
        (f"{AVX2} avx512_vnni", None, True, False, None),
        ("fpu sse4_2 avx", None, True, False, None),
    ],
)
def test_onednn(cpu, monkeypatch, flags, setting, is_loaded, warns, after):
    cpu(flags)
    monkeypatch.delenv(processor.ONEDNN, raising=False)
    if setting:
        monkeypatch.setenv(processor.ONEDNN, setting)
    modules = {"tensorflow": None} if is_loaded else {}
    monkeypatch.setattr(processor, "sys", types.SimpleNamespace(modules=modules))
    found = messages(processor.enable_onednn)
    assert [processor.ONEDNN in message for message in found] == [True] * warns
    assert os.environ.get(processor.ONEDNN) == after


def test_other_processors_are_left_alone(cpu, monkeypatch):
    cpu(AVX2, machine="arm64")
    monkeypatch.delenv(processor.ONEDNN, raising=False)
    assert not messages(processor.enable_onednn) and processor.ONEDNN not in os.environ


PROGRAM = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            print(name, os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
            sys.exit()

sys.meta_path.insert(0, Watch())
import sd_keras
"""


@pytest.mark.skipif(processor.platform.machine() != "x86_64", reason="x86 only")
def test_importing_sets_the_variable_before_tensorflow_loads():
    environment = {k: v for k, v in os.environ.items() if k != processor.ONEDNN}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "keras 1\n"


@pytest.mark.parametrize(
    ("flags", "machine", "accelerator", "warns"),
    [
        (AVX2, "x86_64", False, True),
        (AVX2, "x86_64", True, False),
        (AVX2, "arm64", False, False),
        (f"{AVX2} avx512_bf16", "x86_64", False, False),
    ],
)
def test_slow_bfloat16_warns_once(cpu, flags, machine, accelerator, warns):
    cpu(flags, machine, accelerator)
    found = messages(processor.warn_of_slow_bfloat16) + messages(processor.warn_of_slow_bfloat16)
    assert ["AVX512-BF16" in message for message in found] == [True] * warns


@pytest.mark.parametrize(
    ("policy", "warns"), [("float32", False), ("mixed_float16", False), ("mixed_bfloat16", True)]
)
def test_compile_warns_of_slow_bfloat16(cpu, policy, warns, tmp_path):
    cpu(AVX2)
    keras.config.set_dtype_policy(policy)
    model = sd_keras.SelfDistillModel(smallest_network())
    found = messages(model.compile, "sgd")
    assert ["AVX512-BF16" in message for message in found] == [True] * warns


def test_a_loaded_model_is_compiled(tmp_path):
    model = sd_keras.SelfDistillModel(smallest_network())
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.compiled and loaded.optimizer.built
    assert loaded.optimizer.momentum == 0.5 and loaded.get_compile_config()["metrics"]
