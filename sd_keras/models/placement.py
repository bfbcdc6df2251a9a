"""Where exits stand on a backbone: by layer name, by share of its cost, or per resolution."""

import collections
import difflib
import math

import keras

from sd_keras import graph
from sd_keras.costs import Measured, one_image
from sd_keras.models.body import grid, parse_at, stage_names

# Exits that a backbone gets by itself, the deepest among them, as in the papers.
DEFAULT_EXITS = 4

# A place where an exit can stand: what is computed up to there, the resolution it belongs
# to, whether branches meet there, and the tensor.
Place = collections.namedtuple("Place", "macs level merges tensor")


def taps(body, at):
    """Returns the tensors that shallow exits are attached to, in order of depth."""
    names, shares = parse_at(at)
    if names:
        return _by_name(body, names, at)
    if shares:
        return _by_share(body, shares, at)
    return [] if at is not None else _automatic(body)


def choices(body):
    """Names of the layers that an exit can be attached to."""
    return [
        name
        for name, (tensor, *others) in body.tensors.items()
        if len(tensor.shape) in (3, 4) and None not in tensor.shape[1:]
        if not others and tensor is not body.output
    ]


def _shown(names):
    return names if len(names) <= 50 else [*names[:20], "…", *names[-20:]]


def _by_name(body, names, at):
    possible = choices(body)
    for name in names:
        found = body.tensors.get(name, ())
        if len(found) > 1:
            raise ValueError(
                f"`at` must name layers that are called once; {name!r} is called {len(found)} "
                f"times in the backbone. Received: at={at!r}"
            )
        if name not in possible and not (found and found[0] is body.output):
            near = difflib.get_close_matches(name, possible)
            raise ValueError(
                f"`at` must name layers of the backbone that give a feature map; {name!r} is "
                f"none. Close matches: {near}; all: {_shown(possible)}. Received: at={at!r}"
            )
    found = [body.tensors[name][0] for name in names]
    places = [body.order[id(tensor)] for tensor in found]
    if places != sorted(set(places)) or any(tensor is body.output for tensor in found):
        raise ValueError(
            "`at` must name different layers from shallow to deep, all before the backbone's "
            f"last, where the deepest exit stands. Received: at={at!r}"
        )
    return found


def _automatic(body):
    stages = _stages(body)
    if stages is not None:
        return stages
    if len(body.output.shape) == 3:
        # A transformer has one resolution, so its exits share its cost evenly.
        return _by_share(body, parse_at(DEFAULT_EXITS)[1], None)
    if body.pyramid:
        last = min(grid(body.output, body.made_by))
        found = [t for t in body.pyramid if min(grid(t, body.made_by)) > last]
    else:
        found = _by_resolution(body)
    if not found:
        raise ValueError(
            "`at` must tell where exits stand, because the backbone has no layers called "
            "stage_1, stage_2, … and only one resolution: for instance at=4 for four exits, "
            f"at=[0.5] for one in the middle. Received: at=None; layers with a feature map: "
            f"{_shown(choices(body))}"
        )
    return found[-(DEFAULT_EXITS - 1) :]


def _stages(body):
    """The ends of stages by their names, without those after which nothing costs; None if none."""
    possible = set(choices(body))
    names = stage_names(body.tensors)
    found = [body.tensors[name][0] for name in names if name in possible]
    found.sort(key=lambda tensor: body.order[id(tensor)])
    if any(body.tensors[name][0] is body.output for name in names):
        return found
    if not found:
        return None
    measured = _measured(body)
    total = measured.total([body.output]).macs
    return [tensor for tensor in found if measured.total([tensor]).macs < total]


def _nearest(costs, shares, apart):
    """Returns the index of the place nearest to each share; `apart` takes none twice."""
    found, first = [], 0
    for left, share in zip(reversed(range(len(shares))), shares):
        free = range(first, len(costs) - left) if apart else range(len(costs))
        found.append(min(free, key=lambda index: abs(costs[index] - share)))
        first = found[-1] + 1
    return found


def _by_share(body, shares, at):
    places, total = _places(body)
    costs = [place.macs / total for place in places]
    # A number of exits spreads them over what there is; a list of shares says where.
    apart = not isinstance(at, (list, tuple))
    enough = len(places) >= len(shares)
    found = [places[index].tensor for index in _nearest(costs, shares, apart)] if enough else []
    if len({id(tensor) for tensor in found}) < len(shares):
        most = f"at most {len(places) + 1} exits" if apart else "shares nearest to different places"
        raise ValueError(
            f"`at` must ask for {most}: the backbone can be cut at {len(places)} places, after "
            f"these shares of its cost: {[round(cost, 3) for cost in costs]}. "
            f"Received: at={at!r}; layers with a feature map: {_shown(choices(body))}"
        )
    return found


def _by_resolution(body):
    """The last place of each resolution but the output's, better where branches meet."""
    levels = collections.defaultdict(list)
    places, _ = _places(body, with_end=True)
    for place in places:
        levels[place.level].append(place)
    if places:
        del levels[places[-1].level]
    found = []
    for level in levels.values():
        meeting = [place for place in level if place.merges]
        found.append((meeting or level)[-1])
    return [place.tensor for place in sorted(found, key=lambda place: place.macs)]


def _measured(body):
    try:
        return Measured(body.model, one_image(body.model))
    except ValueError as error:
        raise ValueError(
            "`backbone` must hold only layers whose cost can be counted, unless `at` names the "
            f"layers behind which exits stand. Received: backbone {body.model.name!r}; {error}"
        ) from error


def _places(body, with_end=False):
    """Lists the places of a body in order of cost, and the cost of all of it.

    A place is where the network hangs on one tensor, after whatever follows without
    multiply-accumulates (normalisation, activation, pooling). Where there is none, as in
    networks whose cells read two cells before, it is where branches meet.
    """
    measured = _measured(body)
    total = sum(measured.calls[id(node)].macs for node in body.nodes)
    runs = _lone_runs(body, measured)
    places = [_place(body, macs, run) for macs, run in runs.items() if macs]
    if len({place.level for place in places}) < 3:
        places += _meetings(body, measured, [p for p in places if p.macs < total])
    places.sort(key=lambda place: place.macs)
    return [p for p in places if with_end or p.macs < total], total


def _lone_runs(body, measured):
    """Nodes at which the network hangs on one tensor, by what is computed up to there."""
    ranks = (3, 4) if len(body.output.shape) == 3 else (4,)
    live = graph.live_tensors(body.nodes, [body.output])
    runs, macs = collections.defaultdict(list), 0
    for index, node in enumerate(body.nodes):
        macs += measured.calls[id(node)].macs
        tensor = node.output_tensors[0]
        if live[index] == {id(tensor)} and len(tensor.shape) in ranks:
            runs[macs].append(node)
    return runs


def _place(body, macs, run):
    padding = keras.layers.ZeroPadding2D
    last = [node for node in run if not isinstance(node.operation, padding)] or run
    merges = any(_merges(node, body.made_by) for node in run)
    level = _level(body, run[0].output_tensors[0])
    return Place(macs, level, merges, last[-1].output_tensors[0])


def _meetings(body, measured, better):
    """Places where branches meet although others continue, after the better ones of the level.

    Of a level's, those with the fewest others: the ends of cells, not sums within.
    """
    last = {place.level: place.macs for place in sorted(better, key=lambda place: place.macs)}
    live = graph.live_tensors(body.nodes, [body.output])
    levels = collections.defaultdict(lambda: collections.defaultdict(list))
    for node, others in zip(body.nodes, live):
        if _merges(node, body.made_by):
            tensor = node.output_tensors[0]
            place = Place(measured.total([tensor]).macs, _level(body, tensor), True, tensor)
            if place.macs > last.get(place.level, 0):
                levels[place.level][len(others)].append(place)
    return [place for counts in levels.values() for place in counts[min(counts)]]


def _merges(node, made_by):
    """Returns whether feature maps of one size meet; a product is a gate, within a block."""
    maps = [tensor for tensor in node.input_tensors if len(tensor.shape) == 4]
    if len(maps) < 2 or type(node.operation).__name__ == "Multiply":
        return False
    return len({tuple(grid(tensor, made_by)) for tensor in maps}) == 1


def _level(body, tensor):
    """How often the largest map has been halved."""
    if len(tensor.shape) == 3:
        return 0
    return round(math.log2(body.largest / min(grid(tensor, body.made_by))))
