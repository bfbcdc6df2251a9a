"""apps/analyze.py: what it prints and what it refuses."""

import json
import pathlib
import subprocess
import sys

import keras
import pytest
from conftest import answers_of, tiny_network

from sd_keras import analysis, attach_exits, models, report

ROOT = pathlib.Path(__file__).parents[1]


def analyze(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "apps/analyze.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.process
def test_costs_of_a_named_network(tmp_path):
    output = tmp_path / "costs.json"
    done = analyze("costs", "--network=resnet8", "--num_classes=10", f"--output={output}")
    assert done.returncode == 0, done.stderr[-3000:]
    expected = analysis.costs(attach_exits(models.build("resnet8"), 10))
    assert json.loads(output.read_text()) == expected
    assert report.costs_table(expected) in done.stdout


def test_costs_of_files_with_and_without_exits(tmp_path):
    tiny_network().save(tmp_path / "network.keras")
    image = keras.Input((None, None, 3))
    plain = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    plain.save(tmp_path / "plain.keras")
    arguments = ("costs", f"--network={tmp_path / 'plain.keras'}")
    commands = [
        ("costs", f"--network={tmp_path / 'network.keras'}"),
        (*arguments, "--input_shape=10,12,3"),
        arguments,
    ]
    of_network, of_plain, refused = answers_of("analyze.py", commands).values()
    assert report.costs_table(analysis.costs(tiny_network())) in of_network[1], of_network
    rows = [line.split() for line in of_plain[1].splitlines()]
    assert ["network", "112", "0", "0.01", "0.02", "0.00", "0.00", "1.00"] in rows
    assert refused[0] == 1 and "error: `input_shape` must be given" in refused[1]


def test_table_of_costs():
    cost = {
        "macs": 2_000_000,
        "flops": 4_000_000,
        "parameters": 1234,
        "non_trainable": 10,
        "activations": 500_000,
        "peak_activation_bytes": 3_000_000,
    }
    costs = {"exit_1": cost | {"macs": 1_000_000}, "exit_2": cost, "ensemble": cost}
    lines = report.costs_table(costs).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["exit_1", "exit_2", "ensemble"]
    assert lines[2].split()[1:] == ["1,234", "10", "1.00", "4.00", "0.50", "3.00", "2.00"]
    alone = report.costs_table({"exit_1": cost, "ensemble": cost}).splitlines()
    assert [line.split()[0] for line in alone[2:]] == ["exit_1"]


WRONG_ARGUMENTS = {
    ("--network=resnet8",): "give one word of costs",
    ("cost", "--network=resnet8"): "give one word of costs",
    ("costs",): "--network",
    ("costs", "--network=resnt8"): "`network` must be a .keras file or one of alexnet",
    ("costs", "--network=resnet8", "--input_shape=32,x,3"): "`input_shape` must be integers",
    ("costs", "--network=resnet8", "--input_shape=2,2,3"): "`input_shape` must be at least 4",
    ("costs", "--network=alexnet", "--stem=cifar"): "`stem` must be 'imagenet'",
    ("costs", "--network=resnet8", "--at=stage_7"): "'stage_7' is none",
    ("costs", "--network=none.keras"): "`network` does not exist",
    ("costs", "--network=resnet8", "--output=none/a.json"): "`output` must be in a folder that",
    ("costs", f"--network={ROOT}"): "`network` is no file",
    ("costs", f"--network={__file__}", "--at=2"): "`at` must not be given for a file",
    ("costs", f"--network={__file__}"): "`network` must be a whole .keras file",
}


@pytest.fixture(scope="module")
def refusals():
    """What the app answers to each of WRONG_ARGUMENTS."""
    return answers_of("analyze.py", WRONG_ARGUMENTS)


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS)
def test_what_is_wrong_is_named(refusals, arguments):
    code, printed = refusals[arguments]
    assert code == 1
    assert WRONG_ARGUMENTS[arguments] in printed and "Traceback" not in printed
