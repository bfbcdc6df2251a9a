"""The tables and figures of "Be Your Own Teacher" (Zhang et al., ICCV 2019)."""

from reproduction.runs import Run
from reproduction.tables import Cell, Row, Table

BYOT = "be_your_own_teacher"
QUARTERS = ("1/4", "2/4", "3/4", "4/4", "ensemble")
EXITS = (1, 2, 3, "deepest", "ensemble")
MODELS = {
    "VGG19-BN": "vgg19_bn",
    "ResNet18": "resnet18",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "ResNeXt29-8": "resnext29_8x64d",
    "WRN20-8": "wide_resnet_20_8",
    "WRN44-8": "wide_resnet_44_8",
    "WRN28-12": "wide_resnet_28_12",
    "PyramidNet101-240": "pyramidnet101_240",
}
# Baseline, exits 1 to 4, ensemble.
CIFAR_100 = {
    "VGG19-BN": (64.47, 63.59, 67.04, 68.03, 67.73, 68.54),
    "ResNet18": (77.09, 67.85, 74.57, 78.23, 78.64, 79.67),
    "ResNet50": (77.68, 68.23, 74.21, 75.23, 80.56, 81.04),
    "ResNet101": (77.98, 69.45, 77.29, 81.17, 81.23, 82.03),
    "ResNet152": (79.21, 68.84, 78.72, 81.43, 81.61, 82.29),
    "ResNeXt29-8": (81.29, 71.15, 79.00, 81.48, 81.51, 81.90),
    "WRN20-8": (79.76, 68.85, 78.15, 80.98, 80.92, 81.38),
    "WRN44-8": (79.93, 72.54, 81.15, 81.96, 82.09, 82.61),
    "WRN28-12": (80.07, 71.21, 80.86, 81.58, 81.59, 82.09),
    "PyramidNet101-240": (81.12, 69.23, 78.15, 80.98, 82.30, 83.51),
}
IMAGENET = {
    "VGG19-BN": (70.35, 42.53, 55.85, 71.07, 72.45, 73.03),
    "ResNet18": (68.12, 41.26, 51.94, 62.29, 69.84, 68.93),
    "ResNet50": (73.56, 43.95, 58.47, 72.84, 75.24, 74.73),
}
# Teacher, student: knowledge distillation, FitNet, attention transfer, mutual learning, ours.
RIVALS = {
    ("ResNet152", "ResNet18"): (77.79, 78.21, 78.54, 77.54, 78.64),
    ("ResNet152", "ResNet50"): (79.33, 80.13, 79.35, 78.31, 80.56),
    ("WRN44-8", "WRN20-8"): (79.80, 80.48, 80.65, 79.91, 80.92),
    ("WRN44-8", "WRN28-12"): (80.95, 80.53, 81.46, 80.43, 81.58),
}
SUPERVISION = {
    "ResNet18": (67.23, 73.80, 77.75, 78.38, 79.27),
    "ResNet50": (67.87, 73.80, 74.54, 80.27, 80.67),
    "ResNet101": (68.17, 75.43, 80.98, 81.01, 81.72),
    "ResNet152": (67.60, 77.04, 81.06, 81.35, 81.83),
}
ACCELERATION = {
    "ResNet18": (3.11, 1.87, 1.30, 1, 0.93),
    "ResNet50": (4.64, 2.20, 1.23, 1, 0.93),
    "ResNet101": (9.00, 4.27, 1.11, 1, 0.96),
    "ResNet152": (13.36, 4.29, 1.07, 1, 0.98),
}
# SSE / SSB of the features of exits 1 to 4 of WRN28-12.
SEPARABILITY = (19.21, 7.54, 6.08, 5.73)


def cifar(network, method="baseline", **settings):
    """Returns the Run of a network by the paper's name for it, on CIFAR-100."""
    return Run("cifar100", MODELS[network], method, **settings)


def exits_of(run, figures, prefix="", against=(), measure="accuracy"):
    """Returns a cell for each exit and the ensemble; the last two are compared."""
    return tuple(
        Cell(f"{prefix}{label}", run, place, paper, measure, against if place in EXITS[3:] else ())
        for label, place, paper in zip(QUARTERS, EXITS, figures)
    )


def _table_1(network, options=()):
    base, *exits = CIFAR_100[network]
    own = cifar(network, BYOT, options=options)
    cells = (Cell("baseline", cifar(network), paper=base), *exits_of(own, exits, "", ("baseline",)))
    return Row(network + (" T=1" if options else ""), cells)


def _table_2(network):
    base, *exits = IMAGENET[network]
    runs = [
        Run("imagenet2012", MODELS[network], method, recipe="imagenet")
        for method in ("baseline", BYOT)
    ]
    cells = (Cell("baseline", runs[0], paper=base), *exits_of(runs[1], exits, "", ("baseline",)))
    return Row(network, cells)


def _table_3(teacher, student):
    taught = {"KD": "knowledge_distillation", "FitNet": "fitnet", "AT": "attention_transfer"}
    teaching, figures = cifar(teacher), RIVALS[teacher, student]
    cells = [Cell("baseline", cifar(student), paper=CIFAR_100[student][0])]
    cells += [
        Cell(label, cifar(student, method, teacher=teaching), paper=paper, against=("baseline",))
        for (label, method), paper in zip(taught.items(), figures)
    ]
    together = cifar(student, "deep_mutual_learning", peer=MODELS[teacher])
    cells.append(Cell("DML", together, paper=figures[3], against=("baseline",)))
    others = tuple(cell.label for cell in cells)
    own = Cell("self distillation 4/4", cifar(student, BYOT), paper=figures[4], against=others)
    return Row(f"{teacher} to {student}", (*cells, own))


def _table_4(network):
    supervised = exits_of(cifar(network, "deep_supervision"), SUPERVISION[network], "DSN ")
    own = []
    for cell in exits_of(cifar(network, BYOT), CIFAR_100[network][1:], "ours "):
        own.append(Cell(*_fields(cell), against=(cell.label.replace("ours", "DSN"),)))
    return Row(network, (*supervised, *own))


def _fields(cell):
    return cell.label, cell.run, cell.exit, cell.paper, cell.measure


def _table_5(network):
    return Row(
        network, exits_of(cifar(network, BYOT), ACCELERATION[network], "", (), "acceleration")
    )


def _figure_1(network="ResNet50"):
    teacher, own = cifar("ResNet152"), cifar(network, BYOT)
    taught = cifar(network, "knowledge_distillation", teacher=teacher)
    cells = (
        Cell("distillation, hours with the teacher's", taught, paper=26.98, measure="all_hours"),
        Cell("self distillation, hours", own, paper=5.87, measure="hours"),
        Cell("distillation", taught, paper=79.33),
        Cell("self distillation 4/4", own, paper=80.56, against=("distillation",)),
        Cell("self distillation, ensemble", own, "ensemble", 81.04, against=("distillation",)),
    )
    return Row(network, cells)


_WITH = "test accuracy, deepest exit, with self distillation"
_WITHOUT = "test accuracy without"


def _analysed(network, words, figures=()):
    plain, own = cifar(network), cifar(network, BYOT)
    cells = [Cell(_WITH, own), Cell(_WITHOUT, plain)]
    cells += [
        Cell(f"SSE/SSB {label}", own, place, paper, "separability")
        for label, place, paper in zip(QUARTERS, EXITS, figures)
    ]
    beside = _WITHOUT if words in ("noise", "gradients") else None
    kept = [cell for cell in cells if beside or cell.label != _WITHOUT]
    return Row(network, tuple(kept), ((words, _WITH, beside),))


ANALYSIS = (
    "Measured by apps/analyze.py on the finished runs; its pictures and CSV files are listed."
)
TABLES = {
    "byot/1": Table(
        "Top-1 accuracy on CIFAR-100 (%)",
        (*map(_table_1, CIFAR_100), *(_table_1(n, (("temperature", 1),)) for n in CIFAR_100)),
        "T = 3 as in the first author's code; T=1 is what the paper says is normal.",
    ),
    "byot/2": Table("Top-1 accuracy on ImageNet (%)", tuple(map(_table_2, IMAGENET))),
    "byot/3": Table(
        "Against distillation from a teacher, CIFAR-100 (%)",
        tuple(_table_3(*pair) for pair in RIVALS),
        "Of mutual learning the student counts; the network of the teacher is its peer.",
    ),
    "byot/4": Table("Against deep supervision, CIFAR-100 (%)", tuple(map(_table_4, SUPERVISION))),
    "byot/5": Table(
        "Acceleration of each exit",
        tuple(map(_table_5, ACCELERATION)),
        "Counted multiply-accumulates, nothing is trained. Times: apps/benchmark.py inference.",
    ),
    "byot/6": Table(
        "SSE/SSB of each exit's features", (_analysed("WRN28-12", "separability", SEPARABILITY),)
    ),
    "byot/figure1": Table("Hours of training and accuracy, CIFAR-100", (_figure_1(),)),
    "byot/figure4": Table("Noise on the weights", (_analysed("ResNet18", "noise"),), ANALYSIS),
    "byot/figure5": Table("Gradients by layer", (_analysed("ResNet18", "gradients"),), ANALYSIS),
    "byot/figure6": Table("Principal components", (_analysed("WRN28-12", "components"),), ANALYSIS),
}
