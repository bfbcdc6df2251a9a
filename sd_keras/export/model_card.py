"""The model card of an export: its inputs, costs, accuracy and early exit."""

from sd_keras import analysis, report
from sd_keras.models.exits import exit_names
from sd_keras.report import markdown_text


def card(network, model_name, content):
    """Returns the model card as a dict for JSON; `content` has arguments of `saved_model`."""
    policy, about = content["policy"], dict(content["about"])
    measured = about.pop("measured", None)
    try:
        costs = analysis.costs(network)
    except ValueError:  # a layer whose cost is unknown
        costs = None
    return {
        "name": model_name,
        "network": network.name,
        "image": {
            "shape": list(network.input_shape[1:]),
            "pixels": "raw uint8, 0…255; normalisation is part of the network",
            "encoded": content["preprocessing"],
            "max_pixels": content["max_pixels"],
        },
        "classes": len(content["class_names"]),
        "exits": exit_names(network),
        "costs": costs,
        "measured": measured,
        "early_exit": policy and policy.to_dict(),
        "temperatures": content["temperatures"],
        "ensemble_weights": content["ensemble_weights"] and list(content["ensemble_weights"]),
        "about": about,
        "versions": report.versions(),
    }


def as_markdown(card):
    """Returns the card as the text of a Markdown file; HTML in names and values is escaped."""
    image = card["image"]
    size = " x ".join(map(str, image["shape"]))
    lines = [
        f"# {markdown_text(card['name'])}",
        "",
        f"Classifies images of {size} pixels ({image['pixels']}) into {card['classes']} classes, "
        f"at {len(card['exits'])} depths. Encoded images: {_line(image['encoded'])}, at most "
        f"{image['max_pixels']} pixels.",
        "",
        *(f"- {markdown_text(name)}: {_line(value)}" for name, value in card["about"].items()),
        *([""] if card["about"] else []),
        *(_fenced(report.costs_table(card["costs"])) if card["costs"] else []),
    ]
    if card["measured"]:
        parts = card["measured"]
        parts = parts if "accuracy" not in next(iter(parts.values())) else {"measured": parts}
        for name, part in parts.items():
            lines += ["", f"## {markdown_text(name)}", "", *_fenced(report.measures_table(part))]
    lines += ["", "## Outputs", "", f"Temperatures: {_line(card['temperatures'])}"]
    if card["ensemble_weights"]:
        lines.append(f"Weights of the ensemble: {_line(card['ensemble_weights'])}")
    if card["early_exit"]:
        rule, thresholds = card["early_exit"]["rule"], card["early_exit"]["thresholds"]
        lines.append(f"Early exit by {rule}, thresholds: {_line(thresholds)}")
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return "\n".join([*lines, "", f"Made with {versions}.", ""])


def _fenced(text):
    return ["```", *map(markdown_text, text.split("\n")), "```"]


def _line(value):
    if isinstance(value, (list, tuple)):
        return ", ".join(_line(each) for each in value)
    text = "never" if value is None else f"{value:.4g}" if isinstance(value, float) else value
    return markdown_text(text)
