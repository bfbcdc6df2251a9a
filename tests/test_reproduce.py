"""apps/reproduce.py: its tables, names, statistics and page; and one table end to end."""
# ruff: noqa: E402  (apps are found once their folder is on the path)

import json
import math
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import answers_of
from scipy import stats

APPS = pathlib.Path(__file__).parents[1] / "apps"
sys.path.append(str(APPS))

import reproduction.figures
import reproduction.page
import reproduction.runs
import reproduction.steps
import reproduction.tables
import run_settings
from reproduction.runs import Run, Scale

import sd_keras

TABLES = reproduction.tables.tables()
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]


def cell_of(table, row, label):
    _, (found,) = reproduction.tables.choose(table, row)
    return next(cell for cell in found.cells if cell.label == label)


@pytest.mark.parametrize(
    "table, row, label, paper",
    [
        ("byot/1", "ResNet18", "baseline", 77.09),
        ("byot/1", "ResNet18 T=1", "ensemble", 79.67),
        ("byot/1", "PyramidNet101-240", "4/4", 82.30),
        ("byot/2", "ResNet50", "3/4", 72.84),
        ("byot/3", "WRN44-8 to WRN28-12", "AT", 81.46),
        ("byot/4", "ResNet101", "DSN 2/4", 75.43),
        ("byot/5", "ResNet152", "1/4", 13.36),
        ("byot/6", "WRN28-12", "SSE/SSB 4/4", 5.73),
        ("byot/figure1", "ResNet50", "self distillation, hours", 5.87),
        ("ddgsd/1", "ResNet-32", "student to student, WRN-28-10", 29.27),
        ("ddgsd/2", "DenseNet-100", "self-distillation", 4.34),
        ("ddgsd/3", "pre-act ResNet-34", "baseline", 22.68),
        ("ddgsd/4", "AlexNet", "self-distillation, top-5", 19.05),
        ("ddgsd/5", "ResNet-32", "μ = 1e-3", 28.81),
        ("ddgsd/6", "WRN-16-8", "+ KL", 19.48),
        ("evidence", "ResNet-32", "two-branch", 31.32),
        ("evidence", "ResNet50", "BYOT ensemble", 81.04),
    ],
)
def test_the_papers_figures(table, row, label, paper):
    assert cell_of(table, row, label).paper == paper


@pytest.mark.parametrize("name, row", ROWS, ids=lambda part: getattr(part, "name", part))
def test_every_row_can_be_built(name, row):
    labels = [cell.label for cell in row.cells]
    assert len(set(labels)) == len(labels)
    for cell in row.cells:
        assert set(cell.against) <= set(labels)
        assert cell.run.model in sd_keras.models.MODELS
        assert cell.run.recipe in reproduction.runs.RECIPES
        assert set(cell.run.method.split("+")) <= sd_keras.methods.METHODS.keys()
        needed = [
            flag
            for flag, names in run_settings.LEARNING_FROM.items()
            for n in names
            if n == cell.run.method
        ]
        assert bool(cell.run.teacher) == (needed == ["teacher"])
        assert bool(cell.run.peer) == (needed == ["peer"])


def test_the_methods_with_companions_are_those_whose_flags_say_so():
    steps = {"progressive": {"steps": 1}}
    for name in sd_keras.methods.METHODS:
        method = sd_keras.methods.get(name, **{k: v for k, v in steps.items() if k == name})
        said = {flag for flag, names in run_settings.LEARNING_FROM.items() if name in names}
        assert method.companions - {"past"} == said


def test_tables_share_runs_and_teachers():
    plain = cell_of("byot/1", "resnet18", "baseline").run
    assert plain == cell_of("byot/3", "ResNet152 to ResNet18", "baseline").run
    assert plain == cell_of("byot/ablation", None, "plain").run
    assert cell_of("ddgsd/5", None, "μ = 0").run == cell_of("ddgsd/6", "ResNet-32", "+ KL").run
    _, rows = reproduction.tables.choose("byot/3", "ResNet152 to ResNet18")
    runs = reproduction.steps.runs_of(rows, Scale(), range(3))
    teachers = [pair for pair in runs if pair[0].model == "resnet152"]
    assert len(teachers) == 1 and runs.index(teachers[0]) < 3
    assert len(runs) == 1 + 3 * 6
    folders = {reproduction.runs.folder_of(run, Scale(), seed) for run, seed in runs}
    assert len(folders) == len(runs)


def test_names_and_commands_say_what_a_run_is(tmp_path):
    teacher = Run("cifar100", "resnet152")
    run = Run("cifar100", "resnet18", "knowledge_distillation", teacher=teacher)
    folder = reproduction.runs.folder_of(run, Scale(), 2)
    assert str(folder) == "cifar100/resnet18/byot/knowledge_distillation-from-resnet152-seed2"
    scale = Scale(epochs=5, fraction=0.1, precision="mixed_bfloat16")
    folder = reproduction.runs.folder_of(run, scale, 0)
    assert folder.parts[0] == "cifar100-fraction0.1"
    assert folder.parts[2] == "byot-epochs5-mixed_bfloat16"
    command = reproduction.runs.command_of(run, scale, 0, tmp_path)
    for word in ("--epochs=5", "--validation=0", "--drops=0.375,0.65,0.9", "--weight_decay=0.0005"):
        assert word in command
    taught_by = reproduction.runs.folder_of(teacher, scale, 0)
    assert f"--teacher={tmp_path / taught_by}" in command
    last = Run("cifar100", "resnet18", options=(("deepest_last", 0.1),))
    assert "--deepest_last=20" in reproduction.runs.command_of(last, Scale(), 0, tmp_path)
    assert "--deepest_last=1" in reproduction.runs.command_of(last, scale, 0, tmp_path)
    imagenet = Run("imagenet2012", "resnet18", recipe="imagenet")
    command = reproduction.runs.command_of(imagenet, Scale(fraction=0.25), 0, tmp_path)
    assert command[1].endswith("train_imagenet.py") and "--train_split=train[:25%]" in command


def test_scaled_down_runs_are_told():
    assert not Scale(precision="mixed_bfloat16", data_dir="d").is_down
    assert Scale(fraction=0.5).told() == "fraction 0.5" and Scale(fraction=0.5).is_down
    peers = Run("cifar100", "resnet32", peer="resnet32"), Run("cifar100", "resnet32", peer="vgg")
    scale = Scale(model="resnet8", peer_model="resnet20")
    assert [scale.apply(run).peer for run in peers] == ["resnet8", "resnet20"]


def test_costs_are_counted():
    plain = Run("cifar100", "resnet18")
    forward = 2 * 555.5e6
    expected = 3 * forward * 50_000 * 200 / 1e15
    assert reproduction.runs.petaflop(plain, Scale()) == pytest.approx(expected, rel=1e-3)
    two = Run("cifar100", "resnet18", "two_branch")
    assert reproduction.runs.petaflop(two, Scale()) == pytest.approx(2 * expected, rel=1e-3)
    own = Run("cifar100", "resnet18", "be_your_own_teacher")
    with_heads = expected * (555.47 + 40.0) / 555.47
    assert reproduction.runs.petaflop(own, Scale()) == pytest.approx(with_heads, rel=1e-3)
    taught = Run("cifar100", "resnet18", "knowledge_distillation", teacher=plain)
    cost = reproduction.runs.petaflop(taught, Scale(epochs=100, fraction=0.5))
    assert cost == pytest.approx(expected / 4 * 4 / 3, rel=1e-3)
    assert reproduction.runs.acceleration(own, 1) == pytest.approx(3.10, abs=0.005)
    assert reproduction.runs.acceleration(own, "ensemble") == pytest.approx(0.933, abs=0.001)


def test_statistics_agree_with_scipy():
    values, others = {0: 71.2, 1: 70.4, 2: 72.9, 5: 1.0}, {0: 70.1, 1: 70.0, 2: 71.5}
    found = reproduction.figures.compare(values, others)
    a, b = ([each[seed] for seed in range(3)] for each in (values, others))
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (found.n, found.p) == (3, pytest.approx(expected.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    # By hand: differences 1.1, 0.4, 1.4 have mean 29/30 and deviation 0.51316.
    assert found.difference == pytest.approx(29 / 30)
    assert found.high - found.difference == pytest.approx(
        4.30265 * 0.51316 / math.sqrt(3), rel=1e-4
    )
    assert reproduction.figures._spread([1.0, 3.0]) == f"2.00 ± {math.sqrt(2):.2f} (n=2)"


def test_what_cannot_be_tested_is_not():
    single = reproduction.figures.compare({0: 2.0}, {0: 1.0})
    assert single.difference == 1.0 and math.isnan(single.p)
    assert "nothing can be said" in reproduction.figures.sentence(single, single.p)
    same = reproduction.figures.compare({0: 0.3, 1: 0.4}, {0: 0.1, 1: 0.2})
    assert math.isnan(same.p) and "nothing can be said" in reproduction.figures.sentence(
        same, same.p
    )
    cells = [reproduction.tables.Cell("a", None), reproduction.tables.Cell("b", None, against="a")]
    rows = [reproduction.figures.Measured(*pair) for pair in zip(cells, ({0: 1.0}, {1: 1.0}))]
    assert reproduction.figures.comparisons_table(rows)[1] == []  # no seed in common


def test_holm():
    nan = math.nan
    assert reproduction.figures.holm([0.04, nan, 0.01, 0.03])[::2] == pytest.approx([0.06, 0.03])
    np.testing.assert_allclose(
        reproduction.figures.holm([0.04, nan, 0.01, 0.03]), [0.06, nan, 0.03, 0.06]
    )
    assert (
        reproduction.figures.holm([0.9, 0.8]) == [1.0, 1.0] and reproduction.figures.holm([]) == []
    )


def made_up(folder, accuracies, seed, **about):
    """Writes what a finished run leaves."""
    folder.mkdir(parents=True)
    (folder / "network.keras").write_text("")
    names = [f"exit_{i}" for i in range(1, len(accuracies))] + ["ensemble"]
    measured = {n: {"accuracy": a, "top_5": a} for n, a in zip(names, accuracies)}
    results = {
        "costs": dict.fromkeys(names),
        "measured": {"test": measured},
        "training_seconds": 90.0,
        "flags": {
            **{"seed": seed, "dataset": "cifar100", "model": "resnet18", "method": "m"},
            **{"epochs": 200, "batch_size": 128},
        },
        "versions": {"keras": "3"},
        "hardware": {"processor": "P", "cores": 2, "accelerators": ["G"]},
        "command": "python apps/train_cifar.py --a=<b|c>",
    }
    (folder / "results.json").write_text(json.dumps(results | about))


@pytest.fixture
def made_up_table(tmp_path):
    """Three seeds of two runs of byot/1, ResNet18: exits 1 to 4 and the ensemble."""
    _, (row,) = reproduction.tables.choose("byot/1", "ResNet18")
    for seed, gain in enumerate((0.01, 0.02, 0.03)):
        plain, own = (cell.run for cell in row.cells[:2])
        base = 0.77 + 0.001 * seed
        made_up(tmp_path / reproduction.runs.folder_of(plain, Scale(), seed), [base] * 2, seed)
        better = [0.6, 0.7, 0.75, base + gain, 0.8]
        made_up(tmp_path / reproduction.runs.folder_of(own, Scale(), seed), better, seed)
    return row, tmp_path


def test_a_row_is_measured_and_compared(made_up_table):
    row, output = made_up_table
    rows = reproduction.figures.measured_row(row, Scale(), range(3), output)
    header, lines = reproduction.figures.figures_table(rows, Scale())
    assert header == ["", "paper", "measured", "difference"]
    assert lines[0] == ["baseline", "77.09", "77.10 ± 0.10 (n=3)", "+0.01"]
    assert lines[4] == ["4/4", "78.64", "79.10 ± 1.10 (n=3)", "+0.46"]
    _, compared = reproduction.figures.comparisons_table(rows)
    assert [line[0] for line in compared] == ["4/4 − baseline", "ensemble − baseline"]
    assert compared[0][1] == "+2.00" and compared[0][5] == "3"
    assert float(compared[0][3]) == pytest.approx(stats.ttest_1samp([1, 2, 3], 0).pvalue, rel=1e-2)
    assert compared[0][6] == "significant at 5 %: no; after Holm's correction: no"
    assert compared[1][6] == "significant at 5 %: yes; after Holm's correction: yes"


def test_other_measures_than_accuracy(made_up_table):
    row, output = made_up_table
    folder = output / "cifar100/resnet18/byot/baseline-seed0"
    results = reproduction.runs.results_of(folder)

    def figure(**settings):
        cell = reproduction.tables.Cell("a", row.cells[0].run, **settings)
        return reproduction.figures.figure_of(cell, results, Scale(), output, folder)

    assert figure(measure="error") == pytest.approx(23.0)
    assert figure(measure="hours") == pytest.approx(0.025)
    assert figure(measure="separability") is None
    (folder / "analysis_separability").mkdir()
    table = "network,exit,SSE,SSB,SSE / SSB\nn,exit_1,2,1,2.5\nb,exit_1,2,1,9\n"
    (folder / "analysis_separability/separability.csv").write_text(table)
    assert figure(measure="separability") == 2.5


def test_a_scaled_down_table_has_no_differences(made_up_table):
    row, output = made_up_table
    rows = reproduction.figures.measured_row(row, Scale(), range(3), output)
    header, lines = reproduction.figures.figures_table(rows, Scale(fraction=0.5))
    assert header == ["", "paper, full recipe", "measured, SCALED DOWN"]
    assert {len(line) for line in lines} == {3}
    _, (own,) = reproduction.tables.choose("rivals")
    rows = reproduction.figures.measured_row(own, Scale(), range(3), output)
    header, lines = reproduction.figures.figures_table(rows, Scale())
    assert header == ["", "measured"] and lines[0] == ["plain", "77.10 ± 0.10 (n=3)"]


@pytest.mark.parametrize(
    "changed",
    [{"model": "resnet8"}, {"epochs": 199}, {"batch_size": 64}, {"dataset": "digits"}]
    + [{"fraction": 0.5}, {"model": "densenet40", "batch_size": 64}],
    ids=str,
)
def test_runs_unlike_the_papers_are_marked(changed):
    own = {"dataset": "cifar100", "model": "resnet18", "epochs": 200, "batch_size": 128}
    assert not reproduction.page._is_scaled_down(own)
    assert reproduction.page._is_scaled_down(own | changed)


def test_tables_share_runs_and_parts_of_the_data_have_their_teachers():
    tables = [reproduction.tables.choose(f"ddgsd/{n}", "ResNet-32")[1][0] for n in (5, 6)]
    folders = [
        {str(reproduction.runs.folder_of(c.run, Scale(), 0)) for c in row.cells} for row in tables
    ]
    assert len(folders[0] & folders[1]) == 2  # + KL is μ = 0, and both
    taught = reproduction.tables.choose("ddgsd/1")[1][0].cells[1].run
    for scale, seeds in ((Scale(), [0, 0]), (Scale(fraction=0.1), [0, 1])):
        runs = reproduction.runs.with_teachers([(taught, 0), (taught, 1)], scale)
        assert [seed for run, seed in runs if run == taught.teacher] == sorted(set(seeds))
        for student in (0, 1):
            command = reproduction.runs.command_of(taught, scale, student, pathlib.Path("o"))
            (flag,) = (part for part in command if part.startswith("--teacher="))
            assert flag.endswith(f"-seed{seeds[student]}")


def test_a_run_of_another_process_is_left_alone(tmp_path, monkeypatch):
    _, (row,) = reproduction.tables.choose("byot/4", "ResNet18")
    run, folder = row.cells[0].run, reproduction.runs.folder_of(row.cells[0].run, Scale(), 0)
    called = []
    monkeypatch.setattr(reproduction.steps, "_call", lambda *a: called.append(a) or 0)
    with reproduction.steps._alone(tmp_path / folder) as lock:
        assert len(lock) == 1
        failed, _ = reproduction.steps.carry_out([(run, 0)], Scale(), tmp_path)
        assert "another process" in failed[0] and not called
    assert reproduction.steps.carry_out([(run, 0)], Scale(), tmp_path) == ([], False)
    assert len(called) == 1


def test_what_time_there_is_is_handed_on(tmp_path, monkeypatch):
    _, rows = reproduction.tables.choose("byot/4", "ResNet18")
    runs, commands = reproduction.steps.runs_of(rows, Scale(on_device=True), [0]), []
    monkeypatch.setattr(
        reproduction.steps, "_call", lambda _, command, lock: commands.append(command)
    )
    clock = iter([0.0, 60.0, 420.0, 440.0])
    monkeypatch.setattr(reproduction.steps.time, "monotonic", lambda: next(clock))
    # After 7 of 9 minutes another run is begun, after 7 and a third none.
    more = [*runs, *reproduction.steps.runs_of(rows, Scale(), [1])]
    assert reproduction.steps.carry_out(more, Scale(on_device=True), tmp_path, 9) == ([], True)
    assert [[part for part in c if "minutes" in part][-1] for c in commands] == [
        "--minutes=8",
        "--minutes=2",
    ]
    assert all("--on_device" in command for command in commands)
    pairs = Run("cifar100", "resnet18", "class_wise")
    command = reproduction.runs.command_of(pairs, Scale(on_device=True), 0, tmp_path)
    assert "--on_device" not in command
    assert not Scale(on_device=True).is_down
    monkeypatch.undo()
    monkeypatch.setattr(reproduction.steps, "_call", lambda *a: 75)
    assert reproduction.steps.carry_out(runs, Scale(), tmp_path, 9) == ([], True)


def test_results_are_enough_but_for_a_teacher(tmp_path, monkeypatch):
    taught = reproduction.tables.choose("ddgsd/1")[1][0].cells[1].run
    runs = reproduction.runs.with_teachers([(taught, 0)], Scale())
    folders = [tmp_path / reproduction.runs.folder_of(run, Scale(), 0) for run, _ in runs]
    for folder in folders:
        made_up(folder, [0.5, 0.5], 0)
        (folder / "network.keras").unlink()
    called = []
    monkeypatch.setattr(reproduction.steps, "_call", lambda where, *a: called.append(where) or 0)
    assert reproduction.steps.carry_out(runs, Scale(), tmp_path) == ([], False)
    assert len(called) == 1 and "wide_resnet_28_10" in called[0]


def test_runs_are_collected_into_a_page(made_up_table):
    _, output = made_up_table
    made_up(output / "digits/run", [0.5, 0.5], 4, training_seconds=None)
    (output / "digits/run/analysis_noise").mkdir()
    (output / "digits/run/analysis_noise/index.html").write_text("")
    assert reproduction.page.collect(output) == 7
    text, page = ((output / name).read_text() for name in ("index.md", "index.html"))
    line = next(line for line in text.splitlines() if "be_your_own_teacher-seed2" in line)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:] == ["2", "no", "60.00", "70.00", "75.00", "80.20", "80.00", "1.5"]
    assert "| G, P, 2 cores | keras 3 | 7 |" in text
    assert "| digits/run | 4 | no | 50.00 | – | – | – | – | – |" in text
    assert "| digits/run | analysis_noise | digits/run/analysis_noise/index.html |" in text
    assert "--a=&lt;b|c&gt;" in page and "http" not in page and "<script" not in page
    with pytest.raises(ValueError, match="`output` must be a folder with runs"):
        reproduction.page.collect(output / "nowhere")


WRONG = {
    (): "`table` must be one of byot/1, byot/2",
    ("--table=byot/9",): "`table` must be one of byot/1, byot/2",
    ("--table=byot/4", "--row=ResNet9"): "`row` must be one of ResNet18, ResNet50",
    ("--table=byot/4", "--model=resnet8"): "`row` must be one of ResNet18, ResNet50",
    ("--table=byot/4", "--row=resnet18", "--model=resnet9"): "`model` must be one of",
    ("byot/4",): "--name=value",
}


def test_wrong_flags_end_with_a_sentence(tmp_path):
    output = f"--output={tmp_path / 'none'}"
    answers = answers_of("reproduce.py", [(*flags, output) for flags in WRONG])
    for (code, printed), message in zip(answers.values(), WRONG.values()):
        assert code == 1 and message in printed and "Traceback" not in printed
    assert not (tmp_path / "none").exists()


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    _, rows = reproduction.tables.choose("byot/3", "WRN44-8 to WRN20-8")
    runs = reproduction.steps.runs_of(rows, Scale(), [0])
    made_up(tmp_path / reproduction.runs.folder_of(runs[0][0], Scale(), 0), [0.5, 0.5], 0)
    called = []

    def call(where, command, keep):
        called.append(where)
        return 3

    monkeypatch.setattr(reproduction.steps, "_call", call)
    failed, _ = reproduction.steps.carry_out(runs, Scale(), tmp_path)
    assert "finished before" in capsys.readouterr().out
    # All but the plain network, which is there, and the students of a teacher that failed.
    assert len(called) == len(runs) - 1 - 3
    assert sum("its teacher is not finished" in each for each in failed) == 3
    assert sum("exit code 3" in each for each in failed) == len(called)


def test_what_is_analysed_is_asked_for(tmp_path, monkeypatch):
    _, (row,) = reproduction.tables.choose("byot/figure4")
    commands = []
    monkeypatch.setattr(
        reproduction.steps, "_call", lambda _, command: commands.append(command) or 0
    )
    assert len(reproduction.steps.analysed(row, Scale(), [0], tmp_path)) == 1  # nothing is finished
    folders = [tmp_path / reproduction.runs.folder_of(cell.run, Scale(), 0) for cell in row.cells]
    for folder in folders:
        made_up(folder, [0.5, 0.5], 0)
    assert reproduction.steps.analysed(row, Scale(data_dir="d"), [0], tmp_path) == []
    assert commands[0][2:5] == ["noise", f"--network={folders[0]}", f"--beside={folders[1]}"]


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A row of two runs on a few digits by evidence.sh, and what the app answers afterwards."""
    output = tmp_path_factory.mktemp("runs") / "with a blank"
    tiny = ("--dataset=digits", "--model=resnet8", "--epochs=1", "--fraction=0.1", "--seeds=1")
    row = ("--table=byot/1", "--row=resnet18", "--precision=float32", *tiny)
    script = ["sh", APPS / "evidence.sh", "nowhere", output, "9", *row]
    environment = os.environ | {"PYTHON": sys.executable, "KERAS_BACKEND": "tensorflow"}
    run = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(script, env=environment, **run)
    row = (*row, "--on_device", f"--output={output}")
    answers = answers_of("reproduce.py", [(*row, "--dry_run"), row])
    return output, done, list(answers.values())


@pytest.mark.process
def test_small_files_are_packed(carried_out):
    output, done, _ = carried_out
    assert done.returncode == 0, done.stderr[-3000:]
    with tarfile.open(output / "small.tar.gz") as archive:
        names = [pathlib.Path(name).name for name in archive.getnames()]
    assert {name: names.count(name) for name in set(names)} == {
        **{"results.json": 2, "log.csv": 2, "index.md": 1, "index.html": 1},
        **{next((output / "tables").iterdir()).name: 1},
    }
    wrong = subprocess.run(["sh", APPS / "evidence.sh"], capture_output=True, check=False)
    assert wrong.returncode == 2 and b"usage" in wrong.stderr


@pytest.mark.process
def test_a_row_is_carried_out(carried_out):
    output, done, _ = carried_out
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("train_cifar.py --dataset=digits") == 2
    assert "SCALED DOWN (epochs 1, fraction 0.1, model resnet8, dataset digits)" in done.stdout
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("baseline "))
    # A network of three exits: the deepest has a line of its own.
    labels = [line.split()[0] for line in lines[start : start + 5]]
    assert labels == ["baseline", "1/4", "2/4", "4/4", "ensemble"]
    assert "one pair of runs: nothing can be said" in done.stdout
    runs = list((output / "digits-fraction0.1/resnet8/byot-epochs1").glob("*-seed0/results.json"))
    assert len(runs) == 2
    results = json.loads(runs[0].read_text())
    assert results["flags"]["validation"] == 0 and list(results["measured"]) == ["test"]


@pytest.mark.process
def test_the_same_command_finds_it_finished(carried_out):
    output, done, ((code, planned), (again_code, again)) = carried_out
    assert code == again_code == 0
    assert planned.count("# finished; ") == 2 and "which is an estimate" in planned
    assert again.count("finished before") == 2 and "epoch 1/1" not in again
    assert "2 runs; written to" in done.stdout and (output / "index.html").is_file()
    assert "## byot/1, resnet8 for ResNet18" in (output / "index.md").read_text()
