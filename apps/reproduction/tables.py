"""What a table is, and the tables by name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a row.

    Attributes:
        label: what it is of.
        run: the `reproduction.runs.Run` that is measured.
        exit: number of an exit, "deepest" or "ensemble".
        paper: the paper's figure, or None.
        measure: "accuracy", "error" or "top_5_error" in percent of the test images; "hours"
            of training, "all_hours" with the teacher's; "acceleration", counted; "separability",
            SSE/SSB by apps/analyze.py.
        against: labels of the cells of this row that it is compared with.
    """

    label: str
    run: object
    exit: object = "deepest"
    paper: float | None = None
    measure: str = "accuracy"
    against: tuple = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of one network.

    Attributes:
        name: as `--row` takes it.
        cells: tuple of Cell.
        analyses: tuple of (words of apps/analyze.py, label of a cell, label beside it or
            None), carried out once the runs are finished.
    """

    name: str
    cells: tuple
    analyses: tuple = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a name.

    Attributes:
        title: what it shows.
        rows: tuple of Row.
        note: what a reader must know, or "".
    """

    title: str
    rows: tuple
    note: str = ""


def tables():
    """Returns all tables by name, in the order of the papers."""
    import reproduction.byot
    import reproduction.ddgsd
    import reproduction.evidence
    import reproduction.others

    parts = (reproduction.byot, reproduction.ddgsd, reproduction.evidence, reproduction.others)
    return {name: table for part in parts for name, table in part.TABLES.items()}


def plain_name(name):
    """Returns a name without case, spaces and hyphens, by which rows are found."""
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter in "=.")


def choose(table_name, row_name=None):
    """Returns the table of a name and its rows, one or all.

    Raises:
        ValueError: for a name that is none, with a list of those that are.
    """
    known = tables()
    if table_name not in known:
        raise ValueError(
            f"`table` must be one of {', '.join(known)}. Received: table={table_name!r}"
        )
    table = known[table_name]
    rows = [row for row in table.rows if plain_name(row.name) == plain_name(row_name or "")]
    if row_name is not None and not rows:
        names = ", ".join(row.name for row in table.rows)
        raise ValueError(f"`row` must be one of {names}. Received: row={row_name!r}")
    return table, rows or list(table.rows)
