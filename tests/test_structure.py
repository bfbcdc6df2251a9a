"""The shape of the library: imports point one way, TensorFlow stays where it is needed."""

import ast
import pathlib
import re

import keras
import pytest

from sd_keras import keras_internals

PACKAGE = pathlib.Path(__file__).parents[1] / "sd_keras"
SETUP = PACKAGE.parent / "setup.py"

# A module may import what stands on a lower level, or on its own.
LEVELS = {
    "losses": 0,
    "schedules": 0,
    "layers": 0,
    "distortions": 0,
    "seeds": 0,
    "adversary": 1,
    "mixing": 0,
    "optimizers": 0,
    "recipes": 1,
    "checkpoints": 0,
    "replica_state": 1,
    "callbacks": 2,
    "report": 0,
    "results_card": 3,
    "processor": 0,
    "version": 0,
    "keras_internals": 0,
    "inference": 2,
    "replicas": 0,
    "graph": 0,
    "scopes": 0,
    "gradients": 0,
    "corruptions": 0,
    "calls": 0,
    "macs": 0,
    "costs": 0,
    "models": 1,
    "objectives": 1,
    "data": 0,
    "methods": 2,
    "analysis": 2,
    "export": 2,
    "distribute": 0,
    "trainer": 4,
}
HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "sklearn",
    "matplotlib",
    "torch",
    "jax",
    "ai_edge_litert",
    "tf2onnx",
    "onnx",
    "onnxruntime",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(tree, top_level_only=False):
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "sd_keras":
                yield from (f"sd_keras.{alias.name}" for alias in node.names)


def test_imports_point_down():
    failures = []
    for path in FILES:
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        level = max(LEVELS.values()) if package == "__init__" else LEVELS[package]
        for name in imports(ast.parse(path.read_text())):
            parts = name.split(".")
            is_other = parts[0] == "sd_keras" and len(parts) > 1 and parts[1] != package
            if is_other and LEVELS[parts[1]] > level:
                failures.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not failures


def test_heavy_packages_are_imported_where_used():
    # Loaded under that backend only.
    allowed = {"distributed.py": {"tensorflow"}, "jax.py": {"jax"}}
    failures = []
    for path in FILES:
        top = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()), True)}
        for name in top & set(HEAVY) - allowed.get(path.name, set()):
            failures.append(f"{path.relative_to(PACKAGE)} imports {name} at its top")
    assert not failures


def test_private_names_of_keras_are_used_in_one_module():
    source = pathlib.Path(keras_internals.__file__).read_text()
    names = set(re.findall(r'"(_[a-z_]+)"', source))
    assert {"_keras_history", "_flatten_layers", "_get_jax_state"} <= names
    failures = []
    for path in FILES:
        if path.name == "keras_internals.py":
            continue
        text = path.read_text()
        used = {n.attr for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)} & names
        used |= set(re.findall(r"keras\\?\.src", text))
        failures += [f"{path.relative_to(PACKAGE)} uses {name}" for name in sorted(used)]
    assert not failures


def test_a_missing_private_name_is_reported_with_the_version():
    with pytest.raises(AttributeError, match="keras>=3.15.*'_keras_history'.*Received: keras 3"):
        keras_internals.operation_of(keras.ops.zeros(()))
    requirement = next(line for line in SETUP.read_text().split('"') if line.startswith("keras>="))
    assert requirement == keras_internals.SUPPORTED
