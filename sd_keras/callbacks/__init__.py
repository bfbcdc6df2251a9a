"""Callbacks of `fit`: backups from which a run resumes, and what is raised when it diverges."""

from sd_keras.callbacks.backup import PREEMPTED, Backup
from sd_keras.callbacks.divergence import DivergenceError, LossBlowUpError, NonFiniteLossError

__all__ = ["PREEMPTED", "Backup", "DivergenceError", "LossBlowUpError", "NonFiniteLossError"]
