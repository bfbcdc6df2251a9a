"""apps/export.py: artifacts of a run, their names, what the card tells, and wrong flags."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import answers_of, bright_and_dark, tiny_network, with_mixed_answers

from sd_keras import results_card

MEASURED = {"accuracy": 0.625, "top_5": 1.0, "cross_entropy": 1.0, "calibration_error": 0.25}
RESULTS = {
    "flags": {"dataset": "FOLDER", "method": "two_branch", "epochs": 3, "validation": 0.5},
    "measured": {"test": dict.fromkeys(("exit_1", "exit_2", "ensemble"), MEASURED)},
}
# Flags behind those of a run; `{0}` is its folder and `{1}` the one above.
GOOD = {
    "saved_model": ("--early_exit=margin", "--max_drop=0.5", "--output={1}/models/cats"),
    "keras": ("--to=keras", "--exit=exit_1"),
}
INT8 = ("--precision=int8", "--representative=8")
OF_LITE = {
    "lite": ("--to=lite", *INT8, "--output={1}/a.tflite"),
    "lite_cascade": ("--to=lite_cascade", "--output={1}/cascade"),
}
HAS_LITE = importlib.util.find_spec("ai_edge_litert") is not None
WRONG = {
    ("--to=tflite",): "--to=tflite",
    ("--network={0}/nowhere",): "`network` does not exist",
    ("--network={0}/data.npz", "--to=keras"): "`network` must be a .keras file or the workdir",
    ("--to=keras", "--exit=exit_9"): "`exit` must be None or one of ['exit_1', 'exit_2', 'ens",
    ("--exit=exit_1",): "`exit` must not be given unless --to is one of ('lite', 'onnx', 'keras')",
    ("--to=keras", "--precision=int8"): "`precision` must not be given unless",
    ("--max_drop=0.1",): "`early_exit` must be given with `max_drop`",
    ("--policy={0}/a.json", "--calibrate"): "`policy` must not be given with `early_exit`",
    ("--policy={0}/a.json",): "`policy` must be a file that apps/evaluate.py --policy wrote",
    ("--policy={0}/policy.json",): "`policy` must be a Policy of 1 thresholds for 2 exits",
    ("--class_names={0}/names.txt",): "`class_names` must be None or 4 names",
    ("--class_names={0}/none.txt",): "No such file or directory",
    ("--preprocessing=center_crop",): "`preprocessing` can be 'center_crop' for square RGB",
    ("--dataset=digits",): "`dataset` must have images of shape (8, 8, 1) and 4 classes",
    ("--calibrate", "--validation=0"): "`validation` must be 0.5, as in the run",
    ("--to=keras", "--output={0}/a.h5"): "`output` must end in .keras",
    ("--to=keras", "--output={0}/network.keras"): "`output` must not exist yet",
    ("--to=keras", "--output={0}/data.npz/a.keras"): "`output` must lie in a folder",
    ("--name=a/b",): "`name` must be letters, digits, `_`, `.` and `-`",
    ("--name=a", "--output={0}/b"): "`name` must not be given with `output`",
    ("network.keras",): "flags are written --name=value",
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The folder of a run, and what the app answered to all commands."""
    folder = tmp_path_factory.mktemp("exported") / "tiny run"
    folder.mkdir()
    images = bright_and_dark(48)
    network = with_mixed_answers(tiny_network(), images)
    network.save(folder / "network.keras")
    labels = network.predict(images, verbose=0)["exit_2"].argmax(1)
    labels[::4] = np.arange(12) % 4
    arrays = {
        f"{name}_{split}": v
        for split in ("train", "test")
        for name, v in (("x", images), ("y", labels))
    }
    np.savez(folder / "data.npz", class_names=["cat", "dog", "owl", "bee"], **arrays)
    flags = RESULTS["flags"] | {"dataset": f"npz:{folder / 'data.npz'}"}
    (folder / "results.json").write_text(json.dumps(RESULTS | {"flags": flags}))
    (folder / "a.json").write_text("{")
    policy = {"rule": "margin", "thresholds": [0.5, 0.5], "temperatures": [1, 1, 1]}
    (folder / "policy.json").write_text(json.dumps(policy))
    (folder / "names.txt").write_text("cat\ndog\n")
    (folder.parent / "models/cats/9").mkdir(parents=True)
    base = (f"--network={folder}",)
    commands = {flags: (*base, *(f.format(folder) for f in flags)) for flags in WRONG}
    for flags in WRONG:
        if not any(word.startswith(("--to", "--output", "--name")) for word in flags):
            commands[flags] += (f"--output={folder / 'refused'}",)
    for name, flags in (GOOD | (OF_LITE if HAS_LITE else {})).items():
        commands[name] = (*base, *(flag.format(folder, folder.parent) for flag in flags))
    names = f"--dataset=npz:{folder / 'data.npz'}"
    commands["saved_model"] += (names,)
    answers = answers_of("export.py", list(commands.values()))
    return folder, dict(zip(commands, answers.values()))


def test_a_saved_model_of_a_run(answered):
    folder, answers = answered
    code, text = answers["saved_model"]
    assert code == 0, text
    extra = folder.parent / "models/cats/10/assets.extra"  # behind version 9
    assert (extra / "class_names.txt").read_text() == "cat\ndog\nowl\nbee\n"
    card = json.loads((extra / "model_card.json").read_text())
    assert card["name"] == "cats" and card["early_exit"]["rule"] == "margin"
    assert card["measured"] == RESULTS["measured"]
    told = {"data": f"npz:{folder / 'data.npz'}", "method": "two_branch", "epochs": 3}
    assert card["about"] == told
    assert "% leave at the exits" in text and "MB" in text
    assert "docker run --rm" in text and "target=/models/cats,readonly" in text
    assert "python apps/client.py --model=cats photo.png" in text


def test_a_saved_model_is_timed_by_its_signatures(answered):
    folder, images = answered[0].parent / "models/cats/10", bright_and_dark(4)
    found = results_card.saved_model_latencies(folder, images, (1, 6), rounds=1)
    assert list(found["milliseconds"]) == ["exit_1", "exit_2", "ensemble"]
    assert set(found["milliseconds"]["ensemble"]) == {"1", "6"} and len(found["path"]) == 2
    with pytest.raises(ValueError, match=r"`path` must take images of shape \(9, 8, 1\)"):
        results_card.saved_model_latencies(folder, np.zeros((4, 9, 8, 1), "uint8"))


def test_one_exit_as_a_keras_file(answered):
    folder, answers = answered
    code, text = answers["keras"]
    assert code == 0, text
    path = folder / "tiny_run_exit_1_stock.keras"
    assert str(path) in text
    images = bright_and_dark(4)
    found, whole = (keras.models.load_model(p) for p in (path, folder / "network.keras"))
    expected = whole.predict(images, verbose=0)["exit_1"]
    np.testing.assert_allclose(found.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flags", WRONG, ids=lambda flags: " ".join(flags))
def test_wrong_flags_end_with_a_sentence(answered, flags):
    folder, answers = answered
    code, text = answers[flags]
    assert code == 1 and WRONG[flags] in text and "Traceback" not in text, text
    made = {path.name for path in folder.iterdir()}
    assert made == {
        *("network.keras", "data.npz", "results.json", "a.json", "policy.json", "names.txt"),
        "tiny_run_exit_1_stock.keras",
    }


FULL = """
import resource, runpy, sys
import tensorflow
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.process
def test_a_disk_that_takes_no_more_ends_with_a_sentence_and_leaves_nothing(tmp_path):
    app = pathlib.Path(__file__).parents[1] / "apps/export.py"
    tiny_network().save(tmp_path / "network.keras")
    flags = (f"--network={tmp_path}", f"--output={tmp_path / 'new/cats'}")
    done = subprocess.run(
        [sys.executable, "-c", FULL, app, *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: /"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["network.keras"]


@pytest.mark.skipif(not HAS_LITE, reason="needs the extra lite")
def test_lite_files_of_a_run(answered):
    folder, answers = answered
    file, chain = answers["lite"], answers["lite_cascade"]
    assert file[0] == chain[0] == 0, (file, chain)
    found = results_card.lite_latencies(folder.parent / "a.tflite", bright_and_dark(2), (1, 3), 1)
    assert set(found["milliseconds"]) == {"exit_1", "exit_2", "ensemble"} and not found["path"]
    assert f"python apps/run_cascade.py {folder.parent / 'cascade'} images.npy" in chain[1]
