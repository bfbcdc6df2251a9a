"""Self-distillation for image classifiers on Keras 3."""

from sd_keras import processor as processor  # isort: split

from sd_keras import (
    adversary,
    analysis,
    corruptions,
    data,
    distortions,
    distribute,
    export,
    gradients,
    inference,
    layers,
    losses,
    methods,
    mixing,
    models,
    objectives,
    optimizers,
    recipes,
    results_card,
    schedules,
)
from sd_keras.callbacks import Backup
from sd_keras.models import attach_exits, exit_names, submodel
from sd_keras.trainer import (
    DivergenceError,
    LossBlowUpError,
    NonFiniteLossError,
    SelfDistillModel,
)
from sd_keras.version import __version__

__all__ = [
    "Backup",
    "DivergenceError",
    "LossBlowUpError",
    "NonFiniteLossError",
    "SelfDistillModel",
    "__version__",
    "adversary",
    "analysis",
    "attach_exits",
    "corruptions",
    "data",
    "distortions",
    "distribute",
    "exit_names",
    "export",
    "gradients",
    "inference",
    "layers",
    "losses",
    "methods",
    "mixing",
    "models",
    "objectives",
    "optimizers",
    "recipes",
    "results_card",
    "schedules",
    "submodel",
]
