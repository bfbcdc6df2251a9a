"""The chain of LiteRT files, run where there is neither TensorFlow nor sd_keras."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import bright_and_dark, smallest_network, with_mixed_answers

import sd_keras
from sd_keras.export import lite_cascade
from sd_keras.inference import Policy, confidences, decide

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install 'sd_keras[lite]'")

APPS = pathlib.Path(__file__).parents[1] / "apps"
sys.path.append(str(APPS))
# Runs one folder under several policies, with what a phone lacks blocked.
PHONE = """
import json, sys
for name in ("tensorflow", "keras", "sd_keras"):
    sys.modules[name] = None
import numpy as np
import run_cascade
cascade, images = run_cascade.Cascade(sys.argv[1]), np.load(sys.argv[2])
found = []
for policy in json.loads(sys.argv[3]):
    cascade.content["policy"] = policy
    found.append([cascade.classify(image) for image in images])
run_cascade.main(*sys.argv[1:3])
print("RESULT" + json.dumps(found))
"""
TEMPERATURES = (0.5, 2.0, 1.0)


@pytest.fixture(scope="module")
def pixels():
    return bright_and_dark()


@pytest.fixture(scope="module")
def network(pixels):
    keras.utils.set_random_seed(0)
    backbone = sd_keras.models.resnet((8, 8, 1), "cifar", (1, 1, 1), (4, 4, 8))
    return with_mixed_answers(sd_keras.attach_exits(backbone, 4), pixels)


@pytest.fixture(scope="module")
def logits(network, pixels):
    outputs = network(pixels.astype("float32"), training=False)
    return {name: np.array(outputs[name]) for name in sd_keras.exit_names(network)}


def policy_by(rule, logits):
    """A policy under which images leave everywhere, none of them by a hair."""
    sure = confidences(logits, rule, TEMPERATURES)
    thresholds = (None, 1)
    if rule != "agreement":
        ordered = np.sort(sure, axis=1)[:2, 15:17]
        thresholds = ordered.mean(axis=1).tolist()
    return Policy(rule, thresholds, TEMPERATURES)


@pytest.fixture(scope="module")
def folder(network, logits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade") / "new" / "float32"
    policy = policy_by("max_probability", logits)
    lite_cascade(network, folder, policy=policy, class_names=["zero", "one", "two", "three"])
    return folder


@pytest.mark.process
def test_a_phone_leaves_where_the_offline_policy_does(folder, logits, pixels, tmp_path):
    np.save(tmp_path / "images.npy", pixels)
    rules = ("max_probability", "entropy", "margin", "agreement")
    policies = [policy_by(rule, logits) for rule in rules]
    contents = json.dumps([policy.to_dict() for policy in policies])
    done = subprocess.run(
        [sys.executable, "-c", PHONE, str(folder), str(tmp_path / "images.npy"), contents],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(APPS)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed, _, results = done.stdout.partition("RESULT")
    for policy, found in zip(policies, json.loads(results)):
        wanted = decide(logits, policy)
        winners = [logits[f"exit_{k}"][row].argmax() for row, k in enumerate(wanted.exit)]
        assert len(set(wanted.exit)) > 1, policy
        assert [(said, k) for said, _, k in found] == list(zip(winners, wanted.exit)), policy
        np.testing.assert_allclose([sure for _, sure, _ in found], wanted.confidence, atol=1e-5)
    lines = [line.split("\t") for line in printed.splitlines()]
    assert len(lines) == len(pixels)
    assert {line[0] for line in lines} <= {"zero", "one", "two", "three"}


def test_what_the_folder_tells(folder, logits):
    content = json.loads((folder / "cascade.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        "cascade.json",
        "section_1.tflite",
        "section_2.tflite",
        "section_3.tflite",
    ]
    assert content["image"] == {"shape": [8, 8, 1], "dtype": "float32"}
    assert content["policy"] == policy_by("max_probability", logits).to_dict()
    assert content["class_names"] == ["zero", "one", "two", "three"]
    sections = content["sections"]
    assert [section["exit"] for section in sections] == ["exit_1", "exit_2", "exit_3"]
    assert sections[1]["inputs"] == [{"name": "handed_on_1", "shape": [8, 8, 4]}]
    assert sections[0]["handed_on"] == ["handed_on_1"]
    assert sections[2]["handed_on"] == []


def test_the_files_together_hold_each_weight_once(network, folder):
    weights = sum(4 * int(np.prod(w.shape)) for w in network.weights)
    assert sum(path.stat().st_size for path in folder.glob("*.tflite")) < 1.1 * weights


@pytest.mark.large
def test_integers_throughout(network, logits, pixels, tmp_path):
    import run_cascade

    policy = policy_by("max_probability", logits)
    lite_cascade(network, tmp_path / "int8", "int8", policy, pixels[:16])
    cascade = run_cascade.Cascade(tmp_path / "int8")
    assert cascade.content["image"]["dtype"] == "uint8"
    found = [cascade.classify(image)[2] for image in pixels]
    assert np.mean(found == decide(logits, policy).exit) >= 0.85


def test_without_policy_all_go_to_the_deepest_exit(tmp_path, pixels):
    import run_cascade

    lite_cascade(smallest_network(), tmp_path / "one")
    cascade = run_cascade.Cascade(tmp_path / "one")
    assert cascade.content["policy"]["thresholds"] == []
    assert cascade.classify(pixels[0])[2] == 1


@pytest.fixture(scope="module")
def broken(folder, tmp_path_factory):
    """A folder with images, and cascades whose cascade.json or files are not right."""
    root = tmp_path_factory.mktemp("broken")
    content = json.loads((folder / "cascade.json").read_text())
    for name, thresholds in (("few", [0.9]), ("many", [0.9, None, 0.5]), ("words", ["a", None])):
        changed = content | {"policy": content["policy"] | {"thresholds": thresholds}}
        (root / name).mkdir()
        (root / name / "cascade.json").write_text(json.dumps(changed))
    first, *others = content["sections"]
    for name, entries in (
        ("up", {"sections": [first | {"file": "../few/cascade.json"}, *others]}),
        ("absolute", {"sections": [first | {"file": "/etc/passwd"}, *others]}),
        ("windows", {"sections": [first | {"file": "C:\\\\a"}, *others]}),
        ("parent", {"sections": [first | {"file": ".."}, *others]}),
        ("file", {"sections": [first | {"file": None}, *others]}),
        ("nan", {"policy": content["policy"] | {"thresholds": [float("nan"), None]}}),
        ("cold", {"policy": content["policy"] | {"temperatures": [-1, 1, 1]}}),
        ("rule", {"policy": content["policy"] | {"rule": ["margin"]}}),
        ("null", {"policy": None}),
    ):
        (root / name).mkdir()
        (root / name / "cascade.json").write_text(json.dumps(content | entries))
    (root / "deep").mkdir()
    (root / "deep/cascade.json").write_text("[" * 100_000)
    for name, length in (("half", 50), ("no files", None)):
        (root / name).mkdir()
        (root / name / "cascade.json").write_text(json.dumps(content)[:length])
    np.save(root / "images.npy", np.zeros((2, 8, 8, 1), "uint8"))
    np.save(root / "shape.npy", np.zeros((8, 8, 1), "uint8"))
    np.save(root / "dtype.npy", np.full((2, 8, 8, 1), "a"))
    np.save(root / "range.npy", np.full((2, 8, 8, 1), -0.5))
    np.savez(root / "two.npz", a=1, b=2)
    (root / "photo.png").write_text("no array")
    return root


ANSWERS = """
import contextlib, io, json, runpy, sys
for name in ("tensorflow", "keras", "sd_keras"):
    sys.modules[name] = None
found = []
for words in json.loads(sys.argv[2]):
    sys.modules.pop("ai_edge_litert.interpreter", None)
    if words[:1] == ["no litert"]:
        words, sys.modules["ai_edge_litert.interpreter"] = words[1:], None
    printed = io.StringIO()
    sys.argv[1:], path = words, sys.argv[1] if not found else path
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(path, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
    text = printed.getvalue() + (code if type(code) is str else "")
    found.append([code if type(code) is int else 1, text])
print(json.dumps(found))
"""
SENTENCES = {
    (): "python run_cascade.py FOLDER images.npy",
    ("{folder}",): "FOLDER images.npy",
    ("{root}/nowhere", "{root}/images.npy"): "No such file",
    ("{folder}", "{root}/nowhere.npy"): "No such file",
    ("{root}/half", "{root}/images.npy"): "cascade.json is not what lite_cascade wrote",
    **{
        (f"{{root}}/{name}", "{root}/images.npy"): "`file` must name a file of the folder"
        for name in ("up", "absolute", "windows", "parent")
    },
    **{
        (f"{{root}}/{name}", "{root}/images.npy"): "cascade.json is not what lite_cascade wrote"
        for name in ("file", "nan", "cold", "rule", "null", "deep")
    },
    ("{root}/few", "{root}/images.npy"): "must hold 2 `thresholds`, numbers or null",
    ("{root}/many", "{root}/images.npy"): "Received: thresholds=[0.9, None, 0.5]",
    ("{root}/words", "{root}/images.npy"): "cascade.json is not what lite_cascade wrote",
    ("{root}/no files", "{root}/images.npy"): "section_1.tflite",
    ("{folder}", "{root}/photo.png"): "must be one array in a .npy file",
    ("{folder}", "{root}/two.npz"): "must be one array",
    ("{folder}", "{root}/shape.npy"): "must hold images (n, 8, 8, 1)",
    ("{folder}", "{root}/dtype.npy"): "must hold images (n, 8, 8, 1) of raw pixels",
    ("{folder}", "{root}/range.npy"): "must hold raw pixels, 0…255. Received: -0.5 to -0.5",
    ("no litert", "{folder}", "{root}/images.npy"): "pip install ai-edge-litert",
}


@pytest.mark.process
def test_wrong_arguments_end_with_a_sentence(folder, broken):
    words = [[word.format(folder=folder, root=broken) for word in each] for each in SENTENCES]
    commands = [["--help"], *words]
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(APPS / "run_cascade.py"), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    usage, *answers = json.loads(done.stdout)
    assert usage[0] == 0 and "FOLDER images.npy" in usage[1]
    for words, (code, text) in zip(SENTENCES, answers):
        assert code == 1 and SENTENCES[words] in text, (words, text)
        assert len(words) < 2 or "\n" not in text, text


def test_logits_that_are_not_finite_are_no_answer(folder, pixels, monkeypatch):
    import run_cascade

    cascade = run_cascade.Cascade(folder)
    run = cascade.runners[0]

    def broken(**tensors):
        return {n: v * np.nan if n == "logits" else v for n, v in run(**tensors).items()}

    cascade.runners[0] = broken
    for rule in run_cascade.RULES:
        cascade.content["policy"]["rule"] = rule
        with pytest.raises(ValueError, match="section_1.tflite answers logits that are not finite"):
            cascade.classify(pixels[0])


def test_names_are_printed_without_control_characters():
    import run_cascade

    assert run_cascade.printable("ä\n\x1b[31m ü") == r"ä\n\x1b[31m ü"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"policy": Policy("margin", (0.5,))},
            "`policy` must be a Policy of 2 thresholds",
        ),
        ({"policy": 0.9}, "`policy` must be .* Received: policy=0.9"),
        ({"class_names": ["a"]}, "`class_names` must be None or 4 names"),
        ({"precision": "int8"}, "`representative` must be raw images"),
        ({"batch": 1.5}, "`batch` must be None or a positive integer"),
    ],
)
def test_arguments_that_do_not_fit(network, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        lite_cascade(network, tmp_path / "a", **arguments)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_and_nothing_overwritten(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full_disk)
        with pytest.raises(OSError, match="No space left"):
            lite_cascade(smallest_network(), tmp_path / "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError, match="`folder` must not exist yet. Received: folder="):
        lite_cascade(smallest_network(), tmp_path / "a")
