"""The numbers of a results card: fitted on validation images, measured on test images."""

import dataclasses
import warnings

import numpy as np

from sd_keras import analysis, inference
from sd_keras.inference.compiled import predict
from sd_keras.inference.policy import measures
from sd_keras.models.exits import exit_names

MAX_DROPS = (0.0, 0.005, 0.01, 0.02)
MAX_POLICIES = 60  # of the curve, measured on the test images


def figures(network, validation, test, baseline=None, batch_size=256, bins=15, **options):
    """Measures a network for its results card, on the test images.

    Args:
        network: made by `attach_exits`.
        validation, test: pairs `(images, labels)`, raw pixels `(n, h, w, c)` and class numbers.
        baseline: None, or a network trained plainly, whose deepest exit is measured.
        batch_size, bins: as in `analysis.evaluate_exits`.
        options: arguments of `early_exit` by name.

    Returns:
        A dict for JSON: `exits`, their names; `images`, numbers of them; `costs`, of
        `analysis.costs`; `measured`, of `analysis.evaluate_exits`, and `calibrated`, the same
        with logits divided by `temperatures`; `reliability` of both, see `reliability`;
        `early_exit`, see there, None for one exit; `baseline`, None or `costs` and `measured`.

    Raises:
        ValueError: for images or labels that do not fit, or a split without images.
    """
    for name, part in (("validation", validation), ("test", test)):
        if part is None or not len(part[0]):
            raise ValueError(f"`{name}` must hold images. Received: {name} without images")
    names = exit_names(network)
    validation_logits, logits = (_logits(network, x, batch_size) for x, _ in (validation, test))
    temperatures = _temperatures(validation_logits, validation[1])
    stages = {"measured": logits}
    stages["calibrated"] = {name: logits[name] / temperatures[name] for name in names}
    splits = ((validation_logits, validation[1]), (logits, test[1]))
    costs = inference.path_costs(network)
    return {
        **{"network": network.name, "exits": names, "bins": bins, "temperatures": temperatures},
        "images": {"validation": len(validation[0]), "test": len(test[0])},
        "costs": analysis.costs(network),
        **{key: analysis.evaluate_logits(z, test[1], bins) for key, z in stages.items()},
        "reliability": {key: reliability(z, test[1], bins) for key, z in stages.items()},
        "early_exit": early_exit(*splits, costs, **options) if len(names) > 1 else None,
        "baseline": baseline and _baseline(baseline, test, batch_size, bins),
    }


def _logits(network, images, batch_size):
    outputs = predict(network, images, batch_size)
    return {name: outputs[name] for name in exit_names(network)}


def _temperatures(logits, labels):
    with warnings.catch_warnings():
        # The card shows the temperature, also where it is at its bound.
        warnings.filterwarnings("ignore", "the temperature is at its bound")
        return dict(zip(logits, inference.fit_temperatures(logits, labels)))


def _baseline(network, test, batch_size, bins):
    deepest = exit_names(network)[-1]
    measured = analysis.evaluate_exits(network, *test, batch_size, bins)
    return {"costs": analysis.costs(network)[deepest], "measured": measured[deepest]}


def reliability(logits, labels, bins=15):
    """Returns `analysis.reliability` as lists, for JSON.

    Args:
        logits: `{"exit_1": (n, classes), …}`.
        labels: class numbers `(n,)`.
        bins: number of bins.

    Returns:
        A dict from the exits and `ensemble` to a dict of lists with one entry per bin:
        `share` of the images, and their mean `confidence` and `accuracy`, None in empty bins.
    """
    diagrams = {}
    for name, values in analysis.reliability(logits, labels, bins).items():
        count = values["count"]
        diagrams[name] = {"share": (count / count.sum()).tolist()}
        for key in ("confidence", "accuracy"):
            diagrams[name][key] = [v if c else None for v, c in zip(values[key].tolist(), count)]
    return diagrams


def early_exit(
    validation,
    test,
    costs,
    rule="max_probability",
    max_drops=MAX_DROPS,
    confidence_level=0.95,
    policy=None,
    seed=0,
):
    """Chooses thresholds on one set of logits and measures them on another.

    Args:
        validation, test: pairs `(logits, labels)`.
        costs: of `inference.path_costs`.
        rule, confidence_level, seed: as in `inference.choose_thresholds`.
        max_drops: accuracies below the deepest exit's for which thresholds are chosen.
        policy: None, or a `sd_keras.inference.Policy` to be measured too, as the first point.

    Returns:
        A dict: `rule`; `path_costs`; `curve`, lists `accuracy`, `cost` and `shares` of at most
        60 policies; `points`, dicts of `max_drop` (None for `policy`), `confidence_level`
        (None where thresholds are taken as they come out) and what `inference.Outcome` holds.
    """
    costs = list(costs.values())
    points = [] if policy is None else [_point(test, costs, policy, None, None)]
    for level in dict.fromkeys((confidence_level, None)):
        for drop in max_drops:
            choice = inference.choose_thresholds(
                *validation, costs, rule, max_drop=drop, confidence_level=level, seed=seed
            )
            points.append(_point(test, costs, choice.policy, drop, level))
    curve = _curve(validation, test, costs, rule)
    return {"rule": rule, "path_costs": costs, "curve": curve, "points": points}


def _curve(validation, test, costs, rule):
    """Measures policies, evenly spaced along the curve of one set, on another set."""
    swept = inference.curve(*validation, costs, rule)
    chosen = np.linspace(0, len(swept.cost) - 1, MAX_POLICIES).round().astype(int)
    policies = [swept.policy(index) for index in np.unique(chosen)]
    outcomes = list(measures(*test, costs, policies))
    return {key: [getattr(o, key) for o in outcomes] for key in ("accuracy", "cost", "shares")}


def _point(test, costs, policy, max_drop, confidence_level):
    outcome = dataclasses.asdict(inference.measure(*test, costs, policy))
    asked = {"max_drop": max_drop, "confidence_level": confidence_level}
    return asked | outcome | {"policy": policy.to_dict()}
