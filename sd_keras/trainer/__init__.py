"""The model that trains a network by self-distillation."""

from sd_keras.trainer.guards import NonFiniteLossError
from sd_keras.trainer.self_distill import SelfDistillModel

__all__ = ["NonFiniteLossError", "SelfDistillModel"]
