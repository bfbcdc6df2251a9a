"""Tables of this project's own: ablations, cheap rivals, the papers' future work."""

from reproduction.byot import BYOT, EXITS, QUARTERS, cifar
from reproduction.ddgsd import DDGSD
from reproduction.tables import Cell, Row, Table

NETWORK = "ResNet18"
STRONGER = ("affine", "perspective", "thin_plate_spline", "color")


def _byot_ablation(network=NETWORK):
    """What each term of BYOT does; cells of the deepest exit and of the ensemble.

    With a hint weight of 0 only the KL is left, with α = 0 only the hint, the label weights
    going with α as in equation 5.
    """
    runs = {
        "deep supervision": cifar(network, "deep_supervision"),
        "+ KL": cifar(network, BYOT, options=(("hint_weight", 0),)),
        "+ hint": cifar(network, BYOT, options=(("alpha", 0),)),
        "BYOT": cifar(network, BYOT),
    }
    cells = [Cell("plain", cifar(network))]
    for name, run in runs.items():
        fair = ("deep supervision {}",) if name != "deep supervision" else ()
        for label, place in zip(QUARTERS, EXITS):
            against = ("plain",) if place in EXITS[3:] else ()
            against += tuple(each.format(label) for each in fair)
            cells.append(Cell(f"{name} {label}", run, place, against=against))
    return Row(network, tuple(cells))


def _rivals(network=NETWORK):
    plain = ("plain",)
    single = {
        "label smoothing": ("label_smoothing", ()),
        "mixup": ("baseline", (("mixup", 1),)),
        "CutMix": ("baseline", (("cutmix", 1),)),
        "teacher-free": ("teacher_free", ()),
        "CS-KD": ("class_wise", ()),
        "PS-KD": ("progressive", ()),
    }
    cells = [Cell("plain", cifar(network))]
    cells += [
        Cell(label, cifar(network, method, options=options), against=plain)
        for label, (method, options) in single.items()
    ]
    cells += [
        Cell("BYOT 4/4", cifar(network, BYOT), against=plain),
        Cell("BYOT ensemble", cifar(network, BYOT), "ensemble", against=plain),
        Cell("two-branch", cifar(network, "two_branch"), against=plain),
        Cell("DDGSD", cifar(network, DDGSD), against=("plain", "two-branch")),
    ]
    return Row(network, tuple(cells))


def _future(network=NETWORK):
    """BYOT with schedules, DDGSD with other views and discrepancies."""
    both = f"{BYOT}+{DDGSD}"
    changed = {
        "BYOT, α and λ ramped": (BYOT, (("ramp", 0.3),)),
        "BYOT, deepest exit last": (BYOT, (("deepest_last", 0.1),)),
        "BYOT, alternating": (BYOT, (("alternating", 1),)),
        "BYOT, balanced gradients": (BYOT, (("balanced", 1),)),
        "BYOT, with mixup": (BYOT, (("mixup", 1),)),
        **{f"DDGSD, {name}": (DDGSD, (("distortion", name),)) for name in STRONGER},
        "DDGSD, multi-kernel MMD": (DDGSD, (("discrepancy", "multi_kernel"),)),
        "DDGSD, CORAL": (DDGSD, (("discrepancy", "coral"),)),
        "DDGSD, top-k features": (DDGSD, (("discrepancy", "top_k"),)),
        "DDGSD, adversarial view": (DDGSD, (("adversarial", 2),)),
        "BYOT and DDGSD": (both, ()),
    }
    cells = [
        Cell("plain", cifar(network)),
        Cell("BYOT", cifar(network, BYOT), against=("plain",)),
        Cell("two-branch", cifar(network, "two_branch"), against=("plain",)),
        Cell("DDGSD", cifar(network, DDGSD), against=("plain", "two-branch")),
    ]
    for label, (method, options) in changed.items():
        against = ("BYOT", "DDGSD") if method == both else (label.partition(",")[0],)
        cells.append(Cell(label, cifar(network, method, options=options), against=against))
    return Row(network, tuple(cells))


TABLES = {
    "byot/ablation": Table(
        "What each term of BYOT does, CIFAR-100 (%)",
        (_byot_ablation(),),
        "+ KL is BYOT without hint, + hint is BYOT with α = 0; deep supervision is neither.",
    ),
    "rivals": Table(
        "Cheap rivals by one recipe, CIFAR-100 (%)",
        (_rivals(),),
        "Every run has BYOT's recipe; DDGSD forwards each image twice, as two-branch does.",
    ),
    "future": Table(
        "The papers' future work, CIFAR-100 (%)",
        (_future(),),
        "deepest exit last: the last tenth of the epochs; ramped: over the first 0.3.",
    ),
}
