"""What runs cost, before they are carried out: operations of training, and minutes from these."""

import functools

from reproduction.runs import epochs_of

import sd_keras
from sd_keras import analysis, methods

IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet2012": 1_281_167, "digits": 1_438}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000, "digits": 10}
# What an H200 is assumed to achieve in bfloat16, about a third of its dense peak: not measured.
FLOPS_PER_SECOND = 300e12


def forward_flops(model, dataset, all_exits):
    """Counts the operations, two per multiply-accumulate, of one image through a network."""
    return costs(model, dataset, all_exits)["ensemble"]["flops"]


@functools.cache
def costs(model, dataset, all_exits):
    """Counts what a network costs.

    Args:
        model: name of `sd_keras.models.MODELS`.
        dataset: key of `IMAGES`; another counts as CIFAR-100.
        all_exits: whether the heads of all exits are attached.

    Returns:
        The dict of `analysis.costs`.
    """
    imagenet = dataset == "imagenet2012"
    size = (227 if model == "alexnet" else 224) if imagenet else 8 if dataset == "digits" else 32
    shape = (size, size, 1 if dataset == "digits" else 3)
    backbone = sd_keras.models.build(model, shape, "imagenet" if imagenet else "cifar")
    at = None if all_exits else []
    network = sd_keras.attach_exits(backbone, CLASSES.get(dataset, 100), at=at)
    return analysis.costs(network)


def petaflop(run, scale):
    """Returns 10¹⁵ operations of one run of a Run, or None for a method that is not known.

    Training takes three times the forward pass of every view. A teacher, and the network's own
    past, add a forward pass, without what the teacher's own training takes; a peer is trained
    too, and an adversarial view takes a forward and a backward pass more.
    """
    named = run.method.split("+")
    if not set(named) <= methods.METHODS.keys():
        return None
    needed = {"progressive": {"steps": 1}}
    method = methods.get(run.method, **{k: v for k, v in needed.items() if k in named})
    flops = functools.partial(forward_flops, dataset=run.dataset)
    network = flops(run.model, all_exits=method.min_exits > 1)
    per_view = 3 * network + (network if "past" in method.companions else 0)
    per_view += 3 * flops(run.peer, all_exits=False) if run.peer else 0
    per_view += flops(run.teacher.model, all_exits=False) if run.teacher else 0
    attack = 2 * network if "adversarial" in dict(run.options) else 0
    images = IMAGES.get(run.dataset, 50_000) * scale.fraction
    passes = images * epochs_of(run, scale)
    return (per_view * method.num_views + attack) * passes / 1e15


def acceleration(run, place):
    """Returns the plain network's multiply-accumulates divided by those up to an exit.

    Args:
        run: a `reproduction.runs.Run`.
        place: number of the exit, "deepest" or "ensemble".
    """
    counted = costs(run.model, run.dataset, True)
    deepest = list(counted)[-2]
    name = {"deepest": deepest, "ensemble": "ensemble"}.get(place, f"exit_{place}")
    return counted[deepest]["macs"] / counted[name]["macs"]


def minutes(petaflops):
    """Returns the minutes that so many 10¹⁵ operations would take at the assumed speed."""
    return petaflops * 1e15 / FLOPS_PER_SECOND / 60


def cost_cells(petaflops):
    """Returns the cells of a table: PFLOP and minutes, or dashes."""
    if petaflops is None:
        return [None, None]
    return [_digits(petaflops, 3), _digits(minutes(petaflops), 2)]


def _digits(value, count):
    """Returns a number with so many digits that count, never as a power of ten."""
    rounded = float(f"{value:.{count}g}")
    return f"{rounded:,.0f}" if rounded >= 10 ** (count - 1) else f"{rounded:g}"
