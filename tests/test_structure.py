"""The shape of the library: imports point one way, TensorFlow stays where it is needed."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "sd_keras"

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
    "divergence": 0,
    "replica_state": 1,
    "run_state": 2,
    "backup_files": 3,
    "backup": 4,
    "report": 0,
    "results_card": 3,
    "preemption": 0,
    "version": 0,
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
    "run_files": 4,
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    own_level = max(LEVELS.values()) if own == "__init__" else LEVELS[own]
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "sd_keras" and len(parts) > 1 and parts[1] != own:
            assert LEVELS[parts[1]] <= own_level, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_used(path):
    top = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()), True)}
    # Loaded under that backend only.
    of_tensorflow = ("distributed.py", "distributed_step.py", "answers.py")
    own = dict.fromkeys(of_tensorflow, {"tensorflow"})
    own["jax.py"] = {"jax"}
    allowed = own.get(path.name, set())
    assert not top & set(HEAVY) - allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 40, node.name
