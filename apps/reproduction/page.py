"""All runs of a folder as one page: index.md, and index.html that loads nothing."""

import functools

from app_start import lazy_import
from reproduction.runs import RECIPES
from reproduction.tables import tables

checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")

NOTE = (
    "Accuracy in percent of the test images after the last epoch; nothing was chosen on them. "
    "Minutes are of all epochs, without loading, measuring and saving."
)
# Flags that tell whether a run is one of the papers'.
SETTINGS = ("dataset", "model", "epochs", "batch_size")


def collect(output):
    """Writes index.md and index.html of all runs below a folder; returns their number."""
    paths = sorted(output.rglob("results.json"))
    runs = [(str(path.parent.relative_to(output)), checkpoints.read_json(path)) for path in paths]
    if not runs:
        raise ValueError(
            "`output` must be a folder with runs that wrote results.json. "
            f"Received: output={str(output)!r}"
        )
    saved = [checkpoints.read_json(path) for path in sorted(output.glob("tables/*.json"))]
    sections = [report.Section(**section) for page in saved for section in page["sections"]]
    sections += [runs_section(runs), machines_section(runs), *analyses_sections(output)]
    commands = [[folder, results.get("command")] for folder, results in runs]
    sections.append(report.Section("Commands", ["run", "command"], commands))
    for name, page in (("index.md", report.markdown_page), ("index.html", report.html_page)):
        checkpoints.write_text(output / name, page("Reproduction", {}, sections))
    return len(runs)


def runs_section(runs):
    """Returns the section with the accuracy of every run."""
    exits = max(sum(n.startswith("exit_") for n in r["costs"]) for _, r in runs)
    header = ["run", "seed", "scaled down", *(f"exit {i + 1}" for i in range(exits))]
    header += ["ensemble", "minutes"]
    rows = []
    for folder, results in runs:
        flags = results["flags"]
        measured = results["measured"].get("test", results["measured"])
        names = [name for name in measured if name.startswith("exit_")]
        accuracies = [f"{100 * measured[name]['accuracy']:.2f}" for name in names]
        accuracies += [None] * (exits - len(names))
        ensemble = f"{100 * measured['ensemble']['accuracy']:.2f}" if len(names) > 1 else None
        changed = "yes" if _is_scaled_down(flags) else "no"
        seconds = results.get("training_seconds")
        minutes = None if seconds is None else f"{seconds / 60:.1f}"
        rows.append([folder, flags["seed"], changed, *accuracies, ensemble, minutes])
    return report.Section("Runs", header, rows, NOTE)


def _is_scaled_down(flags):
    """Returns whether a run had fewer images than the papers', or other settings than any."""
    is_part = flags.get("fraction", 1) < 1 or flags.get("train_split", "train") != "train"
    return is_part or tuple(flags.get(name) for name in SETTINGS) not in _papers_settings()


@functools.cache
def _papers_settings():
    """Returns the set of the values of SETTINGS in the papers' runs."""
    runs = [c.run for t in tables().values() for row in t.rows for c in row.cells]
    runs += [run.teacher for run in runs if run.teacher]
    return {
        (run.dataset, run.model, *(RECIPES[run.recipe].get(name) for name in SETTINGS[2:]))
        for run in runs
    }


def machines_section(runs):
    """Returns the section with the number of runs by hardware and versions."""
    counts = {}
    for _, results in runs:
        hardware = results.get("hardware", {})
        names = [*hardware.get("accelerators", ()), hardware.get("processor", "unknown")]
        machine = f"{', '.join(names)}, {hardware.get('cores', '?')} cores"
        versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        counts[machine, versions] = counts.get((machine, versions), 0) + 1
    rows = [[machine, versions, count] for (machine, versions), count in counts.items()]
    return report.Section("Hardware and versions", ["hardware", "versions", "runs"], rows)


def analyses_sections(output):
    """Returns a list with the section that links the pages of apps/analyze.py, or none."""
    pages = sorted(path.relative_to(output) for path in output.rglob("analysis*/index.html"))
    rows = [[path.parent.parent, path.parent.name, path] for path in pages]
    return [report.Section("Analyses", ["run", "analysis", "page"], rows)] if rows else []
