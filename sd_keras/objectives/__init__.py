"""Objectives: which exits and which views are compared.

An objective is a `keras.losses.Loss` whose `call(labels, views)` takes a tuple with one dict
of network outputs per view and returns one value per example. Weights and temperatures are
numbers or schedules; `at(step)` returns a copy in which they are numbers of that step.
"""

from sd_keras.objectives.base import Objective, Softened
from sd_keras.objectives.companions import (
    AttentionTransfer,
    PastCrossEntropy,
    PeerKL,
    TeacherHint,
    TeacherKL,
)
from sd_keras.objectives.exits import (
    ExitHint,
    ExitKL,
    PartnerKL,
    UniformCrossEntropy,
    VirtualTeacherKL,
)
from sd_keras.objectives.views import ViewCORAL, ViewKL, ViewMMD, ViewMultiKernelMMD, ViewTopKMMD

__all__ = [
    "AttentionTransfer",
    "ExitHint",
    "ExitKL",
    "Objective",
    "PartnerKL",
    "PastCrossEntropy",
    "PeerKL",
    "Softened",
    "TeacherHint",
    "TeacherKL",
    "UniformCrossEntropy",
    "ViewCORAL",
    "ViewKL",
    "ViewMMD",
    "ViewMultiKernelMMD",
    "ViewTopKMMD",
    "VirtualTeacherKL",
]
