"""What a network costs, how well each of its exits answers, and why."""

from sd_keras.analysis.features import principal_components, separability
from sd_keras.analysis.gradient_sizes import gradient_magnitudes
from sd_keras.analysis.measures import costs, evaluate_exits, evaluate_logits
from sd_keras.analysis.perturbations import robustness, unit_ablation, weight_noise
from sd_keras.analysis.predictions import agreement, calibration_error, consistency, reliability
