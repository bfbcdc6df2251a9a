"""One training by what it is: its recipe, its folder, the command that runs it, and its cost."""

import dataclasses
import functools
import pathlib
import re
import shlex
import sys

from app_start import lazy_import

sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
checkpoints = lazy_import("sd_keras.checkpoints")
methods = lazy_import("sd_keras.methods")

APPS = pathlib.Path(__file__).resolve().parents[1]
# The flags of apps/train_cifar.py by recipe. Drops are shares of the epochs: 75, 130 and 180
# of 200 and so on. "imagenet" leaves all to apps/train_imagenet.py, which has it by network.
RECIPES = {
    "byot": {
        **{"epochs": 200, "batch_size": 128, "learning_rate": 0.1, "weight_decay": 5e-4},
        **{"drops": "0.375,0.65,0.9", "drop_factor": 0.1, "nesterov": False},
    },
    "ddgsd": {
        **{"epochs": 200, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 1e-4},
        **{"drops": "0.3,0.6,0.9", "drop_factor": 0.1, "nesterov": True},
    },
    "ddgsd_wide": {
        **{"epochs": 200, "batch_size": 128, "learning_rate": 0.1, "weight_decay": 5e-4},
        **{"drops": "0.3,0.6,0.9", "drop_factor": 0.2, "nesterov": True},
    },
    "ddgsd_dense": {
        **{"epochs": 300, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 1e-4},
        **{"drops": "0.5,0.75", "drop_factor": 0.1, "nesterov": True},
    },
    "imagenet": {},
}
# Of a Scale, what does not make it another run.
FREE = ("precision", "data_dir", "on_device")
IMAGENET_EPOCHS = 90  # of every recipe of train_imagenet.py that the papers use
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet2012": 1_281_167, "digits": 1_438}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000, "digits": 10}
# What an H200 is assumed to achieve in bfloat16, about a third of its dense peak: not measured.
FLOPS_PER_SECOND = 300e12


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained: all but the seed, and how far it is scaled down.

    Attributes:
        dataset: name as of `sd_keras.data.load`, or "imagenet2012".
        model: name of `sd_keras.models.MODELS`.
        method: names of `sd_keras.methods.METHODS`, joined by +.
        options: pairs of a flag and its value, where these are not the method's defaults.
            "deepest_last" is a share of the epochs.
        recipe: key of `RECIPES`.
        teacher: the Run whose network teaches, or None; see `teacher_seed`.
        peer: name of a network that learns together with it, or None.
    """

    dataset: str
    model: str
    method: str = "baseline"
    options: tuple = ()
    recipe: str = "byot"
    teacher: "Run | None" = None
    peer: str | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """How far runs are scaled down, and how they are carried out; None: as the recipe says.

    Attributes:
        epochs, batch_size, fraction (of the training images), model (in place of each
        student), teacher_model, peer_model, dataset: what makes it another run.
        precision: Keras's dtype policy, which the papers leave open.
        data_dir: where the prepared data lie.
        on_device: whether small images stay on the device.
    """

    epochs: int | None = None
    batch_size: int | None = None
    fraction: float = 1.0
    model: str | None = None
    teacher_model: str | None = None
    peer_model: str | None = None
    dataset: str | None = None
    precision: str = "float32"
    data_dir: str | None = None
    on_device: bool = False

    @property
    def is_down(self):
        """Whether the papers' figures are of other runs than these."""
        return self != Scale(**{name: getattr(self, name) for name in FREE})

    def told(self):
        """Returns in words what is other than in the papers; "" for nothing."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in FREE and getattr(self, field.name) != field.default
        }
        return ", ".join(f"{name} {value}" for name, value in changed.items())

    def apply(self, run):
        """Returns the Run that is carried out in place of one of the papers'."""
        dataset, teacher = self.dataset or run.dataset, run.teacher
        if teacher:
            model = self.teacher_model or teacher.model
            teacher = dataclasses.replace(teacher, model=model, dataset=dataset)
        same = run.peer == run.model
        return dataclasses.replace(
            run,
            dataset=dataset,
            model=self.model or run.model,
            teacher=teacher,
            # A second network of the same kind stays one.
            peer=run.peer and ((self.model if same else self.peer_model) or run.peer),
        )


def epochs_of(run, scale):
    """Returns the epochs of a run."""
    return scale.epochs or RECIPES[run.recipe].get("epochs", IMAGENET_EPOCHS)


def teacher_seed(scale, seed):
    """Returns the seed of a student's teacher: 0 for all students, on all images.

    On a part of them, which the seed draws, each has one that was taught by the same part:
    otherwise a student would learn of images that its rivals never see.
    """
    return seed if scale.fraction < 1 else 0


def folder_of(run, scale, seed):
    """Returns the folder of a run below the output, which tells what it is."""
    dataset = run.dataset + (f"-fraction{scale.fraction:g}" if scale.fraction < 1 else "")
    recipe = run.recipe
    for name in ("epochs", "batch_size"):
        changed = getattr(scale, name)
        if changed and changed != RECIPES[run.recipe].get(name):
            recipe += f"-{name}{changed}"
    recipe += f"-{scale.precision}" if scale.precision != "float32" else ""
    options = ((name, f"{v:g}" if isinstance(v, float) else v) for name, v in run.options)
    method = run.method + "".join(f"-{name}{value}" for name, value in options)
    method += f"-from-{run.teacher.model}" if run.teacher else ""
    method += f"-with-{run.peer}" if run.peer else ""
    # The last part names the run in cards and plots, too.
    parts = (dataset, run.model, recipe, f"{method}-seed{seed}")
    return pathlib.Path(*(re.sub(r"[^\w.+=-]+", "_", part) for part in parts))


def command_of(run, scale, seed, output, minutes=None):
    """Returns the command line of a run as a list, the interpreter first.

    `minutes` is the time limit of a run on small images, which is resumed later.
    """
    imagenet = run.recipe == "imagenet"
    given = {"dataset": run.dataset, "data_dir": scale.data_dir, "model": run.model}
    given["method"] = run.method
    given |= dict(run.options)
    if "deepest_last" in given:
        given["deepest_last"] = max(1, round(given["deepest_last"] * epochs_of(run, scale)))
    if run.teacher:
        given["teacher"] = output / folder_of(run.teacher, scale, teacher_seed(scale, seed))
    given |= {"peer": run.peer, **RECIPES[run.recipe]}
    changed = {"epochs": scale.epochs, "batch_size": scale.batch_size}
    given |= {name: value for name, value in changed.items() if value}
    if imagenet and scale.fraction < 1:
        given["train_split"] = f"train[:{100 * scale.fraction:g}%]"
    if not imagenet:
        # All images are trained on and the last epoch is reported: nothing is chosen.
        given |= {"validation": 0, "fraction": scale.fraction if scale.fraction < 1 else None}
        given["export"] = False
        # Pairs of a class are made on the host. Saving can take as long as an epoch.
        on_device = scale.on_device and "class_wise" not in run.method.split("+")
        given |= {"on_device": on_device or None, "checkpoint_minutes": 1}
        given["minutes"] = minutes and round(minutes, 1)
    given |= {"precision": scale.precision, "seed": seed}
    given["workdir"] = output / folder_of(run, scale, seed)
    app = app_of("train_imagenet.py" if imagenet else "train_cifar.py")
    flags = [_flag(*pair) for pair in given.items() if pair[1] is not None]
    return [sys.executable, app, *flags]


def app_of(name):
    """Returns the path of an app, from the working folder on where that holds it."""
    here = pathlib.Path.cwd()
    return str((APPS / name).relative_to(here) if here in APPS.parents else APPS / name)


def as_text(command):
    """Returns a command line as one types it."""
    return shlex.join(["python", *command[1:]])


def _flag(name, value):
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    return f"--{name}={value:g}" if isinstance(value, float) else f"--{name}={value}"


def results_of(folder):
    """Returns what a finished run wrote, or None.

    Its network need not be there: what was measured may come from another machine.
    """
    path = folder / "results.json"
    return checkpoints.read_json(path) if path.is_file() else None


def network_of(folder):
    """Returns the path of the network of a finished run, or None."""
    path = folder / "network.keras"
    return path if path.is_file() and results_of(folder) is not None else None


def analysis_folder(words, folder):
    """Returns where an analysis of a run is written."""
    return folder / f"analysis_{words}"


def state_of(folder):
    """Returns in words how far a run is."""
    if results_of(folder) is not None:
        return "finished"
    epochs = [int(path.name.split("_")[1]) for path in folder.glob("backup/epoch_*.npz")]
    if epochs:
        return f"at epoch {max(epochs)}"
    return "begun" if folder.exists() else "not begun"


def with_teachers(runs, scale):
    """Returns pairs of a Run and its seed once each, every teacher before its students."""
    ordered = []
    for run, seed in runs:
        chain = [(run.teacher, teacher_seed(scale, seed))] if run.teacher else []
        ordered += [pair for pair in (*chain, (run, seed)) if pair not in ordered]
    return ordered


@functools.cache
def costs(model, dataset, all_exits):
    """Returns `analysis.costs` of a network with the heads of all exits or of the deepest.

    A data set that is not in `IMAGES` counts as CIFAR-100.
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
    needed = {"progressive": {"steps": 1}} if "progressive" in named else {}
    method = methods.get(run.method, **needed)

    def flops(model, all_exits=False):
        return costs(model, run.dataset, all_exits)["ensemble"]["flops"]

    network = flops(run.model, method.min_exits > 1)
    per_view = 3 * network + (network if "past" in method.companions else 0)
    per_view += 3 * flops(run.peer) if run.peer else 0
    per_view += flops(run.teacher.model) if run.teacher else 0
    attack = 2 * network if "adversarial" in dict(run.options) else 0
    images = IMAGES.get(run.dataset, 50_000) * scale.fraction
    passes = images * epochs_of(run, scale)
    return (per_view * method.num_views + attack) * passes / 1e15


def acceleration(run, place):
    """Returns the plain network's multiply-accumulates divided by those up to an exit.

    `place` is the number of the exit, "deepest" or "ensemble".
    """
    counted = costs(run.model, run.dataset, True)
    deepest = list(counted)[-2]
    name = {"deepest": deepest, "ensemble": "ensemble"}.get(place, f"exit_{place}")
    return counted[deepest]["macs"] / counted[name]["macs"]


def cost_cells(petaflops):
    """Returns the cells of a table: PFLOP and minutes, or dashes."""
    if petaflops is None:
        return [None, None]
    minutes = petaflops * 1e15 / FLOPS_PER_SECOND / 60
    return [_digits(petaflops, 3), _digits(minutes, 2)]


def _digits(value, count):
    """Returns a number with so many digits that count, never as a power of ten."""
    rounded = float(f"{value:.{count}g}")
    return f"{rounded:,.0f}" if rounded >= 10 ** (count - 1) else f"{rounded:g}"
