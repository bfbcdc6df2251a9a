"""The papers' tables and this project's own, read from the CSV files in `data/`.

`data/index.csv` names the tables in order, each with its file, title, note and, where its runs are
analyzed, the analysis of apps/analyze.py and how many of a row's networks it shows. A table's file
has one line for each cell:

    row, label      the row as `--row` takes it, and the cell's name, unique in its row
    dataset, model, method, recipe, peer    attributes of the `reproduction.runs.Run`
    options         of the Run, such as `temperature=1;mixup=1`
    teacher         model of the teacher's Run, with `/recipe` where that is not the student's
    exit            number of an exit, `deepest` or `ensemble`
    measure         `accuracy`, `error` or `top_5_error` in percent of the test images; `hours` of
                    training, `all_hours` with the teacher's; `acceleration`, counted;
                    `separability`, SSE/SSB by apps/analyze.py
    paper           the paper's figure, or empty
    against         labels of the cells in the same row that it is compared with, joined by `;`
"""

import csv
import dataclasses
import functools
import pathlib

from reproduction.runs import Run

DATA = pathlib.Path(__file__).with_name("data")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a row; the columns of a CSV file, see above."""

    label: str
    run: Run
    exit: int | str = "deepest"
    paper: float | None = None
    measure: str = "accuracy"
    against: tuple = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of one network.

    Attributes:
        name: as `--row` takes it.
        cells: tuple of Cell.
        analyses: tuple of (analysis of apps/analyze.py, label of a cell, label of the cell it is
            compared with or None), to run once the networks are trained.
    """

    name: str
    cells: tuple
    analyses: tuple = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a tuple of Row, and a note for the reader or ""."""

    title: str
    rows: tuple
    note: str = ""


@functools.cache
def tables():
    """Returns all tables by name, in the order of the papers."""
    return {
        line["name"]: Table(line["title"], _rows(line), line["note"])
        for line in _lines(DATA / "index.csv")
    }


def _lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rows(table):
    cells = {}
    for line in _lines(DATA / table["file"]):
        cells.setdefault(line["row"], []).append(_cell(line))
    rows = []
    for name, row in cells.items():
        compared = row[1].label if table["networks"] == "2" else None
        analyses = ((table["analysis"], row[0].label, compared),) if table["analysis"] else ()
        rows.append(Row(name, tuple(row), analyses))
    return tuple(rows)


def _cell(line):
    dataset, recipe = line["dataset"], line["recipe"]
    model, _, teacher_recipe = line["teacher"].partition("/")
    options = (option.split("=") for option in line["options"].split(";") if option)
    run = Run(
        dataset,
        line["model"],
        line["method"],
        options=tuple((name, _value(text)) for name, text in options),
        recipe=recipe,
        teacher=Run(dataset, model, recipe=teacher_recipe or recipe) if model else None,
        peer=line["peer"] or None,
    )
    paper = float(line["paper"]) if line["paper"] else None
    against = tuple(line["against"].split(";")) if line["against"] else ()
    return Cell(line["label"], run, _value(line["exit"]), paper, line["measure"], against)


def _value(text):
    """Returns a cell as an integer, a float or else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plain_name(name):
    """Returns a name without case, spaces and hyphens, for looking up rows."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter in "=.")


def choose(table_name, row_name=None):
    """Returns the table of a name and a list of its rows: one, or all for None."""
    if table_name not in tables():
        raise ValueError(
            f"`table` must be one of {', '.join(tables())}. Received: table={table_name!r}"
        )
    table = tables()[table_name]
    if row_name is None:
        return table, list(table.rows)
    rows = [row for row in table.rows if plain_name(row.name) == plain_name(row_name)]
    if not rows:
        names = ", ".join(row.name for row in table.rows)
        raise ValueError(f"`row` must be one of {names}. Received: row={row_name!r}")
    return table, rows
