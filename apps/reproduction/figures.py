"""The figures of a row: measured means next to the paper's, and how sure a difference is."""

import csv
import dataclasses
import math

import numpy as np
from reproduction.runs import acceleration, analysis_folder, folder_of, results_of

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell and a dict from seeds to its figures; empty where no run is finished."""

    cell: object
    values: dict


def measured_row(row, scale, seeds, output):
    """Returns a list of Measured, of every cell whose exit the network has."""
    rows = []
    for cell in row.cells:
        values, has_exit = {}, True
        run = scale.apply(cell.run)
        if cell.measure == "acceleration":
            rows.append(Measured(cell, {"counted": acceleration(run, cell.exit)}))
            continue
        for seed in seeds:
            folder = output / folder_of(run, scale, seed)
            results = results_of(folder)
            if results is None:
                continue
            if cell.exit in range(1, 9) and cell.exit >= _exits(results):
                has_exit = False  # a smaller network's deepest exit has a cell of its own
                continue
            value = figure_of(cell, results, scale, output, folder)
            if value is not None:
                values[seed] = value
        if has_exit:
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
    path = analysis_folder("separability", folder) / "separability.csv"
    if not path.is_file():
        return None
    with path.open() as file:
        rows = list(csv.reader(file))[1:]
    # The first network is the run's; a second one may follow.
    ratios = {row[1]: row[-1] for row in rows if row[0] == rows[0][0]}
    return float(ratios[name]) if name in ratios else None


def _hours(cell, results, scale, output):
    """Returns the hours of all epochs; None where one's are not known."""
    parts = [results]
    if cell.measure == "all_hours":
        folder = output / folder_of(scale.apply(cell.run).teacher, scale, 0)
        parts.append(results_of(folder) or {})
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
        mean, text = float(np.mean(values)) if values else None, _spread(values)
        line = [cell.label, f"{mean:.2f}" if cell.measure == "acceleration" else text]
        if papers:
            line[1:1] = [None if cell.paper is None else f"{cell.paper:.2f}"]
        if papers and not down:
            is_known = mean is not None and cell.paper is not None
            line.append(f"{mean - cell.paper:+.2f}" if is_known else None)
        lines.append(line)
    return header, lines


def _spread(values):
    if not values:
        return None
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread} (n={len(values)})"


def comparisons_table(rows):
    """Returns header and rows of texts: each method against its fair baselines."""
    header = ["compared, paired by seed", "difference", "95 % interval", "p", "p (Holm)", "n", ""]
    by_label = {measured.cell.label: measured for measured in rows}
    pairs = [
        (measured, by_label[label])
        for measured in rows
        for label in measured.cell.against
        if label in by_label
    ]
    compared = [
        (f"{first.cell.label} − {second.cell.label}", compare(first.values, second.values))
        for first, second in pairs
        if first.values.keys() & second.values.keys()
    ]
    adjusted = holm([comparison.p for _, comparison in compared])
    lines = []
    for (name, each), p in zip(compared, adjusted):
        interval = None if math.isnan(each.low) else f"{each.low:+.2f} … {each.high:+.2f}"
        p_values = [None if math.isnan(value) else f"{value:.3g}" for value in (each.p, p)]
        line = [name, f"{each.difference:+.2f}", interval, *p_values, str(each.n)]
        lines.append([*line, sentence(each, p)])
    return header, lines


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference of means, paired by seed.

    Attributes:
        difference: mean of the differences of runs with the same seed.
        low, high: bounds of its 95 % confidence interval; NaN for a single pair.
        p: two-sided p-value of Student's paired t-test; NaN for a single pair, and where all
            pairs differ by the same, as the test needs their spread.
        n: number of pairs.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def compare(values, others):
    """Returns the Comparison of two dicts from seeds to figures, by the seeds of both."""
    from scipy import stats

    differences = [values[seed] - others[seed] for seed in values.keys() & others.keys()]
    mean, n = float(np.mean(differences)), len(differences)
    if n == 1:
        return Comparison(mean, math.nan, math.nan, math.nan, n)
    if np.ptp(differences) < 1e-9 * max(1.0, abs(mean)):  # rounding, of counts of images in percent
        return Comparison(mean, mean, mean, math.nan, n)
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(1 - LEVEL)
    return Comparison(mean, float(low), float(high), float(test.pvalue), n)


def holm(p_values):
    """Returns a list of p-values adjusted for their number (Holm 1979); NaN does not count."""
    p_values = np.array(p_values, "float64")
    order = np.argsort(p_values)  # NaN last
    count = np.isfinite(p_values).sum()
    factors = np.maximum(count - np.arange(len(order)), 1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted.tolist()


def sentence(comparison, adjusted):
    """Returns a sentence on the significance of a Comparison and its p-value of `holm`."""
    if comparison.n < 2:
        return "one pair of runs: nothing can be said"
    if math.isnan(comparison.p):
        return "all pairs differ by the same: nothing can be said"
    answers = ["yes" if p < LEVEL else "no" for p in (comparison.p, adjusted)]
    return f"significant at 5 %: {answers[0]}; after Holm's correction: {answers[1]}"
