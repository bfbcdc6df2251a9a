"""What a trained network answers: its exits together, or the first that is confident enough."""

from sd_keras.inference.curves import Curve, curve, path_costs
from sd_keras.inference.early_exit import Anytime, EarlyExit
from sd_keras.inference.ensemble import (
    ensemble_logits,
    fit_ensemble_weights,
    fit_temperature,
    fit_temperatures,
)
from sd_keras.inference.policy import RULES, Outcome, Policy, confidences, decide, measure
from sd_keras.inference.thresholds import choose_thresholds

__all__ = [
    "RULES",
    "Anytime",
    "Curve",
    "EarlyExit",
    "Outcome",
    "Policy",
    "choose_thresholds",
    "confidences",
    "curve",
    "decide",
    "ensemble_logits",
    "fit_ensemble_weights",
    "fit_temperature",
    "fit_temperatures",
    "measure",
    "path_costs",
]
