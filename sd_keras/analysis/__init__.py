"""What a network costs, how well each of its exits answers, and why."""

from sd_keras.analysis.ablation import unit_ablation
from sd_keras.analysis.agreeing import agreement
from sd_keras.analysis.calibration import calibration_error, reliability
from sd_keras.analysis.components import principal_components
from sd_keras.analysis.consistent import consistency
from sd_keras.analysis.exit_costs import costs
from sd_keras.analysis.gradient_sizes import gradient_magnitudes
from sd_keras.analysis.measures import evaluate_exits, evaluate_logits
from sd_keras.analysis.noise import weight_noise
from sd_keras.analysis.robust import robustness
from sd_keras.analysis.separation import separability

__all__ = [
    "agreement",
    "calibration_error",
    "consistency",
    "costs",
    "evaluate_exits",
    "evaluate_logits",
    "gradient_magnitudes",
    "principal_components",
    "reliability",
    "robustness",
    "separability",
    "unit_ablation",
    "weight_noise",
]
