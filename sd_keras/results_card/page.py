"""A results card as Markdown, with its tables, and as one HTML file, with its plots too."""

from sd_keras import report
from sd_keras.report import Section
from sd_keras.results_card import plots
from sd_keras.results_card.plots import NAMES

EXITS = (
    "MACs and parameters of an exit exclude the heads of shallower exits; acceleration is the "
    "deepest exit's MACs divided by these. The calibration error has equally wide bins; the "
    "calibrated one is that of logits divided by the temperature. A temperature at its bound of "
    "0.05 or 20 was not found: too few predictions on the validation images are wrong, or right."
)
TIMES = "Milliseconds of a call, the median of calls that took turns."
EARLY_EXIT = (
    "The drop is paired, against the deepest exit, with its standard error. Rows that promise "
    "nothing took the thresholds that kept the drop on the validation images themselves. MACs "
    "and time of an image include the heads of all exits that it passed. The plot: share of the "
    "test images that leave at each exit."
)
CURVE = (
    "The dashed line is early exit: policies that were the best on the validation images, "
    "measured on the test images."
)
RELIABILITY = (
    "Bars: accuracy by confidence, as the network outputs it; circles: after the temperature. On "
    "the diagonal the confidence equals the accuracy; fainter bars and smaller circles hold fewer "
    "images."
)


def as_markdown(card):
    """Returns the card as the text of a Markdown file.

    Args:
        card: dict of `figures`, to which these may be added: `title`; `about`, a dict of texts
            for the head; `latency`, of `keras_latencies` and its like.
    """
    return report.markdown_page(_title(card), facts(card), sections(card))


def as_html(card):
    """Returns the card as the text of an HTML file that loads nothing.

    Without matplotlib the plots are left out, and the page says so.

    Args:
        card: as in `as_markdown`.
    """
    parts = sections(card)
    if plots.has_plots():
        parts = _with_plots(card, parts)
    else:
        parts.append(Section("No plots", note=f"Only the tables are shown: {plots.MISSING}."))
    return report.html_page(_title(card), facts(card), parts)


def _title(card):
    return card.get("title") or card["network"]


def facts(card):
    """Returns the dict of texts in the head of the card."""
    images = card["images"]
    about = {key: v for key, v in card.get("about", {}).items() if v not in (None, "")}
    about["measured on"] = (
        f"{images['test']} test images; temperatures and thresholds were fitted on "
        f"{images['validation']} validation images"
    )
    return about | ({"latency of": card["latency"]["source"]} if card.get("latency") else {})


def sections(card):
    """Returns the sections of the card that have tables."""
    parts = [Section("Exits", *exits_table(card), EXITS)]
    if card.get("latency"):
        parts.append(Section("Times", *times_table(card), TIMES))
    if card["early_exit"]:
        title = f"Early exit by {card['early_exit']['rule']}"
        parts.append(Section(title, *points_table(card), EARLY_EXIT))
    return parts


def _with_plots(card, parts):
    """Returns the sections with plots added."""
    early = card["early_exit"]
    accuracies = plots.accuracy_by_cost(_accuracy_panels(card))
    images = [("Accuracy against cost", plots.svg(accuracies))]
    costs = Section("Accuracy against cost", note=CURVE if early else "", images=images)
    if early:
        shares = {_point_label(point): point["shares"] for point in early["points"]}
        parts[-1].images = [("Shares of the exits", plots.svg(plots.exit_shares(shares)))]
        parts.insert(-1, costs)
    else:
        parts.append(costs)
    kinds = [
        {name: bins for name, bins in card["reliability"][kind].items() if name in rows_of(card)}
        for kind in ("measured", "calibrated")
    ]
    images = [("Reliability diagrams", plots.svg(plots.reliability_diagrams(*kinds)))]
    return [*parts, Section("Reliability", note=RELIABILITY, images=images)]


def _accuracy_panels(card):
    """Returns the arguments of `plots.accuracy_by_cost`: by multiply-accumulates, and by time."""
    early, latency = card["early_exit"], card.get("latency")
    accuracy = {name: 100 * value_of(card, "measured", name)["accuracy"] for name in rows_of(card)}
    points = {n: (value_of(card, "costs", n)["macs"] / 1e6, accuracy[n]) for n in rows_of(card)}
    accuracies = early and [100 * share for share in early["curve"]["accuracy"]]
    curve = early and ([cost / 1e6 for cost in early["curve"]["cost"]], accuracies)
    panels = [("multiply-accumulates (M)", points, curve)]
    if latency:
        size, *_ = next(iter(latency["milliseconds"].values()))
        times = latency["milliseconds"]
        points = {n: (times[n][size], accuracy[n]) for n in rows_of(card) if n in times}
        curve = None
        if early and latency["path"] and size == "1":
            shares = early["curve"]["shares"]
            curve = [milliseconds(latency["path"], each) for each in shares], accuracies
        panels.append((f"milliseconds, batch {size}", points, curve))
    return panels


def exits_table(card):
    """Returns header and rows of what each exit reaches and costs."""
    header = ["exit", "accuracy (%)", "top-5 (%)", "cross entropy"]
    header += ["calibration error (%)", "calibrated error (%)", "temperature"]
    header += ["MACs (M)", "parameters", "acceleration"]
    deepest = card["costs"][card["exits"][-1]]["macs"]
    rows = []
    for name in rows_of(card):
        cost, measured = value_of(card, "costs", name), value_of(card, "measured", name)
        calibrated, temperature = card["calibrated"].get(name), card["temperatures"].get(name)
        rows.append(
            [
                _label(card, name),
                _percent(measured["accuracy"]),
                _percent(measured["top_5"]),
                f"{measured['cross_entropy']:.4f}",
                _percent(measured["calibration_error"]),
                calibrated and _percent(calibrated["calibration_error"]),
                temperature and f"{temperature:.3g}",
                f"{cost['macs'] / 1e6:.2f}",
                f"{cost['parameters']:,}",
                f"{deepest / cost['macs']:.2f}" if cost["macs"] else None,
            ]
        )
    return header, rows


def times_table(card):
    """Returns header and rows of the times of a call, in milliseconds."""
    times = card["latency"]["milliseconds"]
    sizes = list(next(iter(times.values())))
    header = ["exit", *(f"ms, batch {size}" for size in sizes)]
    names = [name for name in rows_of(card) if name in times]
    return header, [[_label(card, n), *(_time(times[n][size]) for size in sizes)] for n in names]


def points_table(card):
    """Returns header and rows of what early exit comes to on the test images."""
    path = (card.get("latency") or {}).get("path")
    header = ["drop asked for (%)", "promise kept", "accuracy (%)", "drop (%)", "MACs (M)"]
    header += ["acceleration", *(["ms, batch 1"] if path else [])]
    header += [f"{name} (%)" for name in card["exits"]]
    plain = card["costs"][card["exits"][-1]]["macs"]
    rows = []
    for point in card["early_exit"]["points"]:
        level, drop = point["confidence_level"], point["max_drop"]
        promise = f"{100 * level:g} of 100 times" if level else "not promised"
        rows.append(
            [
                "policy" if drop is None else f"{100 * drop:g}",
                None if drop is None else promise,
                _percent(point["accuracy"]),
                f"{_percent(point['drop'])} ± {_percent(point['drop_standard_error'])}",
                f"{point['cost'] / 1e6:.2f}",
                f"{plain / point['cost']:.2f}" if point["cost"] else None,
                *([_time(milliseconds(path, point["shares"]))] if path else []),
                *(f"{100 * share:.1f}" for share in point["shares"]),
            ]
        )
    return header, rows


def _point_label(point):
    if point["max_drop"] is None:
        return "policy"
    promise = "promised" if point["confidence_level"] else "not promised"
    return f"drop {100 * point['max_drop']:g} %, {promise}"


def rows_of(card):
    """Returns the names of the rows: exits, the ensemble of several, the plain baseline."""
    names = list(card["exits"])
    names += ["ensemble"] if len(names) > 1 else []
    return names + (["baseline"] if card["baseline"] else [])


def value_of(card, key, name):
    """Returns `costs` or `measured` of an exit, the ensemble or the baseline."""
    return card["baseline"][key] if name == "baseline" else card[key][name]


def milliseconds(path, shares):
    """Returns the average time of an image, from the time and the share of each exit."""
    return sum(time * share for time, share in zip(path, shares))


def _percent(share):
    return f"{100 * share:.2f}"


def _time(value):
    return f"{value:.2f}" if value >= 0.5 else f"{value:.3f}"


def _label(card, name):
    is_deepest = name == card["exits"][-1] and name != "exit_1"
    return f"{name} (deepest)" if is_deepest else NAMES.get(name, name)
