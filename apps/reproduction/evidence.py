"""The table of this project's own evidence: what both papers claim, and what goes beyond them.

Its runs are those of the papers' tables. The first networks are the cheapest: they are carried
out first.
"""

from reproduction import byot, ddgsd
from reproduction.tables import Cell, Row, Table

NETWORK = "ResNet18"


def _supervised(network=NETWORK):
    """The first paper's claim: BYOT over deep supervision over the plain network."""
    base, *own = byot.CIFAR_100[network]
    supervised, taught = (byot.cifar(network, m) for m in ("deep_supervision", byot.BYOT))
    cells = [Cell("plain", byot.cifar(network), paper=base)]
    cells += _compared("deep supervision", supervised, byot.SUPERVISION[network])
    cells += _compared("BYOT", taught, own, beside="deep supervision")
    return Row(network, tuple(cells))


def _compared(name, run, figures, beside=None):
    """Returns cells of all exits: the last two against plain, all against another's."""
    cells = []
    for cell in byot.exits_of(run, figures, f"{name} ", ("plain",)):
        against = cell.against + ((cell.label.replace(name, beside),) if beside else ())
        cells.append(Cell(cell.label, run, cell.exit, cell.paper, against=against))
    return cells


def _distorted(network):
    """The second paper's claim, beside two branches that see as many images a step."""
    plain, own = ddgsd.NETWORKS[network][3]
    return Row(
        network,
        (
            ddgsd.error("plain", ddgsd.cifar(network), plain),
            ddgsd.two_branch(network),
            _own_error(network, own, "plain", "two-branch"),
        ),
    )


def _own_error(network, paper, *against):
    return ddgsd.error("DDGSD", ddgsd.cifar(network, ddgsd.DDGSD), paper, *against)


def _distorted_alone(network):
    """DDGSD and the plain network."""
    plain, own = ddgsd.NETWORKS[network][3]
    base = ddgsd.error("plain", ddgsd.cifar(network), plain)
    return Row(network, (_own_error(network, own, "plain"), base))


def _both(network=NETWORK):
    """Both methods at once, by the first paper's recipe."""
    run = byot.cifar(network, f"{byot.BYOT}+{ddgsd.DDGSD}")
    cells = _compared("both", run, (None,) * len(byot.EXITS))
    return Row(f"{network} both", (*cells, Cell("plain", byot.cifar(network))))


def _deeper(network="ResNet50"):
    """BYOT and the plain network."""
    base, *own = byot.CIFAR_100[network]
    cells = _compared("BYOT", byot.cifar(network, byot.BYOT), own)
    return Row(network, (*cells, Cell("plain", byot.cifar(network), paper=base)))


TABLES = {
    "evidence": Table(
        "What both papers claim, CIFAR-100 (%)",
        (
            _supervised(),
            _distorted("ResNet-32"),
            _both(),
            _distorted_alone("pre-act ResNet-18"),
            _deeper(),
        ),
        "Accuracies; errors for ResNet-32 and the pre-activation ResNet-18, as in their paper.",
    )
}
