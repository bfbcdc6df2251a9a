"""The methods of the two papers, and the baselines that are fair to them."""

from sd_keras.methods.method import Method, rest_of
from sd_keras.objectives import (
    ExitHint,
    ExitKL,
    ViewCORAL,
    ViewKL,
    ViewMMD,
    ViewMultiKernelMMD,
    ViewTopKMMD,
)

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
