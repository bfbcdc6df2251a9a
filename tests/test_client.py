"""The command line client against a real server, and every way it can fail."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import serving_model
from conftest import answers_of
from serving_fixtures import MISSING

pytest.importorskip("tensorflow_serving", reason=MISSING)

APP = pathlib.Path(__file__).parents[1] / "apps/client.py"


@pytest.fixture(scope="module")
def files(served, tmp_path_factory):
    """Five image files, labels, and files that are neither."""
    folder = tmp_path_factory.mktemp("files")
    for number, text in enumerate(served.contract.encoded(5)):
        (folder / f"{number}.png").write_bytes(text)
    (folder / "labels.txt").write_text("\n".join(serving_model.CLASS_NAMES) + "\n")
    (folder / "two.txt").write_text("cat\ndog\n")
    (folder / "text.png").write_text("no image")
    return folder


def commands(served, files):
    """Command lines by what they try."""
    images = [files / f"{number}.png" for number in range(5)]
    grpc = ["--model=mini", f"--address=127.0.0.1:{served.ports['grpc']}"]
    rest = ["--model=mini", f"--address=127.0.0.1:{served.ports['rest']}", "--rest"]
    labels = f"--labels={files / 'labels.txt'}"
    early = "--signature=early_exit"
    first, last = (",".join([text] * (serving_model.EXITS - 1)) for text in ("0", "1.1"))
    return {
        "grpc": [*grpc, labels, *images],
        "rest": [*rest, labels, *images],
        "batches": [*grpc, "--batch_size=2", "--top=1", *images],
        "early grpc": [*grpc, early, *images],
        "early rest": [*rest, early, *images],
        "thresholds grpc": [*grpc, early, f"--thresholds={first}", *images],
        "thresholds rest": [*rest, early, f"--thresholds={last}", *images],
        "no model grpc": ["--model=other", grpc[1], images[0]],
        "no model rest": ["--model=other", *rest[1:], images[0]],
        "no version": [*grpc, "--version=99999", images[0]],
        "no signature": [*grpc, "--signature=exit_9", images[0]],
        "no signature rest": [*rest, "--signature=exit_9", images[0]],
        "no image": [*grpc, images[0], files / "text.png"],
        "no image rest": [*rest, images[0], files / "text.png"],
        "too many thresholds": [*rest, early, f"--thresholds={last},1", images[0]],
        "not numbers": [*rest, early, "--thresholds=a", images[0]],
        "thresholds elsewhere": [*rest, "--thresholds=1,1", images[0]],
        "negative": [*rest, early, "--thresholds=0.5,-1", images[0]],
        "no number": [*rest, early, "--thresholds=nan,1", images[0]],
        "scheme": [*rest, f"--address=http://127.0.0.1:{served.ports['rest']}", images[0]],
        "missing": [*rest, images[0], files / "9.png"],
        "no files": rest,
        "labels": [*rest, f"--labels={files / 'two.txt'}", images[0]],
        "no labels": [*rest, f"--labels={files / 'nowhere.txt'}", images[0]],
        "address": ["--model=mini", "--address=here", images[0]],
        "away grpc": ["--model=mini", "--address=127.0.0.1:9", images[0]],
        "away rest": ["--model=mini", "--rest", "--address=127.0.0.1:9", images[0]],
        "wrong port": ["--model=mini", "--rest", grpc[1], images[0]],
    }


FAILURES = {
    "no model grpc": r"the server refused \(NOT_FOUND\): Servable not found.*other",
    "no model rest": r"the server refused \(404\): Servable not found.*other",
    "no version": r"the server refused \(NOT_FOUND\): .*99999",
    "no signature": r"the server refused \(FAILED_PRECONDITION\): .*exit_9_bytes",
    "no signature rest": r"the server refused \(400\): .*exit_9_bytes",
    "no image": r"error: [^ ]*/text\.png: the server refused \(INVALID_ARGUMENT\): ",
    "no image rest": r"error: [^ ]*/text\.png: the server refused \(400\): ",
    "too many thresholds": r"the server refused \(400\): ",
    "not numbers": r"`thresholds` must be numbers. Received: \['a'\]",
    "thresholds elsewhere": r"`thresholds` need --signature=early_exit. Received",
    "negative": r"`thresholds` must be at least 0. Received: \['0.5', '-1'\]",
    "no number": r"`thresholds` must be at least 0. Received: \['nan', '1'\]",
    "scheme": r"`address` must be host:port, without http://. Received: 'http://127",
    "missing": r"no such file: .*9\.png",
    "no files": r"name image files behind the flags",
    "labels": r"`labels` must name 4 classes. Received: 2 lines",
    "no labels": r"nowhere.txt cannot be read: No such file",
    "address": r"`address` must be host:port. Received: 'here'",
    "away grpc": r"no answer from 127.0.0.1:9: ",
    "away rest": r"no answer from http://127.0.0.1:9: .*refused",
    "wrong port": r"no answer from http|does not answer as TF Serving",
}


@pytest.fixture(scope="module")
def answers(served, files):
    """Exit code and text of each command."""
    tried = commands(served, files)
    keyed = {tuple(map(str, command)): name for name, command in tried.items()}
    given = answers_of("client.py", list(keyed))
    return {name: given[command] for command, name in keyed.items()}


def test_the_likeliest_classes_of_each_image(served, answers):
    expected = served.contract.expected("serving_default", {"image": served.contract.images(5)})
    best = [serving_model.CLASS_NAMES[row.argmax()] for row in expected["probabilities"]]
    for way in ("grpc", "rest"):
        code, text = answers[way]
        lines = text.splitlines()
        assert code == 0 and len(lines) == 5, text
        for number, (line, name, row) in enumerate(zip(lines, best, expected["probabilities"])):
            assert re.search(rf"{number}\.png  {name} {100 * row.max():.1f} %, ", line), line
            assert line.count("%") == 4
    assert answers["grpc"] == answers["rest"]
    code, text = answers["batches"]
    classes = re.findall(r"png  (\d) [\d.]+ %\n", text)
    assert classes == [str(row.argmax()) for row in expected["probabilities"]]


def test_the_exit_that_answered(served, answers):
    expected = served.contract.expected("early_exit", {"image": served.contract.images(5)})
    for way in ("early grpc", "early rest"):
        code, text = answers[way]
        found = re.findall(r"\(exit (\d), confidence ([\d.]+)\)", text)
        assert code == 0 and [int(e) for e, _ in found] == expected["exit"].tolist(), text
        np.testing.assert_allclose([float(c) for _, c in found], expected["confidence"], atol=1e-3)
    assert answers["thresholds grpc"][1].count("(exit 1, ") == 5
    assert answers["thresholds rest"][1].count(f"(exit {serving_model.EXITS}, ") == 5


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line_and_exit_code_1(answers, name):
    code, text = answers[name]
    assert code == 1, text
    # gRPC's own log may write before it.
    assert text.splitlines()[-1].startswith("error: ") and "Traceback" not in text, text
    assert re.search(FAILURES[name], text.splitlines()[-1]), text


def test_rest_imports_neither_tensorflow_nor_keras(served, files):
    command = json.dumps([*commands(served, files)["rest"]], default=str)
    code = f"""
import runpy, sys
sys.argv = [{str(APP)!r}, *{command}]
sys.path.insert(0, {str(APP.parent)!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end
assert not set(sys.modules) & {{"tensorflow", "keras", "grpc", "sd_keras"}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.process
def test_grpc_without_the_extra_says_what_to_install(tmp_path, files):
    (tmp_path / "tensorflow_serving.py").write_text("raise ImportError('not here')")
    (tmp_path / "tensorflow.py").write_text("")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, APP, "--model=mini", files / "0.png"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: gRPC needs `pip install")
