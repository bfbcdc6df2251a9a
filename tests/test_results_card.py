"""The results card: its numbers, its plots, and a page that needs nothing else."""

import base64
import html.parser
import importlib.util
import json
import re
import sys
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
from conftest import answers_of, smallest_network, tiny_network, with_mixed_answers

from sd_keras import analysis, inference, results_card
from sd_keras.export import model_card
from sd_keras.results_card import latencies, page, plots
from sd_keras.results_card.figures import reliability
from sd_keras.results_card.page import exits_table, points_table, times_table

needs_plots = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots"
)


@pytest.fixture(scope="module")
def data():
    """A tiny network, validation and test images, and a plain network."""
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (96, 8, 8, 1)).astype("uint8")
    keras.utils.set_random_seed(0)
    network = with_mixed_answers(tiny_network(), images)
    labels = network.predict(images, verbose=0)["exit_2"].argmax(1)
    labels[::4] = np.arange(24) % 4
    return network, (images[:48], labels[:48]), (images[48:], labels[48:]), smallest_network()


@pytest.fixture(scope="module")
def card(data):
    """The figures of that network, with times that were made up."""
    network, validation, test, plain = data
    policy = inference.Policy("max_probability", [0.5])
    card = results_card.figures(network, validation, test, plain, policy=policy)
    names = ("exit_1", "exit_2", "ensemble", "baseline")
    times = {name: {"1": 1.0 + i, "32": 10.5 + i} for i, name in enumerate(names)}
    latency = {"source": "made up", "milliseconds": times, "path": [1.0, 3.0]}
    return card | {"latency": latency, "title": "<tiny>", "about": {"data": "noise & no more"}}


@pytest.mark.filterwarnings("ignore:the temperature is at its bound 20")
def test_figures_are_those_of_the_test_images(data, card):
    network, validation, test, plain = data
    assert card["measured"] == analysis.evaluate_exits(network, *test)
    assert card["costs"] == analysis.costs(network)
    assert card["baseline"]["measured"] == analysis.evaluate_exits(plain, *test)["exit_1"]
    held, logits = (network.predict(images, verbose=0) for images in (validation[0], test[0]))
    temperatures = inference.fit_temperatures(held, validation[1])
    assert tuple(card["temperatures"].values()) == temperatures
    scaled = np.exp(logits["exit_2"].astype("float64") / temperatures[1])
    scaled /= scaled.sum(1, keepdims=True)
    gap = analysis.calibration_error(scaled, test[1])
    assert card["calibrated"]["exit_2"]["calibration_error"] == pytest.approx(gap, abs=1e-6)
    accuracy = [card[key]["exit_1"]["accuracy"] for key in ("measured", "calibrated")]
    assert accuracy[0] == accuracy[1]
    assert json.loads(json.dumps(card, allow_nan=False)) == json.loads(json.dumps(card))


def test_operating_points_and_curve_are_measured_on_the_test_images(data, card):
    network, validation, test, _ = data
    costs = inference.path_costs(network)
    logits = network.predict(test[0], verbose=0)
    points = card["early_exit"]["points"]
    assert [point["max_drop"] for point in points] == [None, *results_card.MAX_DROPS * 2]
    assert [point["confidence_level"] for point in points[1::4]] == [0.95, None]
    for point in points:
        policy = inference.Policy.from_dict(point["policy"])
        outcome = inference.measure(logits, test[1], costs, policy)
        assert (point["accuracy"], point["cost"]) == (outcome.accuracy, outcome.cost)
        assert tuple(point["shares"]) == outcome.shares
    held = network.predict(validation[0], verbose=0)
    swept = inference.curve(held, validation[1], costs)
    curve = card["early_exit"]["curve"]
    first = inference.measure(logits, test[1], costs, swept.policy(0))
    assert (curve["accuracy"][0], curve["cost"][0]) == (first.accuracy, first.cost)
    assert len(curve["cost"]) == min(60, len(swept.cost)) == len(curve["shares"])


def test_reliability_of_bins_counted_by_hand():
    logits = {"exit_1": np.log([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.55, 0.45]])}
    found = reliability(logits, np.array([0, 1, 1, 0]), bins=4)["exit_1"]
    assert found["share"] == [0, 0, 0.25, 0.75]
    assert found["accuracy"] == [None, None, 1.0, pytest.approx(2 / 3)]
    assert found["confidence"][2:] == pytest.approx([0.55, 2.5 / 3])


def test_tables_hold_the_figures(card):
    header, rows = exits_table(card)
    assert [row[0] for row in rows] == ["exit_1", "exit_2 (deepest)", "ensemble", "plain baseline"]
    by_name = dict(zip(("exit_1", "exit_2", "ensemble"), rows))
    for name, row in by_name.items():
        own, cells = card["measured"][name], dict(zip(header, row))
        assert cells["accuracy (%)"] == f"{100 * own['accuracy']:.2f}"
        assert cells["cross entropy"] == f"{own['cross_entropy']:.4f}"
        assert cells["MACs (M)"] == f"{card['costs'][name]['macs'] / 1e6:.2f}"
    assert rows[3][5:7] == [None, None]
    header, times = times_table(card)
    assert header == ["exit", "ms, batch 1", "ms, batch 32"]
    assert times[0] == ["exit_1", "1.00", "10.50"] and len(times) == 4
    header, rows = points_table(card)
    assert [row[0] for row in rows] == ["policy", *["0", "0.5", "1", "2"] * 2]
    shares = card["early_exit"]["points"][0]["shares"]
    expected = f"{shares[0] + 3 * shares[1]:.2f}"
    assert rows[0][header.index("ms, batch 1")] == expected
    lines = results_card.as_markdown(card).splitlines()
    assert lines[0] == "# &lt;tiny&gt;" and "- data: noise &amp; no more" in lines
    assert sum(line.startswith("| exit_") for line in lines) == 4
    assert sum("| – |" in line for line in lines) == 3  # of ensemble, baseline and policy


class Page(html.parser.HTMLParser):
    """Collects what a page holds, and checks that every element is closed."""

    EMPTY = ("meta", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cells, self.links, self.images = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if tag == "img" and name == "src":
                kind, _, data = value.partition(";base64,")
                assert kind == "data:image/svg+xml"
                self.images.append(base64.b64decode(data))
            elif name in ("src", "href"):
                self.links.append(value)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "h1", "dd"):
            self.cells.append(text)


@needs_plots
def test_the_page_is_whole_and_loads_nothing(card):
    text = results_card.as_html(card)
    page = Page(text)
    assert not page.open and not page.links
    without_images = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.search(r"https?:|url\(|@import|<script|src=", without_images)
    for image in page.images:  # accuracy, exit shares, reliability
        assert xml.etree.ElementTree.fromstring(image).tag.endswith("svg")
    assert len(page.images) == 3
    assert page.cells[:2] == ["<tiny>", "noise & no more"]
    tables = [table(card)[1] for table in (exits_table, times_table, points_table)]
    cells = [cell or "–" for rows in tables for row in rows for cell in row]
    assert page.cells[-len(cells) :] == cells
    assert not re.search(r"\b(nan|inf)\b", without_images)


def test_a_card_without_matplotlib_has_its_tables_and_says_what_is_missing(card, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not results_card.has_plots()
    text = results_card.as_html(card)
    page = Page(text)
    assert not page.images and page.tags.count("table") == 3
    assert "pip install '.[plots]'" in html.unescape(text)
    with pytest.raises(ImportError, match=r"pip install '\.\[plots\]'"):
        plots.axes()


@needs_plots
def test_plots_hold_the_figures(card):
    by_macs, by_time = plots.accuracy_by_cost(page._accuracy_panels(card)).axes
    for axis, costs in ((by_macs, "costs"), (by_time, "latency")):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
        assert list(lines)[1:] == ["exit_1", "exit_2", "ensemble", "plain baseline"]
        x = card["costs"]["exit_1"]["macs"] / 1e6 if costs == "costs" else 1.0
        accuracy = 100 * card["measured"]["exit_1"]["accuracy"]
        assert lines["exit_1"] == [pytest.approx([x, accuracy])]
        assert len(lines["early exit"]) == len(card["early_exit"]["curve"]["cost"])
    assert by_macs.get_xlabel() == "multiply-accumulates (M)"
    assert by_time.get_xlabel() == "milliseconds, batch 1"
    shares = {"a": [0.25, 0.75], "b": [1.0, 0.0]}
    (axis,) = plots.exit_shares(shares).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
    assert bars == [(0, 25), (0, 100), (25, 75), (100, 0)]
    assert plots.svg(axis.figure) == plots.svg(plots.exit_shares(shares))
    bins = {"share": [0.2, 0, 0.8], "confidence": [0.3, None, 0.9], "accuracy": [0.1, None, 1.0]}
    (axis,) = plots.reliability_diagrams({"exit_1": bins}, {"exit_1": bins}).axes
    assert [bar.get_height() for bar in axis.patches] == [0.1, 0, 1]
    calibrated = axis.collections[0].get_offsets().filled(np.nan)
    assert np.nan_to_num(calibrated).tolist() == [[0.3, 0.1], [0, 0], [0.9, 1.0]]


def test_names_do_not_bring_html_or_control_characters_into_cards(card, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # tables are enough
    names = ["<script>alert(1)</script>", "cat\x1b[31m", "a|b\u202e", "été\u3000犬"]
    hostile = card | {"title": names[0], "about": {"<b>": ", ".join(names)}}
    exported = {
        "name": names[0],
        "image": {"shape": [8, 8, 1], "pixels": "raw", "encoded": "<i>", "max_pixels": 9},
        **{"classes": 4, "exits": ["exit_1"], "costs": None, "versions": {"keras": "3"}},
        "measured": {"<b>": analysis.evaluate_logits({"exit_1": np.eye(4)}, np.arange(4))},
        **{"early_exit": None, "temperatures": [1.0], "ensemble_weights": None},
        "about": {"classes": names, "<b>": 1},
    }
    markdown = [results_card.as_markdown(hostile), model_card.as_markdown(exported)]
    for text in markdown:
        assert not re.search(r"<[a-z/]", text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
        assert r"cat\x1b[31m" in text and r"a\|b\u202e" in text and "été\u3000犬" in text
        assert "# &lt;script&gt;alert(1)&lt;/script&gt;" in text
    text = results_card.as_html(hostile)
    assert "<script" not in text and "\x1b" not in text and r"cat\x1b[31m" in text


@pytest.mark.filterwarnings("ignore:the temperature is at its bound")
def test_one_exit_and_no_times(data):
    _, validation, test, plain = data
    card = results_card.figures(plain, validation, test)
    assert card["early_exit"] is None and card["baseline"] is None
    assert [row[0] for row in exits_table(card)[1]] == ["exit_1"]
    page = Page(results_card.as_html(card))
    assert len(page.images) == (2 if results_card.has_plots() else 0)
    assert "Early exit" not in results_card.as_markdown(card)
    with pytest.raises(ValueError, match="`validation` must hold images. Received: validation w"):
        results_card.figures(plain, None, test)


def test_latencies_take_turns_and_medians():
    now, called = [0.0], []

    def function(name, seconds):
        def run(batch):
            called.append(name)
            now[0] += seconds.pop(0)

        return run

    functions = {"a": function("a", [9, 1, 5, 3]), "b": function("b", [9, 2, 2, 2])}
    found = latencies.in_turn(functions, None, rounds=3, clock=lambda: now[0])
    assert found == {"a": 3000, "b": 2000} and called == list("abababab")


def test_latencies_of_keras_name_all_exits(data):
    network, _, (images, _), plain = data
    found = latencies.keras_latencies(network, images, plain, (1, 3), rounds=1)
    assert list(found["milliseconds"]) == ["exit_1", "exit_2", "ensemble", "baseline"]
    assert all(set(times) == {"1", "3"} for times in found["milliseconds"].values())
    assert len(found["path"]) == 2 and min(found["path"]) > 0


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """What apps/card.py answers, with a tiny network, to good and to wrong flags."""
    folder = tmp_path_factory.mktemp("card")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("test", 30)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 8, 8, 1)).astype("uint8")
        arrays[f"y_{split}"] = np.arange(count) % 4
    np.savez(folder / "data.npz", **arrays)
    tiny_network().save(folder / "network.keras")
    flags = {"dataset": f"npz:{folder / 'data.npz'}", "method": "two_branch", "validation": 0.3}
    (folder / "results.json").write_text(json.dumps({"flags": flags, "seconds": 75.0}))
    base = (f"--network={folder}", "--rounds=1")
    commands = {
        "good": base,
        "no baseline": (*base, "--baseline=nowhere.keras"),
        "no artifact": (*base, f"--artifact={folder}"),
        "no policy": (*base, f"--policy={folder / 'results.json'}"),
        "no folder": (*base, f"--output={folder / 'data.npz'}"),
        "no validation": (*base, "--validation=0", f"--output={folder / 'refused'}"),
    }
    answers = answers_of("card.py", list(commands.values()))
    return folder, dict(zip(commands, answers.values()))


def test_the_app_writes_the_card_of_a_run(answered):
    folder, answers = answered
    assert answers["good"][0] == 0, answers["good"][1]
    names = ["card.html", "card.json", "card.md"]
    assert sorted(path.name for path in (folder / "card").iterdir()) == names
    card = json.loads((folder / "card/card.json").read_text())
    assert card["images"] == {"validation": 24, "test": 30}
    assert card["about"]["method"] == "two_branch" and card["about"]["trained in"] == "1 min 15 s"
    text = (folder / "card/card.md").read_text()
    assert text in answers["good"][1] and "- latency of: Keras submodels" in text
    assert "card.py" in card["about"]["command"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no baseline", "`network` does not exist"),
        ("no artifact", "`artifact` must be the folder of a SavedModel or a .tflite file"),
        ("no policy", "`policy` must be a file that apps/evaluate.py --policy wrote"),
        ("no folder", "`output` must be a folder"),
        ("no validation", "`validation` must be 0.3, as in the run"),
    ],
)
def test_wrong_flags_of_the_card_end_with_a_sentence(answered, name, message):
    folder, answers = answered
    code, text = answers[name]
    assert code == 1 and message in text and "Traceback" not in text
    assert not (folder / "refused").exists()
