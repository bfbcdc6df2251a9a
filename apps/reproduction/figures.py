"""From the runs of a row to its figures: measured means beside the paper's, and comparisons."""

import csv
import dataclasses
import math

import reproduction.costs
import reproduction.runs
import reproduction.statistics as statistics


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell with its figures by seed; none where no run is finished."""

    cell: object
    values: dict


def measured_row(row, scale, seeds, output):
    """Reads the figures of every cell whose exit the network has.

    Args:
        row: a `reproduction.tables.Row`.
        scale: a `reproduction.runs.Scale`.
        seeds: list of integers.
        output: `pathlib.Path` of all runs.

    Returns:
        A list of Measured.
    """
    rows = []
    for cell in row.cells:
        values, is_there = {}, True
        run = scale.apply(cell.run)
        if cell.measure == "acceleration":
            rows.append(
                Measured(cell, {"counted": reproduction.costs.acceleration(run, cell.exit)})
            )
            continue
        for seed in seeds:
            folder = output / reproduction.runs.folder_of(run, scale, seed)
            results = reproduction.runs.results_of(folder)
            if results is None:
                continue
            if cell.exit in range(1, 9) and cell.exit >= _exits(results):
                is_there = False  # a smaller network's deepest exit has a cell of its own
                continue
            value = figure_of(cell, results, scale, output, folder)
            if value is not None:
                values[seed] = value
        if is_there:
            rows.append(Measured(cell, values))
    return rows


def _exits(results):
    return sum(name.startswith("exit_") for name in results["costs"])


def figure_of(cell, results, scale, output, folder):
    """Returns the figure of a cell from what its run wrote, or None."""
    if cell.measure in ("hours", "all_hours"):
        return _hours(cell, results, scale, output)
    name = f"exit_{_exits(results)}" if cell.exit == "deepest" else cell.exit
    name = f"exit_{name}" if isinstance(name, int) else name
    if cell.measure == "separability":
        return _separability(folder, name)
    # apps/train_imagenet.py measures on one split only.
    measured = results["measured"].get("test", results["measured"])[name]
    if cell.measure == "top_5_error":
        return 100 * (1 - measured["top_5"])
    share = measured["accuracy"]
    return 100 * (1 - share if cell.measure == "error" else share)


def _separability(folder, name):
    """Returns SSE/SSB of an exit, the last column of what apps/analyze.py wrote."""
    path = reproduction.runs.analysis_folder("separability", folder) / "separability.csv"
    if not path.is_file():
        return None
    with path.open() as file:
        rows = list(csv.reader(file))[1:]
    # The first network is the run's own; another may stand beside it.
    found = {row[1]: row[-1] for row in rows if row[0] == rows[0][0]}
    return float(found[name]) if name in found else None


def _hours(cell, results, scale, output):
    """Returns hours of all epochs; None where those of one are not known."""
    parts = [results]
    if cell.measure == "all_hours":
        teacher = scale.apply(cell.run).teacher
        folder = output / reproduction.runs.folder_of(teacher, scale, 0)
        parts.append(reproduction.runs.results_of(folder) or {})
    seconds = [part.get("training_seconds") for part in parts]
    return None if None in seconds else sum(seconds) / 3600


def figures_table(rows, scale):
    """Returns header and rows of texts: paper, where it has figures, measured, difference."""
    down = scale.is_down
    papers = any(measured.cell.paper is not None for measured in rows)
    header = ["", "measured, SCALED DOWN" if down else "measured"]
    if papers:
        header[1:1] = ["paper, full recipe" if down else "paper"]
        header += [] if down else ["difference"]
    lines = []
    for measured in rows:
        cell, values = measured.cell, list(measured.values.values())
        line = [cell.label, _spread(values, cell.measure == "acceleration")]
        if papers:
            line[1:1] = [None if cell.paper is None else f"{cell.paper:.2f}"]
        if papers and not down:
            both = values and cell.paper is not None
            mean = statistics.mean_and_deviation(values)[0] if values else None
            line.append(f"{mean - cell.paper:+.2f}" if both else None)
        lines.append(line)
    return header, lines


def _spread(values, counted):
    if counted:
        return f"{values[0]:.2f}"
    if not values:
        return None
    mean, deviation = statistics.mean_and_deviation(values)
    spread = f" ± {deviation:.2f}" if len(values) > 1 else ""
    return f"{mean:.2f}{spread} (n={len(values)})"


def comparisons_table(rows):
    """Returns header and rows of texts: each method against its fair baselines."""
    header = ["compared, paired by seed", "difference", "95 % interval", "p", "p (Holm)", "n", ""]
    by_label = {measured.cell.label: measured for measured in rows}
    found = []
    for measured in rows:
        for label in measured.cell.against:
            if label not in by_label:
                continue
            comparison = statistics.compare(measured.values, by_label[label].values)
            if comparison is not None:
                found.append((f"{measured.cell.label} − {label}", comparison))
    adjusted = statistics.holm([comparison.p for _, comparison in found])
    lines = []
    for (name, each), p in zip(found, adjusted):
        known = not math.isnan(each.p)
        interval = None if math.isnan(each.low) else f"{each.low:+.2f} … {each.high:+.2f}"
        shown_p = [f"{each.p:.3g}", f"{p:.3g}"] if known else [None, None]
        lines.append([name, f"{each.difference:+.2f}", interval, *shown_p, str(each.n)])
        lines[-1].append(statistics.sentence(each, p))
    return header, lines
