"""How all parts of benchmark.py measure, and the rows that they report; needs nothing installed.

A row is a dict: what was measured in each round, its median, and the bar beside it.
"""

import statistics
import time

WARM_UP = 2


def interleave(functions, repeats):
    """Calls functions in turn, A B C A B C …, and times each call.

    Args:
        functions: dict from name to a function, or to a pair of a function and how often one
            turn calls it, for what is too short to be timed alone.
        repeats: rounds, after WARM_UP rounds that do not count.

    Returns:
        A dict from name to the seconds of one call, one value per round.
    """
    turns = {name: f if isinstance(f, tuple) else (f, 1) for name, f in functions.items()}
    seconds = {name: [] for name in turns}
    for index in range(WARM_UP + repeats):
        for name, (function, calls) in turns.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            if index >= WARM_UP:
                seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def compare(numerators, denominators):
    """Returns the ratio within each round, and that of the fastest calls of each side."""
    values = [a / b for a, b in zip(numerators, denominators)]
    return {"values": values, "of_fastest": min(numerators) / min(denominators)}


def figure(part, name, bar, values, of_fastest=None, unit="x", precision=None, **more):
    """One row of the report: the median of the values, and whether it reaches its bar.

    Args:
        part, name: of the figure.
        bar: for instance `"<= 1.12"`.
        values: one per round.
        of_fastest: the same from the fastest call of each side, for machines that are busy.
        unit: "x" for a ratio, "%" for a share (values are shares of 1), "s" for seconds.
        precision: dtype policy of what was measured, if it matters.
        **more: further keys; `beside` is text for the table.
    """
    median = statistics.median(values)
    direction, limit = bar.split()
    return {
        "part": part,
        "name": name,
        "precision": precision,
        "unit": unit,
        "median": median,
        "min": min(values),
        "max": max(values),
        "of_fastest": of_fastest,
        "bar": bar,
        "met": median <= float(limit) if direction == "<=" else median >= float(limit),
        "values": values,
        **more,
    }


def fact(part, name, **row):
    """A figure without a bar; see `figure`."""
    return figure(part, name, ">= 0", **row) | {"bar": None, "met": None}


def table(figures):
    """Returns the figures as lines of text."""

    def shown(value, unit):
        if value is None:
            return ""
        if unit == "%":
            return f"{value:.3%}"
        return f"{value:.3f}" if unit == "x" else f"{value:.3f} {unit}"

    titles = ("part", "figure", "precision", "median", "min", "max", "of fastest")
    rows = [(*titles, "bar", "met", "beside")]
    for row in figures:
        keys = ("median", "min", "max", "of_fastest")
        numbers = [shown(row[key], row["unit"]) for key in keys]
        bar = row["bar"] or ""
        if bar and row["unit"] == "%":
            direction, limit = bar.split()
            bar = f"{direction} {float(limit):.1%}"
        about = (row["part"], row["name"], row["precision"] or "")
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        rows.append((*about, *numbers, bar, met, row["beside"]))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
