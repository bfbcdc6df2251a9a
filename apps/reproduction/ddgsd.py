"""The tables of "Data-Distortion Guided Self-Distillation" (Xu & Liu, AAAI 2019).

The paper's numbers 1 and 6 are certain; 2 to 5 are this project's order of its other tables.
"""

from reproduction.runs import Run
from reproduction.tables import Cell, Row, Table

DDGSD = "data_distortion"
# Paper's name: ours, recipe, error on CIFAR-10 and CIFAR-100, each plain and self-distilled.
NETWORKS = {
    "ResNet-32": ("resnet32", "ddgsd", (7.22, 6.32), (31.01, 28.22)),
    "ResNet-110": ("resnet110", "ddgsd", (6.00, 5.57), (26.79, 25.04)),
    "pre-act ResNet-18": ("preact_resnet18", "ddgsd", (5.15, 4.83), (23.45, 21.47)),
    "pre-act ResNet-34": ("preact_resnet34", "ddgsd", (4.90, 4.42), (22.68, 20.75)),
    "WRN-40-4": ("wide_resnet_40_4", "ddgsd_wide", (4.53, 4.30), (21.18, 19.93)),
    "WRN-16-8": ("wide_resnet_16_8", "ddgsd_wide", (4.27, 3.92), (20.43, 19.33)),
    "WRN-28-10": ("wide_resnet_28_10", "ddgsd_wide", (4.00, 3.78), (19.25, 18.54)),
    "DenseNet-40": ("densenet40", "ddgsd_dense", (5.47, 5.20), (25.20, 23.68)),
    "DenseNet-100": ("densenet100", "ddgsd_dense", (4.45, 4.34), (21.58, 20.50)),
}
# Top-1 and top-5 error, each plain and self-distilled.
IMAGENET = {
    "AlexNet": ("alexnet", (42.80, 42.04), (19.98, 19.05)),
    "ResNet-18": ("resnet18", (32.27, 31.34), (12.13, 11.30)),
}
# Baseline, two branches, + MMD, + KL, both.
ABLATION = {
    "ResNet-32": (31.01, 31.32, 30.62, 29.06, 28.22),
    "WRN-16-8": (20.43, 20.25, 19.98, 19.48, 19.33),
}
# Weight of the MMD: error. The paper says of 10 only that it degrades.
WEIGHTS = {
    "0": 29.06,
    **{"1e-4": 28.79, "5e-4": 28.22, "1e-3": 28.81, "5e-3": 28.88, "1e-2": 28.54},
    "10": None,
}
DEFAULT_WEIGHT = 5e-4


def cifar(network, method="baseline", dataset="cifar100", **settings):
    """Returns the Run of a network by the paper's name for it."""
    model, recipe, *_ = NETWORKS[network]
    return Run(dataset, model, method, recipe=recipe, **settings)


def error(label, run, paper, *against):
    """Returns a cell of errors."""
    return Cell(label, run, paper=paper, measure="error", against=against)


def two_branch(network, dataset="cifar100"):
    """Returns a cell of two branches alone, of which the paper says something in table 6 only."""
    paper = ABLATION[network][1] if dataset == "cifar100" and network in ABLATION else None
    return error("two-branch", cifar(network, "two_branch", dataset), paper)


def _table_1(network="ResNet-32"):
    large = "wide_resnet_28_10"
    # The teacher has its own recipe; student and peer train together by the student's.
    taught = cifar(network, "knowledge_distillation", teacher=cifar("WRN-28-10"))
    cells = [
        error("independent", cifar(network), 31.01),
        error("teacher to student, WRN-28-10", taught, 30.52, "independent"),
    ]
    for name, peer, paper in (("WRN-28-10", large, 29.27), ("ResNet-32", "resnet32", 28.81)):
        run = cifar(network, "deep_mutual_learning", peer=peer)
        cells.append(error(f"student to student, {name}", run, paper, "independent"))
    cells.append(two_branch(network))
    others = [cell.label for cell in cells]
    return Row(network, (*cells, error("self-distillation", cifar(network, DDGSD), 28.22, *others)))


def _networks(dataset, network):
    # T is 3 by default, as on CIFAR-100.
    options = (("temperature", 2),) if dataset == "cifar10" else ()
    plain, own = NETWORKS[network][2 if dataset == "cifar10" else 3]
    return Row(
        network,
        (
            error("baseline", cifar(network, dataset=dataset), plain),
            two_branch(network, dataset),
            error(
                "self-distillation",
                cifar(network, DDGSD, dataset, options=options),
                own,
                *("baseline", "two-branch"),
            ),
        ),
    )


def _imagenet(network):
    model, top_1, top_5 = IMAGENET[network]
    named = {"baseline": "baseline", "two-branch": "two_branch", "self-distillation": DDGSD}
    cells = []
    for measure, (plain, own) in (("error", top_1), ("top_5_error", top_5)):
        word = "top-5" if measure == "top_5_error" else "top-1"
        labels = []
        for (name, method), paper in zip(named.items(), (plain, None, own)):
            run = Run("imagenet2012", model, method, recipe="imagenet")
            against = tuple(labels) if method == DDGSD else ()
            labels.append(f"{name}, {word}")
            cells.append(Cell(labels[-1], run, "deepest", paper, measure, against))
    return Row(network, tuple(cells))


def _weight(network="ResNet-32"):
    cells = []
    for word, paper in WEIGHTS.items():
        value = float(word)
        # The runs of table 6 are among these, by the same options.
        options = () if value == DEFAULT_WEIGHT else (("mmd_weight", value),)
        against = ("μ = 0",) if value else ()
        cells.append(error(f"μ = {word}", cifar(network, DDGSD, options=options), paper, *against))
    return Row(network, tuple(cells))


def _ablation(network, figures):
    names = ("baseline", "two-branch", "+ MMD", "+ KL", "both")
    runs = (
        cifar(network),
        cifar(network, "two_branch"),
        cifar(network, DDGSD, options=(("kl_weight", 0),)),
        cifar(network, DDGSD, options=(("mmd_weight", 0),)),
        cifar(network, DDGSD),
    )
    # Two branches see as many images a step as what has terms between views.
    against = ((), names[:1], names[1:2], names[1:2], names[:2])
    return Row(
        network, tuple(error(n, r, p, *a) for n, r, p, a in zip(names, runs, figures, against))
    )


ORDER = "The number of this table is this project's; only 1 and 6 are known to be the paper's."
_ABLATION = Table(
    "What each term does: error on CIFAR-100 (%)",
    tuple(_ablation(name, figures) for name, figures in ABLATION.items()),
)
TABLES = {
    "ddgsd/1": Table(
        "Ways to distil: error on CIFAR-100 (%)",
        (_table_1(),),
        "The paper says neither temperature nor weights of the first three.",
    ),
    "ddgsd/2": Table(
        "Error on CIFAR-10 (%)", tuple(_networks("cifar10", name) for name in NETWORKS), ORDER
    ),
    "ddgsd/3": Table(
        "Error on CIFAR-100 (%)", tuple(_networks("cifar100", name) for name in NETWORKS), ORDER
    ),
    "ddgsd/4": Table("Error on ImageNet (%)", tuple(map(_imagenet, IMAGENET)), ORDER),
    "ddgsd/5": Table("Weight of the MMD: error on CIFAR-100 (%)", (_weight(),), ORDER),
    "ddgsd/6": _ABLATION,
    "ddgsd/ablation": _ABLATION,
}
