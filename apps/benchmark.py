r"""Measures how fast sd_keras is, each figure next to the bar it has to reach.

    python apps/benchmark.py all --output=results.json
    python apps/benchmark.py steps --model=resnet18 --batch_size=64 --num_classes=100
    python apps/benchmark.py steps precision --precision=float32,mixed_bfloat16 --repeats=10
    python apps/benchmark.py torch --model=resnet20         # needs pip install '.[torch]'
    python apps/benchmark.py train --model=resnet50 --image_size=224 --batch_size=8 --workers
    python apps/benchmark.py train --device                 # on the machine's accelerator

One benchmark or several:

    steps       a step of each method against a step of the plain network
    torch       images per second against the same step written in plain PyTorch
    precision   images per second in mixed_bfloat16 against float32
    distortion  CropFlip and the stronger distortions against Keras's own layers and each other,
                and their share of a plain step
    losses      the objectives and their gradient, as a share of the step they belong to
    build       building a network with its exits, and cutting it, against the plain one
    input       images per second of the ImageNet input pipeline against decoding alone
    companions  a step with a teacher or a peer, against its parts
    train       images per second at ImageNet's size, and their share of the processor's peak
    workers     two worker processes against one process; also `train --workers`
    device      every method, and the same in PyTorch, on the accelerator; also `train --device`
    backup      what a backup every 50 steps costs, and how soon a resumed run trains
    inference   exported networks: how much faster each exit answers than the plain network in
                a SavedModel, LiteRT and ONNX Runtime, and early exit at several mixes
    analysis    100 evaluations under noise on the weights against 100 plain ones
    import      the seconds that `import sd_keras` adds to `import keras`
    all         all that take no minutes; torch only where PyTorch is installed

Sides take turns, A B A B …, after rounds of warm-up. A figure is the median of the ratios of the
rounds, so that a machine's other work affects both sides alike; `of fastest` is the ratio of the
fastest calls. The report says how many cores other programs kept busy. The bars are for the
default settings. All but `device` run on the CPU, in mixed_bfloat16 only where it has AVX512-BF16,
unless --precision is set.

To add a benchmark, write a function in a module of apps/benchmarks that takes the `Settings`
below and yields rows made by `harness.time_ratio`, `speed_ratio` or `figure`, or a str as a note:

    def pooling(settings):
        \"\"\"Our pooling against Keras's.\"\"\"
        seconds = interleave({"ours": ours, "keras": theirs}, settings.repeats)
        yield time_ratio("pooling, ours / Keras's", seconds, "ours", "keras", bar="<= 1.0")

and add a line to BENCHMARKS and to the list above. What needs a process of its own for each side
is a `harness.WorkerProcess`; see `imagenet.workers`.
"""

import datetime
import gc
import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from absl import app, flags
from benchmarks.device import VIEWS
from benchmarks.harness import table
from machine import machine, versions

PRECISIONS = ["float32", "mixed_bfloat16"]


class Benchmark(NamedTuple):
    """A function of a module of apps/benchmarks, and the settings that its bars are for."""

    function: str
    takes_minutes: bool = False
    model: str = "resnet18"
    batch_size: int = 64
    precision: list = PRECISIONS


BENCHMARKS = {
    "steps": Benchmark("cifar.steps"),
    "torch": Benchmark("cifar.torch_steps"),
    "precision": Benchmark("cifar.precision"),
    "distortion": Benchmark("cifar.distortion", batch_size=128),
    "losses": Benchmark("cifar.losses", batch_size=128),
    "build": Benchmark("cifar.build"),
    "input": Benchmark("imagenet.input_pipeline"),
    "companions": Benchmark("cifar.companions", True),
    "train": Benchmark("imagenet.train", True, "resnet50", 8),
    "workers": Benchmark("imagenet.workers", True, batch_size=128),
    "device": Benchmark("device.device", True, batch_size=128, precision=PRECISIONS[1:]),
    "backup": Benchmark("imagenet.backup", True, "resnet50", 8),
    "inference": Benchmark("inference.exported", True),
    "analysis": Benchmark("cifar.analyses", True),
    "import": Benchmark("cifar.import_time"),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Backbone, a key of sd_keras.models.MODELS.")
flags.DEFINE_integer("batch_size", None, "Images a step.", lower_bound=1)
flags.DEFINE_integer("num_classes", 100, "Classes.", lower_bound=2)
flags.DEFINE_list("precision", None, f"Precisions, of {', '.join(PRECISIONS)}.")
flags.DEFINE_integer("repeats", 10, "Rounds of each figure.", lower_bound=1)
flags.DEFINE_integer("image_size", 224, "Of the images in train and backup.", lower_bound=32)
flags.DEFINE_string("jpegs", None, "Folder of *.JPEG files for input, generated by default.")
flags.DEFINE_boolean("workers", False, "Whether train measures two worker processes, too.")
flags.DEFINE_boolean("device", False, "Whether train trains small images on the accelerator.")
flags.DEFINE_integer("images", 50_000, "Images of an epoch of device.", lower_bound=1)
flags.DEFINE_list("methods", list(VIEWS), f"Methods of device, of {', '.join(VIEWS)}.")
flags.DEFINE_string("output", None, "JSON file to write.")


SETTINGS = ("model", "batch_size", "precision", "num_classes", "repeats")
SETTINGS += ("image_size", "jpegs", "images", "methods")


def settings_of(name):
    """Returns what the flags say, with the defaults of a benchmark, as attributes.

    `chosen` has the names of the settings that a user has set to other than the defaults.
    """
    defaults = BENCHMARKS[name]._asdict()
    if name != "device" and not machine()["avx512_bf16"]:
        defaults["precision"] = PRECISIONS[:1]
    values, chosen = {}, []
    for key in SETTINGS:
        default = defaults.get(key, FLAGS[key].default)
        values[key] = default if FLAGS[key].value is None else FLAGS[key].value
        if values[key] != default and key not in ("repeats", "methods"):
            chosen.append(key)
    return SimpleNamespace(**values, chosen=chosen)


def chosen_benchmarks(words):
    """Returns the benchmarks asked for, in their order; ends the program for a wrong request."""
    asked, received = set(words), f"Received: {' '.join(words) or None}"
    if not asked or not asked <= {*BENCHMARKS, "all"}:
        raise SystemExit(f"what to measure must be of: {', '.join(BENCHMARKS)}, all. {received}")
    for name in ("workers", "device"):
        if FLAGS[name].value and "train" not in asked:
            raise SystemExit(f"`--{name}` is for train alone. {received}")
        asked |= {name} if FLAGS[name].value else set()
    if FLAGS.device:
        asked.remove("train")
    if "all" in asked:
        asked |= {name for name, each in BENCHMARKS.items() if not each.takes_minutes} - {"torch"}
        asked |= {"torch"} if importlib.util.find_spec("torch") else set()
    if "device" in asked and len(asked) > 1:
        raise SystemExit(f"`device` must be measured alone. {received}")
    for key, name in {"images": "device", "methods": "device", "jpegs": "input"}.items():
        if FLAGS[key].value != FLAGS[key].default and name not in asked:
            raise SystemExit(f"`--{key}` needs {name}. Received: --{key}={FLAGS[key].value}")
    for key, choices in {"precision": PRECISIONS, "methods": list(VIEWS)}.items():
        values = FLAGS[key].value
        if values is not None and (not values or not set(values) <= set(choices)):
            raise SystemExit(f"`--{key}` must be of {', '.join(choices)}. Received: {values}")
    if FLAGS.output and not Path(FLAGS.output).absolute().parent.is_dir():
        raise SystemExit(f"`--output` must be in a folder. Received: --output={FLAGS.output}")
    return [name for name in BENCHMARKS if name in asked]


def measure(name, report):
    """Adds the figures of a benchmark to the report, and notes on them."""
    settings, notes = settings_of(name), report["notes"]
    module, function = BENCHMARKS[name].function.split(".")
    print(f"measuring {name} …", file=sys.stderr, flush=True)
    start, foreign = time.perf_counter(), foreign_seconds()
    for row in getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings):
        if isinstance(row, str):
            notes.append(row)
        else:
            report["figures"].append({"part": name} | row)
    gc.collect()  # models are cyclic; the next benchmark needs their memory
    cores = (foreign_seconds() - foreign) / (time.perf_counter() - start)
    if cores > 0.1 and name != "device":  # whose own processes count as others
        notes.append(f"other programs kept {cores:.1f} cores busy during {name}: too noisy")
    if settings.chosen and name != "device":
        chosen = ", ".join(settings.chosen)
        notes.append(f"the bars of {name} are for the defaults of {chosen}, not for this run")


def foreign_seconds():
    """Seconds that the machine's cores have worked for other programs, 0 where unknown."""
    try:
        first, _ = Path("/proc/stat").read_text().split("\n", 1)
    except OSError:
        return 0.0
    ticks = [int(word) for word in first.split()[1:]]
    # user, nice, system; idle and iowait left out; irq, softirq, steal
    busy = (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def main(argv):
    """Measures, prints and writes what is asked for."""
    names = chosen_benchmarks(argv[1:])
    if names != ["device"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # before TensorFlow looks for devices
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {name: vars(settings_of(name)) for name in names},
        "notes": [],
        "figures": [],
    }
    if "all" in argv and "torch" not in names:
        report["notes"].append("torch is left out: PyTorch is not installed")
    for name in names:
        measure(name, report)
    about = report["machine"]
    print(f"{about['processor']}, {about['cores']} cores, AVX512-BF16: {about['avx512_bf16']}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for name, settings in report["settings"].items():
        print(f"{name}: {', '.join(f'{key} {settings[key]}' for key in SETTINGS[:5])}")
    for line in report["notes"]:
        print(f"note: {line}")
    print(f"\n{table(report['figures'])}")
    if FLAGS.output:
        Path(FLAGS.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    app.run(main)
