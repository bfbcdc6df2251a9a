"""What analyze.py writes: CSV and PNG files, and one page that shows them and loads nothing."""

import base64
import csv
import html
import io
from dataclasses import dataclass, field

from app_start import lazy_import

checkpoints = lazy_import("sd_keras.checkpoints")
card_page = lazy_import("sd_keras.results_card.page")

MOST_ROWS = 16
OWN_STYLE = """
img { max-width: 100%; height: auto; display: block; margin: .4rem 0; }
summary { cursor: pointer; color: var(--faint); font-size: .87rem; }
"""


@dataclass
class Result:
    """What an analysis found.

    Attributes:
        title: of its part of the page.
        note: what it shows, in a sentence or two.
        header, rows: of its table; cells are text or numbers.
        figure: of matplotlib.
    """

    title: str
    note: str
    header: list
    rows: list = field(repr=False)
    figure: object = field(repr=False)


def write(folder, title, facts, results):
    """Writes the files of all results and the page.

    Args:
        folder: `pathlib.Path`; made if it is missing.
        title: of the page.
        facts: dict of texts for its head.
        results: dict from the word of an analysis to its Result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for word, result in results.items():
        table, image = _csv(result), _png(result.figure)
        _write(folder / f"{word}.csv", table.encode())
        _write(folder / f"{word}.png", image)
        parts.append(_part(word, result, image))
    _write(folder / "index.html", _page(title, facts, parts).encode())


def _write(path, content):
    checkpoints.write_whole(path, lambda aside: aside.write_bytes(content))


def _csv(result):
    text = io.StringIO()
    rows = [[_exact(cell) for cell in row] for row in result.rows]
    csv.writer(text, lineterminator="\n").writerows([result.header, *rows])
    return text.getvalue()


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _exact(cell):
    return f"{cell:.8g}" if isinstance(cell, float) else cell


def _shown(cell):
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _part(word, result, image):
    coded = base64.b64encode(image).decode()
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in result.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(cell))}</td>" for cell in row) + "</tr>"
        for row in result.rows
    )
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>'
    table += "</table></div>"
    if len(result.rows) > MOST_ROWS:
        table = f"<details><summary>{len(result.rows)} rows</summary>{table}</details>"
    title, note = html.escape(result.title), html.escape(result.note)
    return (
        f'<h2 id="{word}">{title}</h2>\n<p class="note">{note}</p>\n'
        f'<img alt="{title}" src="data:image/png;base64,{coded}">\n{table}'
    )


def _page(title, facts, parts):
    pairs = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in facts.items()
    )
    title = html.escape(title)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{card_page.STYLE}{OWN_STYLE}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>\n<dl>{pairs}</dl>",
            *parts,
            "</body>\n</html>\n",
        ]
    )
