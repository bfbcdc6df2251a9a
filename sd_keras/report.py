"""What a run shows: progress while it trains, tables on the console, pages in Markdown and HTML."""

import base64
import dataclasses
import html
import importlib
import platform
import re
import sys
import time
import unicodedata

import keras

from sd_keras import keras_internals
from sd_keras.version import __version__


class Progress(keras.callbacks.Callback):
    """A progress bar with the few figures that matter, and one line per epoch.

    Keras's own bar prints every metric of every exit. Away from a terminal only the lines.

    Args:
        epochs: number of epochs of the run.
        images: training images per epoch, for the speed.
    """

    def __init__(self, epochs, images):
        super().__init__()
        self.epochs = epochs
        self.images = images

    def on_epoch_begin(self, epoch, logs=None):
        steps = self.params["steps"] if sys.stdout.isatty() else None
        self.bar = steps and keras.utils.Progbar(
            steps, stateful_metrics=["loss", "accuracy", "images/s"]
        )
        self.start = time.perf_counter()
        self.seconds = 0.0

    @property
    def skipped(self):
        """Steps that an earlier process has made, which take no time here."""
        # Read when needed, since a Backup after this callback sets it.
        return keras_internals.model_of(self).position.skip_steps

    def on_train_batch_end(self, batch, logs=None):
        if batch < self.skipped:
            self.start = time.perf_counter()
            return
        self.seconds = time.perf_counter() - self.start
        steps = self.params["steps"]
        if self.bar and batch + 1 < steps:
            deepest = f"{keras_internals.model_of(self).exit_names[-1]}_accuracy"
            values = [("loss", logs["loss"]), ("accuracy", logs[deepest])]
            share = (batch + 1 - self.skipped) / steps
            self.bar.update(batch + 1, [*values, ("images/s", self._speed(share))])

    def on_epoch_end(self, epoch, logs=None):
        names = [*self.model.exit_names, "ensemble"]
        prefix = "val_" if f"val_{names[0]}_accuracy" in logs else ""
        accuracies = "  ".join(f"{n} {logs[f'{prefix}{n}_accuracy']:.4f}" for n in names)
        label = "validation" if prefix else "training"
        clear = "\r\033[K" if self.bar else ""
        share = 1 - self.skipped / self.params["steps"] if self.params["steps"] else 1
        print(
            f"{clear}epoch {epoch + 1}/{self.epochs}  loss {logs['loss']:.4f}  "
            f"{label} accuracy: {accuracies}  {self._ended(epoch, share)}",
            flush=True,
        )

    def _speed(self, share):
        return share * self.images / self.seconds if self.seconds else 0.0

    def _ended(self, epoch, share):
        """Says how fast the epoch was, and how long the others will take with validation."""
        if not share or not self.seconds:
            return "trained before"
        speed = f"{self._speed(share):.0f} images/s"
        left = self.epochs - epoch - 1
        if not left:
            return speed
        training = self.seconds / share
        testing = time.perf_counter() - self.start - self.seconds
        return f"{speed}  {duration(left * (training + testing))} left"


def duration(seconds):
    """Returns a time as text of two units at most: "3 h 12 min", "45 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((i for i, (count, _) in enumerate(units) if count), len(units) - 1)
    shown = [(count, unit) for count, unit in units[first : first + 2] if count]
    return " ".join(f"{count} {unit}" for count, unit in shown) or "0 s"


def versions():
    """Returns the versions of Python, this library and what it ran on, by name."""
    backend = keras.config.backend()
    # Not by the names of installed packages: TensorFlow comes under several.
    modules = [importlib.import_module(name) for name in ("keras", "numpy", backend)]
    return {
        "sd_keras": __version__,
        **{module.__name__: module.__version__ for module in modules},
        "python": platform.python_version(),
        "backend": backend,
    }


def table(header, rows):
    """Lays out rows of cells under a header, numbers to the right.

    Args:
        header: list of column names.
        rows: lists of cells of the same length; None shows as a dash, control characters escaped.

    Returns:
        The table as text.
    """
    cells = [[str(h) for h in header]]
    cells += [["–" if cell is None else printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def exits_table(costs, measured, baseline=None):
    """Lays out what each exit costs and how well it answers.

    Args:
        costs: of `analysis.costs`.
        measured: a dict from the name of a split to what `analysis.evaluate_exits` returns.
        baseline: None, or the same pair `(costs, measured)` of a plain network; its deepest
            exit becomes the last row.

    Returns:
        The table as text: parameters, millions of multiply-accumulates, accuracy in percent.
    """
    exits = [name for name in costs if name != "ensemble"]
    labels = {exits[-1]: f"{exits[-1]} (deepest)"}
    shown = exits if len(exits) == 1 else costs
    rows = [_exit_row(labels.get(name, name), name, costs, measured) for name in shown]
    if baseline is not None:
        deepest = [name for name in baseline[0] if name != "ensemble"][-1]
        rows.append(_exit_row("plain baseline", deepest, *baseline))
    return table(["exit", "parameters", "MACs (M)", *(f"{s} (%)" for s in measured)], rows)


def costs_table(costs):
    """Lays out what `analysis.costs` returns, a row per exit."""
    header = ["exit", "parameters", "moving", "MACs (M)", "FLOPs (M)", "activations (M)"]
    header += ["peak memory (MB)", "acceleration"]
    deepest = [name for name in costs if name != "ensemble"][-1]
    shown = [name for name in costs if name != "ensemble" or len(costs) > 2]
    rows = []
    for name in shown:
        cost = costs[name]
        faster = costs[deepest]["macs"] / cost["macs"] if cost["macs"] else None
        rows.append(
            [
                name,
                f"{cost['parameters']:,}",
                f"{cost['non_trainable']:,}",
                *(f"{cost[key] / 1e6:.2f}" for key in ("macs", "flops", "activations")),
                f"{cost['peak_activation_bytes'] / 1e6:.2f}",
                faster and f"{faster:.2f}",
            ]
        )
    return table(header, rows)


def measures_table(measured):
    """Lays out what `analysis.evaluate_exits` returns, a row per exit."""
    header = ["exit", "accuracy (%)", "top-5 (%)", "cross entropy", "calibration error (%)"]
    rows = [
        [
            name,
            f"{100 * values['accuracy']:.2f}",
            f"{100 * values['top_5']:.2f}",
            f"{values['cross_entropy']:.4f}",
            f"{100 * values['calibration_error']:.2f}",
        ]
        for name, values in measured.items()
    ]
    return table(header, rows)


def early_exit_table(outcomes, plain_macs):
    """Lays out what leaving early comes to.

    Args:
        outcomes: a dict from the name of a split to a `sd_keras.inference.Outcome` whose costs
            are multiply-accumulates.
        plain_macs: those of the plain network, for the acceleration.

    Returns:
        The table as text: a row per split; the drop against the deepest exit is paired, with
        its standard error.
    """
    exits = len(next(iter(outcomes.values())).shares)
    header = ["images", "accuracy (%)", "drop (%)", "MACs (M)", "acceleration"]
    header += [f"exit_{index} (%)" for index in range(1, exits + 1)]
    rows = [
        [
            split,
            f"{100 * each.accuracy:.2f}",
            f"{100 * each.drop:.2f} ± {100 * each.drop_standard_error:.2f}",
            f"{each.cost / 1e6:.2f}",
            f"{plain_macs / each.cost:.2f}" if each.cost else None,
            *(f"{100 * share:.1f}" for share in each.shares),
        ]
        for split, each in outcomes.items()
    ]
    return table(header, rows)


def _exit_row(label, name, costs, measured):
    cost = costs[name]
    accuracies = [f"{100 * split[name]['accuracy']:.2f}" for split in measured.values()]
    return [label, f"{cost['parameters']:,}", f"{cost['macs'] / 1e6:.2f}", *accuracies]


@dataclasses.dataclass
class Section:
    """A section of a page: a heading, a table, a note and images.

    Attributes:
        title: the heading, plain text.
        header: column names of the table; empty for no table.
        rows: lists of cells: text, numbers, or None, which shows as a dash.
        note: a paragraph below the table, or "".
        images: pairs of a caption and the bytes of an SVG or PNG file; in HTML only.
        is_folded: whether HTML shows the table on demand.
        anchor: the heading's id in HTML, or "".
    """

    title: str
    header: list = ()
    rows: list = dataclasses.field(default=(), repr=False)
    note: str = ""
    images: list = dataclasses.field(default=(), repr=False)
    is_folded: bool = False
    anchor: str = ""


def printable(text):
    r"""Returns text with control characters escaped, such as `\x1b`."""
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def _one_line(text):
    return printable(str(text).replace("\n", " "))


def markdown_text(text):
    """Returns text as Markdown shows it: without HTML, and for a cell of a table too."""
    return html.escape(_one_line(text), quote=False).replace("|", r"\|")


def _html_text(text):
    return html.escape(_one_line(text))


def markdown_page(title, facts, sections):
    """Returns a page as the text of a Markdown file.

    Args:
        title: of the page.
        facts: dict of what is listed below the title.
        sections: list of `Section`; those without a table are left out.
    """
    pairs = ((markdown_text(name), markdown_text(value)) for name, value in facts.items())
    lines = [f"# {markdown_text(title)}", "", *(f"- {name}: {value}" for name, value in pairs)]
    for section in sections:
        if section.header:
            marks = ["---:" if right else "---" for right in _right_aligned(section)]
            lines += ["", f"## {markdown_text(section.title)}", ""]
            lines += [_markdown_row(row) for row in (section.header, marks, *section.rows)]
            lines += ["", markdown_text(section.note)] if section.note else []
    return "\n".join([*lines, ""])


def _markdown_row(row):
    return f"| {' | '.join(markdown_text(_cell(cell)) for cell in row)} |"


def _cell(value):
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _right_aligned(section):
    """Returns for each column whether all of its cells are numbers, after the first column."""
    number = re.compile(r"–|[-+]?\d[\d.,e+-]*( ± [\d.]+)?")
    columns = list(zip(*section.rows)) or [()] * len(section.header)
    return [
        index > 0 and all(number.fullmatch(_cell(cell)) for cell in column)
        for index, column in enumerate(columns)
    ]


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d232b; --faint: #5c6672;
  --rule: #d9dee4; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec;
  --faint: #9aa5b1; --rule: #333b45; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt, th, summary, .note { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--rule); text-align: left; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; }
@media print { body { margin: 0; font-size: 10px; } table { font-size: 8px; }
  .wide { overflow: visible; } tr, figure { break-inside: avoid; } }
"""


def html_page(title, facts, sections):
    """Returns a page as the text of an HTML file that loads nothing; images are embedded.

    Args:
        title, facts, sections: as in `markdown_page`.
    """
    pairs = (f"<dt>{_html_text(name)}</dt><dd>{_html_text(v)}</dd>" for name, v in facts.items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_html_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{_html_text(title)}</h1>\n<dl>{''.join(pairs)}</dl>",
            *map(_html_section, sections),
            "</body>\n</html>\n",
        ]
    )


def _html_section(section):
    anchor = f' id="{_html_text(section.anchor)}"' if section.anchor else ""
    parts = [f"<h2{anchor}>{_html_text(section.title)}</h2>"]
    parts += [_html_image(*image) for image in section.images]
    if section.header:
        table = _html_table(section)
        folded = f"<details><summary>{len(section.rows)} rows</summary>{table}</details>"
        parts.append(folded if section.is_folded else table)
    parts += [f'<p class="note">{_html_text(section.note)}</p>'] if section.note else []
    return "\n".join(parts)


def _html_image(caption, data):
    kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{_html_text(caption)}" src="{source}"></figure>'


def _html_table(section):
    styles = [' class="number"' if right else "" for right in _right_aligned(section)]

    def line(tag, row):
        cells = (f"<{tag}{style}>{_html_text(_cell(c))}</{tag}>" for style, c in zip(styles, row))
        return f"<tr>{''.join(cells)}</tr>"

    rows = "\n".join(line("td", row) for row in section.rows)
    head = f"<thead>{line('th', section.header)}</thead>"
    return f'<div class="wide"><table>{head}\n<tbody>{rows}</tbody></table></div>'
