"""All runs of a folder as one page: index.md, and index.html that loads nothing."""

import functools
import html
import json
import pathlib
import re

import reproduction.runs
from app_start import lazy_import
from reproduction.tables import tables

checkpoints = lazy_import("sd_keras.checkpoints")
card_page = lazy_import("sd_keras.results_card.page")

NOTE = (
    "Accuracy in percent of the test images after the last epoch; nothing was chosen on them. "
    "Minutes are of all epochs, without loading, measuring and saving."
)


# Flags that tell whether a run is one of the papers'.
TOLD = ("dataset", "model", "epochs", "batch_size")


def collect(output):
    """Writes index.md and index.html of all results.json files below a folder.

    Args:
        output: `pathlib.Path`.

    Returns:
        The number of runs.

    Raises:
        ValueError: if there is none, or one cannot be read.
    """
    runs = [(path.parent.relative_to(output), _read(path)) for path in results_files(output)]
    if not runs:
        raise ValueError(
            "`output` must be a folder with runs that wrote results.json. "
            f"Received: output={str(output)!r}"
        )
    saved = sorted(output.glob("tables/*.json"))
    parts = [("Tables", _read(path)["sections"]) for path in saved]
    sections = [section for _, several in parts for section in several]
    sections += [runs_section(runs), machines_section(runs), *analyses_sections(output)]
    sections.append(commands_section(runs))
    texts = {"index.md": as_markdown(sections), "index.html": as_html(sections)}
    for name, text in texts.items():
        checkpoints.write_whole(output / name, lambda aside, text=text: aside.write_text(text))
    return len(runs)


def results_files(output):
    """Returns the paths of all results.json files, sorted."""
    return sorted(pathlib.Path(output).rglob("results.json"))


def _read(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"`output` must hold whole files ({error}). Received: {str(path)!r}"
        ) from None


def section(title, header, rows, note=""):
    """Returns a part of a page: a title, a table of texts and a note."""
    cells = [["–" if cell is None else str(cell) for cell in row] for row in rows]
    return {"title": title, "header": header, "rows": cells, "note": note}


def runs_section(runs):
    """Returns the part with the accuracy of every run."""
    exits = max(sum(n.startswith("exit_") for n in r["costs"]) for _, r in runs)
    header = ["run", "seed", "scaled down", *(f"exit {i + 1}" for i in range(exits))]
    header += ["ensemble", "minutes"]
    rows = []
    for folder, results in runs:
        own = results["flags"]
        measured = results["measured"].get("test", results["measured"])
        names = [name for name in measured if name.startswith("exit_")]
        accuracies = [f"{100 * measured[name]['accuracy']:.2f}" for name in names]
        accuracies += [None] * (exits - len(names))
        ensemble = f"{100 * measured['ensemble']['accuracy']:.2f}" if len(names) > 1 else None
        changed = "yes" if _is_scaled_down(own) else "no"
        rows.append([folder, own["seed"], changed, *accuracies, ensemble, _minutes(results)])
    return section("Runs", header, rows, NOTE)


def _is_scaled_down(own):
    """Whether a run had fewer images than the papers', or too few epochs for any of them."""
    part = own.get("fraction", 1) < 1 or own.get("train_split", "train") != "train"
    return part or tuple(own.get(name) for name in TOLD) not in _papers_settings()


@functools.cache
def _papers_settings():
    """What the papers' runs have for data, network, epochs and images a step."""
    runs = [c.run for t in tables().values() for row in t.rows for c in row.cells]
    runs += [run.teacher for run in runs if run.teacher]
    recipes = reproduction.runs.RECIPES
    figures = {(run.dataset, run.model, run.recipe) for run in runs}
    return {
        (dataset, model, *(recipes[recipe].get(name) for name in TOLD[2:]))
        for dataset, model, recipe in figures
    }


def _minutes(results):
    seconds = results.get("training_seconds")
    return None if seconds is None else f"{seconds / 60:.1f}"


def machines_section(runs):
    """Returns the part with machines and versions, and how many runs were made on each."""
    counts = {}
    for _, results in runs:
        about = results.get("hardware", {})
        names = [*about.get("accelerators", ()), about.get("processor", "unknown")]
        machine = f"{', '.join(names)}, {about.get('cores', '?')} cores"
        versions = ", ".join(f"{name} {of}" for name, of in results["versions"].items())
        counts[machine, versions] = counts.get((machine, versions), 0) + 1
    rows = [[machine, versions, count] for (machine, versions), count in counts.items()]
    return section("Hardware and versions", ["hardware", "versions", "runs"], rows)


def analyses_sections(output):
    """Returns the part that names the pages of apps/analyze.py in a list, empty without any."""
    pages = sorted(path.relative_to(output) for path in output.rglob("analysis*/index.html"))
    rows = [[path.parent.parent, path.parent.name, path] for path in pages]
    return [section("Analyses", ["run", "analysis", "page"], rows)] if rows else []


def commands_section(runs):
    """Returns the part with the command of each run."""
    rows = [[folder, results.get("command")] for folder, results in runs]
    return section("Commands", ["run", "command"], rows)


def as_markdown(sections):
    """Returns sections as the text of a Markdown file."""
    lines = ["# Reproduction", ""]
    for part in sections:
        columns = zip(*part["rows"])
        marks = ["---:" if all(map(_is_number, column)) else "---" for column in columns]
        rows = [part["header"], marks, *part["rows"]]
        lines += [f"## {part['title']}", ""]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
        lines += ["", *([part["note"], ""] if part["note"] else [])]
    return "\n".join(lines)


def _is_number(text):
    return re.fullmatch(r"–|[-+]?\d[\d.e+-]*", str(text)) is not None


def _cell(text):
    return str(text).replace("|", r"\|").replace("\n", " ")


def as_html(sections):
    """Returns sections as the text of an HTML file."""
    body = ["<h1>Reproduction</h1>"]
    for part in sections:
        body += [f"<h2>{html.escape(part['title'])}</h2>", _html_table(part)]
        if part["note"]:
            body.append(f'<p class="note">{html.escape(part["note"])}</p>')
    head = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>Reproduction</title>\n<style>{card_page.STYLE}</style>\n</head>\n<body>"
    return "\n".join([head, *body, "</body>\n</html>\n"])


def _html_table(part):
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in part["header"])
    rows = [
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>"
        for row in part["rows"]
    ]
    start = f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>'
    return start + "\n".join(rows) + "</tbody></table></div>"
