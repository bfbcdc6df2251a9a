"""What evaluate.py, export.py and card.py check of splits and promises, and say of the latter."""

import json
import shutil

import numpy as np
import pytest
from conftest import answers_of, bright_and_dark, tiny_network, with_mixed_answers

from sd_keras.inference.thresholds import explain_no_early_exit

SHY = "no image leaves early at a drop of "
EARLY = "--early_exit=margin"
# Flags behind those of a run by app; `{0}` is its folder. What is said, and the exit code.
SAID = {
    ("evaluate.py", "--seed=4"): (0, "calibration error"),
    ("evaluate.py", EARLY, "--seed=3"): (0, SHY + "1 %: 12 validation images do not prove it"),
    ("evaluate.py", EARLY, "--confidence_level=0", "--max_drop=0.9"): (0, "thresholds: "),
    ("evaluate.py", "--split=train", "--seed=4"): (1, "`seed` must be 3, as in the run"),
    ("evaluate.py", EARLY, "--seed=4"): (1, "on. Received: seed=4"),
    ("evaluate.py", EARLY, "--validation=0.5"): (1, "`validation` must be 0.25, as in the run"),
    ("evaluate.py", EARLY, "--confidence_level=0.5"): (1, "and below 1, or 0 for no promise"),
    ("evaluate.py", EARLY, "--max_drop=1.5"): (1, "`max_drop` must be a share of 1, above -1"),
    ("evaluate.py", EARLY, "--policy={0}/none/a.json"): (1, "`policy` must be a file in a folder"),
    ("evaluate.py", "--output={0}"): (1, "`output` must be a file in a folder"),
    ("export.py", EARLY, "--seed=4", "--output={0}/a"): (1, "`seed` must be 3, as in the run"),
    ("export.py", EARLY, "--confidence_level=2"): (1, "or 0 for no promise"),
    ("export.py", EARLY, "--output={0}/b"): (0, SHY + "1 %: 12 validation images"),
    **{
        ("evaluate.py", f"--network={{0}}/{name}"): (1, f"{name}/results.json must ")
        for name in ("deep", "list", "null", "text", "share", "other")
    },
    ("evaluate.py", "--network={0}/damaged"): (1, "must be a whole .keras file"),
    ("export.py", "--network={0}/shares", "--output={0}/c"): (
        1,
        "must hold figures by exit",
    ),
    ("export.py", "--policy={0}/null/results.json", "--output={0}/c"): (1, "`policy` must be a"),
    ("card.py", "--policy={0}/list/results.json"): (1, "must hold a JSON object. Received: list"),
    ("card.py", "--network={0}/shares"): (1, "must hold figures by exit"),
    ("card.py", "--seed=4"): (1, "`seed` must be 3, as in the run"),
    ("card.py", "--confidence_level=0.5"): (1, "or 0 for no promise"),
    ("card.py", "--rounds=0"): (0, SHY),
}


# results.json of runs that cannot be read, by the name of their folder.
DAMAGED = {
    "deep": "[" * 100_000,
    "list": "[]",
    "null": '{"flags": null}',
    "text": '{"flags": {"seed": "3"}}',
    "share": '{"flags": {"fraction": NaN}}',
    "other": '{"flags": {"dataset": [1]}}',
    "shares": '{"measured": {"test": 0.5}}',
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the apps answer on a run of seed 3."""
    folder = tmp_path_factory.mktemp("run")
    images = bright_and_dark(48)
    network = with_mixed_answers(tiny_network(), images)
    network.save(folder / "network.keras")
    labels = network.predict(images, verbose=0)["exit_2"].argmax(1)
    labels[::4] = np.arange(12) % 4
    pairs = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "data.npz", **pairs)
    own = {"dataset": f"npz:{folder / 'data.npz'}", "validation": 0.25, "seed": 3}
    (folder / "results.json").write_text(json.dumps({"flags": own}))
    for name, text in DAMAGED.items():
        (folder / name).mkdir()
        shutil.copy(folder / "network.keras", folder / name)
        (folder / name / "results.json").write_text(text)
    (folder / "damaged").mkdir()
    content = (folder / "network.keras").read_bytes()
    (folder / "damaged/network.keras").write_bytes(content.replace(b"PK\1\2", b"PK\1\3", 1))
    found = {}
    for app in ("evaluate.py", "export.py", "card.py"):
        of_app = [flags for flags in SAID if flags[0] == app]
        commands = [
            (f"--network={folder}", *(f.format(folder) for f in each[1:])) for each in of_app
        ]
        found |= dict(zip(of_app, answers_of(app, commands).values()))
    return folder, found


@pytest.mark.parametrize("flags", SAID, ids=" ".join)
def test_what_the_apps_say(answers, flags):
    (code, sentence), (found, text) = SAID[flags], answers[1][flags]
    assert found == code and sentence in text and "Traceback" not in text, text
    if code:  # before any forward pass
        assert "exit_1" not in text and text.count("\n") == 1, text


def test_no_promise_is_no_excuse(answers):
    assert SHY not in answers[1]["evaluate.py", EARLY, "--confidence_level=0", "--max_drop=0.9"][1]


def test_the_card_tells_the_seed(answers):
    card = json.loads((answers[0] / "card/card.json").read_text())
    assert card["about"]["validation split"] == "share 0.25, seed 3"


def test_a_line_only_where_promises_keep_all_inside():
    assert explain_no_early_exit([(0, 1), (0.5, 0.5)], (0.01, 0.02), 0.95, 9).startswith(
        SHY + "1 %: 9 "
    )
    assert explain_no_early_exit([(0.5, 0.5)], (0.01,), 0.95, 9) is None
    assert explain_no_early_exit([(0, 1)], (0.01,), 0, 9) is None
    assert explain_no_early_exit([(0, 1)], (None,), 0.95, 9) is None
