"""The model that trains a network by self-distillation."""

from sd_keras.callbacks import DivergenceError, LossBlowUpError, NonFiniteLossError
from sd_keras.trainer.self_distill import SelfDistillModel

__all__ = ["DivergenceError", "LossBlowUpError", "NonFiniteLossError", "SelfDistillModel"]
