"""The methods: those of the two papers, and what to compare them with."""

import numbers

from sd_keras.methods.method import Complement, Method, rest_of
from sd_keras.objectives import (
    AttentionTransfer,
    ExitHint,
    ExitKL,
    PartnerKL,
    PastCrossEntropy,
    PeerKL,
    TeacherHint,
    TeacherKL,
    UniformCrossEntropy,
    ViewCORAL,
    ViewKL,
    ViewMMD,
    ViewMultiKernelMMD,
    ViewTopKMMD,
    VirtualTeacherKL,
)
from sd_keras.schedules import Switch, WarmUp

# What `data_distortion` compares the views' features by.
DISCREPANCIES = {
    "mmd": ViewMMD,
    "multi_kernel": ViewMultiKernelMMD,
    "coral": ViewCORAL,
    "top_k": ViewTopKMMD,
}


def baseline():
    """Label cross entropy at the deepest exit on one view: the plain network."""
    return Method("baseline")


def two_branch():
    """Label cross entropy at the deepest exit on two views, CE_a + CE_b (DDGSD table 6).

    The fair baseline of `data_distortion`: it sees as many images a step.
    """
    return Method("two_branch", num_views=2)


def deep_supervision(label_weight=1.0):
    """Label cross entropy at every exit (Lee et al. 2015; BYOT table 4).

    The fair baseline of `be_your_own_teacher`.

    Args:
        label_weight: of the shallow exits; a number or a schedule.
    """
    return Method("deep_supervision", shallow_label_weight=label_weight)


def be_your_own_teacher(alpha=0.5, hint_weight=6.4e-5, temperature=3.0, scaling="T2"):
    """Every exit learns from labels, deepest probabilities and deepest features (BYOT eq. 5).

        Σ_i (1 − α) CE(q_i, y) + α KL(q_C ‖ q_i) + λ ‖F_i − F_C‖²;  α = λ = 0 at the deepest

    Args:
        alpha: α, a number in 0…1 or a schedule.
        hint_weight: λ on the squared distance per example; a number or a schedule.
        temperature: T of the KL; the first author's code has 3, the paper says "normally 1".
        scaling: factor of the KL, `"none"`, `"T"` or `"T2"`.
    """
    label_weight = rest_of("alpha", alpha)
    objectives = (ExitKL(alpha, temperature, scaling), ExitHint(hint_weight))
    return Method("be_your_own_teacher", objectives, shallow_label_weight=label_weight)


def data_distortion(
    kl_weight=1.0,
    mmd_weight=None,
    temperature=3.0,
    scaling="none",
    exits="deepest",
    kl_only=False,
    mmd_only=False,
    discrepancy="mmd",
):
    """Two views are made consistent by symmetric KL and MMD (DDGSD eq. 5).

        CE_a + CE_b + λ (KL(p_b ‖ p_a) + KL(p_a ‖ p_b)) + μ MMD

    Args:
        kl_weight: λ, a number or a schedule.
        mmd_weight: μ, a number or a schedule; the paper's range is 1e-4 … 5e-4. None takes
            5e-4, or the default weight of another discrepancy.
        temperature: T of the KL: 3 for CIFAR-100 and ImageNet, 2 for CIFAR-10.
        scaling: factor of the KL, `"none"` (the paper), `"T"` or `"T2"`.
        exits: `"deepest"`, or `"all"` to compare the views at every exit.
        kl_only, mmd_only: leave the other term out (the rows of DDGSD table 6).
        discrepancy: `"mmd"` (the paper), `"multi_kernel"`, `"coral"` or `"top_k"`.
    """
    if kl_only and mmd_only:
        raise ValueError(
            "`kl_only` and `mmd_only` exclude each other; with neither term use two_branch(). "
            "Received: kl_only=True, mmd_only=True"
        )
    if discrepancy not in DISCREPANCIES:
        raise ValueError(
            f"`discrepancy` must be one of {sorted(DISCREPANCIES)}. "
            f"Received: discrepancy={discrepancy!r}"
        )
    weights = {} if mmd_weight is None else {"weight": mmd_weight}
    between_features = DISCREPANCIES[discrepancy](exits=exits, **weights)
    objectives = [] if mmd_only else [ViewKL(kl_weight, temperature, scaling, exits)]
    if not kl_only:
        objectives.append(between_features)
    return Method("data_distortion", tuple(objectives), num_views=2)


def knowledge_distillation(alpha=0.9, temperature=4.0, scaling="T2"):
    """(1 − α) CE + α T² KL(p_teacher ‖ p) (Hinton et al. 2015, section 2). Needs `teacher`.

    Args:
        alpha: α, a number in 0…1 or a schedule. The paper leaves it open.
        temperature: T of both networks.
        scaling: factor of the KL, `"none"`, `"T"` or `"T2"` (the paper).
    """
    label_weight = rest_of("alpha", alpha)
    objectives = (TeacherKL(alpha, temperature, scaling),)
    return Method("knowledge_distillation", objectives, label_weight=label_weight)


def fitnet(hint_weight=10.0, alpha=0.0, temperature=4.0, scaling="T2", hint_steps=None):
    """Hints from the middle of a teacher by a learned regressor (Romero et al. 2015, eq. 3-4).

    Needs `teacher`. The paper has two stages: hints alone, then knowledge distillation. By
    default both come together, as most comparisons have it.

    Args:
        hint_weight: of the hint; a number or a schedule. At a learning rate of 0.1 the
            regressor of narrow networks diverges from some tens on.
        alpha: share of knowledge distillation in the rest, as `knowledge_distillation`; 0 for
            labels alone.
        temperature, scaling: as `knowledge_distillation`.
        hint_steps: steps of the first stage; None for both at once.
    """
    label_weight = rest_of("alpha", alpha)
    has_teacher_answers = callable(alpha) or alpha > 0
    if hint_steps is not None:
        hint_weight = Switch(hint_weight, 0.0, hint_steps)
        alpha, label_weight = Switch(0.0, alpha, hint_steps), Switch(0.0, label_weight, hint_steps)
    objectives = (TeacherHint(hint_weight),)
    if has_teacher_answers:
        objectives += (TeacherKL(alpha, temperature, scaling),)
    return Method("fitnet", objectives, label_weight=label_weight)


def attention_transfer(weight=1000.0):
    """CE + β/2 Σ_j ‖Q_j/‖Q_j‖ − Q_j^T/‖Q_j^T‖‖² (Zagoruyko & Komodakis 2017, eq. 2).

    Needs `teacher`.

    Args:
        weight: β, a number or a schedule.
    """
    return Method("attention_transfer", (AttentionTransfer(weight),))


def deep_mutual_learning(weight=1.0, temperature=1.0, scaling="T2"):
    """Two networks teach each other, CE + KL(p_peer ‖ p) for each (Zhang et al. 2018).

    Needs `peer`. The "student-to-student" row of DDGSD table 1.

    Args:
        weight: of both KLs, a number or a schedule.
        temperature: T; the paper has 1.
        scaling: factor of the KLs, `"none"`, `"T"` or `"T2"`.
    """
    return Method("deep_mutual_learning", (PeerKL(weight, temperature, scaling),))


def label_smoothing(epsilon=0.1):
    """(1 − ε) CE + ε CE with even probabilities (Szegedy et al. 2016, section 7).

    At the deepest exit; `compile(loss=…)` smooths the labels of all exits.

    Args:
        epsilon: ε, a number in 0…1 or a schedule.
    """
    label_weight = rest_of("epsilon", epsilon)
    return Method("label_smoothing", (UniformCrossEntropy(epsilon),), label_weight=label_weight)


def teacher_free(alpha=0.1, temperature=20.0, correct_probability=0.99, scaling="T2"):
    """(1 − α) CE + α KL(p_virtual ‖ p) (Yuan et al. 2020, Tf-KD_reg).

    Args:
        alpha: α, a number in 0…1 or a schedule.
        temperature: of both.
        correct_probability: of the right class in the virtual teacher.
        scaling: factor of the KL, `"none"`, `"T"` or `"T2"`.
    """
    label_weight = rest_of("alpha", alpha)
    objectives = (VirtualTeacherKL(alpha, correct_probability, temperature, scaling),)
    return Method("teacher_free", objectives, label_weight=label_weight)


def class_wise(weight=1.0, temperature=4.0, scaling="T2"):
    """CE + λ T² KL(p_partner ‖ p), the partner of the same class (Yun et al. 2020, CS-KD).

    Needs data of pairs, `sd_keras.data.SameClassPairs`; labels teach the first of each.

    Args:
        weight: λ, a number or a schedule.
        temperature: T.
        scaling: factor of the KL, `"none"`, `"T"` or `"T2"` (the paper).
    """
    objectives = (PartnerKL(weight, temperature, scaling),)
    return Method("class_wise", objectives, num_views=2, labelled_views=1)


def progressive(steps=None, share=0.8):
    """(1 − α_t) CE + α_t CE with the answers of the epoch before (Kim et al. 2021, PS-KD).

    α_t grows evenly from 0 to `share`; by step, where the paper has one value an epoch. The
    network's past is a copy of it that `fit` renews at the end of each epoch.

    Args:
        steps: of the whole training.
        share: α at its end; the paper has 0.8.
    """
    if not isinstance(steps, numbers.Integral) or steps < 1:
        raise ValueError(
            "`steps` of progressive must be the number of steps of the whole training, at least 1. "
            f"Received: steps={steps!r}"
        )
    rest_of("share", share)
    alpha = WarmUp(share, steps)
    return Method("progressive", (PastCrossEntropy(alpha),), label_weight=Complement(alpha))
