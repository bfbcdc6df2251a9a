"""apps/analyze.py on trained networks: the files it writes, and what it refuses."""

import csv
import html.parser
import importlib.util
import json
import re

import keras
import numpy as np
import pytest
from conftest import answers_of, tiny_network

from sd_keras import analysis, corruptions, data

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots"
)
WORDS = ("noise", "gradients", "components", "separability", "agreement", "calibration")
WORDS += ("consistency", "corruptions", "ablation")
FEW = ("--images=40", "--draws=2", "--severities=1,5", "--deviations=0,0.2", "--bins=5")


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A folder with a run and a plain network, and what the app said of each command."""
    folder = tmp_path_factory.mktemp("analyzed")
    keras.utils.set_random_seed(0)
    (folder / "run").mkdir()
    tiny_network(10).save(folder / "run/network.keras")
    settings = {"flags": {"dataset": "digits", "seed": 1, "method": "deep_supervision"}}
    (folder / "run/results.json").write_text(json.dumps(settings))
    tiny_network(10, at=[]).save(folder / "plain.keras")
    tiny_network(4).save(folder / "four.keras")
    run, plain = f"--network={folder / 'run'}", f"--beside={folder / 'plain.keras'}"
    (folder / "file").write_text("")
    commands = {
        "all": ("all", run, plain, *FEW),
        "two": ("ablation", "agreement", run, *FEW, f"--output={folder / 'two'}"),
        "costs": ("costs", run),
        "word": ("noises", run),
        "with costs": ("costs", "noise", run),
        "output": ("noise", run, f"--output={folder / 'file'}"),
        "classes": ("noise", run, f"--beside={folder / 'four.keras'}"),
        "numbers": ("noise", run, "--deviations=0,x"),
        "none": ("noise", f"--network={folder / 'none'}"),
        "severity": ("corruptions", run, "--severities=7"),
    }
    answers = answers_of("analyze.py", commands.values())
    return folder, {name: answers[command] for name, command in commands.items()}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_analysis_has_its_files(answered):
    folder, answers = answered
    code, printed = answers["all"]
    assert code == 0, printed
    written = folder / "run/analysis"
    endings = {f"{word}.{ending}" for word in WORDS for ending in ("csv", "png")}
    assert {path.name for path in written.iterdir()} == endings | {"index.html"}
    for word in WORDS:
        assert (written / f"{word}.png").read_bytes()[:4] == b"\x89PNG"
        assert {row["network"] for row in rows(written / f"{word}.csv")} == {"run", "plain"}
    assert len(rows(written / "corruptions.csv")) == (3 + 2) * (1 + 15 * 2)
    methods = {(row["network"], row["method"]) for row in rows(written / "gradients.csv")}
    assert methods == {("run", "deep_supervision"), ("run", "baseline"), ("plain", "baseline")}


def test_the_page_holds_everything_and_loads_nothing(answered):
    page = (answered[0] / "run/analysis/index.html").read_text()

    class Tags(html.parser.HTMLParser):
        found = []

        def handle_starttag(self, tag, attributes):
            self.found.append((tag, dict(attributes)))

    tags = Tags()
    tags.feed(page)
    images = [attributes["src"] for tag, attributes in tags.found if tag == "img"]
    assert len(images) == 9 and all(s.startswith("data:image/png;base64,") for s in images)
    assert [a["id"] for tag, a in tags.found if tag == "h2"] == list(WORDS)
    assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe"}
    assert (
        "http" not in re.sub(r'src="data:[^"]*"', "", page) and "prefers-color-scheme: dark" in page
    )
    assert "not comparable with CIFAR-100-C" in page


def test_the_figures_are_those_of_the_library(answered):
    folder, answers = answered
    assert answers["two"][0] == 0, answers["two"]
    assert {path.suffix for path in (folder / "two").iterdir()} == {".csv", ".png", ".html"}
    splits = data.load("digits", validation=0.1, seed=1)
    chosen = np.sort(np.random.default_rng(1).permutation(len(splits.test[0]))[:40])
    images, labels = (part[chosen] for part in splits.test)
    network = keras.models.load_model(folder / "run/network.keras")
    found = analysis.unit_ablation(network, images, labels, [0.5], 2, 1)
    got = {
        (row["exit"], row["replaced by"], row["share"]): float(row["accuracy"])
        for row in rows(folder / "two/ablation.csv")
    }
    for name, own in found.items():
        assert got[name, "zero", "0.5"] == pytest.approx(own.mean())
    same = analysis.agreement(network.predict(images, verbose=0), labels)["same"]
    (first, *_) = rows(folder / "two/agreement.csv")
    assert (first["first"], first["second"]) == ("exit_1", "exit_2")
    assert float(first["same"]) == pytest.approx(same[0, 1])


REFUSED = {
    "word": "give one word of costs, noise, gradients",
    "with costs": "or several but costs",
    "output": "`output` must be a folder",
    "classes": "`beside` must take the images and know the classes",
    "numbers": "`deviations` must be numbers",
    "none": "`network` does not exist",
    "severity": "`severities` must be 1…5. Received: severities='7'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(answered, name):
    code, printed = answered[1][name]
    assert code == 1 and REFUSED[name] in printed and "Traceback" not in printed


def test_costs_of_a_run_are_printed(answered):
    code, printed = answered[1]["costs"]
    assert code == 0 and "ensemble" in printed


def test_all_kinds_of_corruptions_are_shown(answered):
    found = rows(answered[0] / "run/analysis/corruptions.csv")
    assert {row["corruption"] for row in found} == {*corruptions.KINDS, "clean"}
