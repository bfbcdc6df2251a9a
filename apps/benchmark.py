r"""Measures how fast sd_keras trains, each figure beside the bar it has to reach.

    python apps/benchmark.py all --output results.json
    python apps/benchmark.py steps --model resnet18 --batch_size 64 --num_classes 100
    python apps/benchmark.py steps precision --precision float32,mixed_bfloat16 --repeats 10
    python apps/benchmark.py torch                  # needs pip install '.[torch]'
    python apps/benchmark.py train --model resnet50 --image_size 224 --batch_size 8 --workers
    python apps/benchmark.py train --device         # on the machine's accelerator
    python apps/benchmark.py --what=import

One part or several, as words or by --what:

    steps       a step of each method against a step of the plain network
    torch       images per second against the same step written in plain PyTorch
    precision   images per second in mixed_bfloat16 against float32
    distortion  CropFlip and the stronger distortions against Keras's own layers and each other,
                and their share of a plain step
    losses      the objectives and their gradient, as a share of the step they belong to
    build       building a network with its exits, and cutting it, against the plain one
    input       images per second of the ImageNet input pipeline against decoding alone
    companions  a step beside a teacher or a peer, against its parts
    train       images per second at ImageNet's size, and their share of the processor's peak;
                with --workers two worker processes against one process; with --device, and
                then alone, see below
    backup      what a backup every 50 steps costs, and how soon a run goes on from one
    inference   exported networks: how much faster each exit answers than the plain network in
                a SavedModel, LiteRT and ONNX Runtime, and early exit at several mixes
    analysis    100 evaluations under noise on the weights against 100 plain ones
    import      the seconds that `import sd_keras` adds to `import keras`
    all         all but companions, train, backup, inference and analysis, which take minutes; the
                torch part is left out where PyTorch is not installed

What is compared runs in one process in turn, A B A B …, after two rounds of warm-up. A figure
is the median of the ratios of the rounds, with the smallest and the largest beside it, so that
a machine's other work hits both sides alike; the report says how many cores other programs
kept busy, and `of fastest` is the ratio of the fastest calls of each side. The bars are for
resnet18 with 100 classes at the default batch sizes. All this runs on the CPU; an accelerator
is not used.

`train --device` trains on the accelerator that Keras finds, with the backend that it is set to:
the plain network, both papers' methods and their sum by the ordinary `fit` on
`sd_keras.data.OnDevice`, and the same in plain PyTorch where it is installed. Of each the images
per second, their share of the best product measured in the same run, the seconds to compile and
the memory; and the ratios. 50,000 random images of 32x32 (--images) in batches of 128, in
mixed_bfloat16 unless --precision is given. Each is a process of its own, a turn is an epoch.
On a CPU give --images, --batch_size and --repeats, or it takes hours; --methods leaves some out.
"""

import datetime
import gc
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags
from app_start import quiet_native_stderr
from benchmarks import device
from benchmarks.figures import figure, table
from benchmarks.machine import foreign_seconds, machine, versions

PARTS = (
    "steps",
    "torch",
    "precision",
    "distortion",
    "losses",
    "build",
    "input",
    "companions",
    "train",
    "backup",
    "inference",
    "analysis",
    "import",
)
LONG_PARTS = ("companions", "train", "backup", "inference", "analysis")
PRECISIONS = ("float32", "mixed_bfloat16")
IMPORT_RUNS = 5
# Both imports in one fresh interpreter: the difference between two whole start-ups would
# drown in their noise, since `import keras` takes seconds.
IMPORT_SCRIPT = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import sd_keras
print(middle - start, time.perf_counter() - middle)
"""

FLAGS = flags.FLAGS
flags.DEFINE_string("what", None, "What to measure, as the words do; several joined by commas.")
flags.DEFINE_string("model", "resnet18", "Backbone, a key of sd_keras.models.MODELS.")
flags.DEFINE_integer("batch_size", 64, "Images a step in steps, torch, precision.", lower_bound=1)
flags.DEFINE_integer(
    "piece_batch_size", 128, "Images a step in distortion and losses.", lower_bound=1
)
flags.DEFINE_integer("num_classes", 100, "Classes.", lower_bound=2)
flags.DEFINE_integer("image_size", 224, "Size of the images in train.", lower_bound=32)
flags.DEFINE_boolean("workers", False, "Whether train measures two worker processes, too.")
flags.DEFINE_boolean("device", False, "Whether train trains small images on the accelerator.")
flags.DEFINE_integer("images", 50_000, "Images on the device, with --device.", lower_bound=1)
flags.DEFINE_list("methods", list(device.VIEWS), "Methods to train, with --device.")
flags.DEFINE_list("precision", list(PRECISIONS), f"Precisions, of {', '.join(PRECISIONS)}.")
flags.register_validator(
    "precision",
    lambda names: names and set(names) <= set(PRECISIONS),
    message=f"--precision must be of {', '.join(PRECISIONS)}",
)
flags.DEFINE_integer("repeats", 10, "Rounds behind each figure.", lower_bound=1)
flags.DEFINE_string("output", None, "JSON file to write.")


# TensorFlow, and what imports it, is imported inside functions: a wrong word or flag is
# answered at once, and the environment that `main` sets comes first.


def chosen_parts(asked):
    """Returns the parts asked for, in their own order; ends the program for other words."""
    if not asked or not set(asked) <= {*PARTS, "all"}:
        choices = ", ".join((*PARTS, "all"))
        raise SystemExit(f"what to measure must be of: {choices}. Received: {asked or None}")
    whole = [part for part in PARTS if part not in LONG_PARTS] if "all" in asked else []
    return [part for part in PARTS if part in (*whole, *asked)]


def measure(part):
    """Returns the figures of one part, and notes on them."""
    if FLAGS.device:
        return device.device_figures(FLAGS)
    if part == "import":
        return import_figures(), []
    module = "parts" if part in ("steps", "precision", "losses") else part
    with quiet_native_stderr():
        importlib.import_module("sd_keras")  # first, as it sets TensorFlow's environment
        module = importlib.import_module(f"benchmarks.{module}")
    return getattr(module, f"{part}_figures")(FLAGS), []


def import_figures():
    """The seconds that sd_keras adds to Keras, in fresh interpreters."""

    def imports():
        result = subprocess.run(
            [sys.executable, "-c", IMPORT_SCRIPT], capture_output=True, text=True, check=True
        )
        return [float(word) for word in result.stdout.split()[-2:]]

    if FLAGS.repeats > 1:
        imports()  # fills the file cache
    seconds = [imports() for _ in range(min(IMPORT_RUNS, FLAGS.repeats))]
    keras_seconds = statistics.median(pair[0] for pair in seconds)
    row = {"values": [pair[1] for pair in seconds], "unit": "s"}
    row["beside"] = f"import keras {keras_seconds:.2f} s"
    return [figure("import", "seconds sd_keras adds", "<= 0.3", **row)]


def notes(parts, skipped, other_cores):
    """What a reader has to know before reading the figures, where the part has not said it."""
    if FLAGS.device:  # other programs would be PyTorch's own, which compile for it
        return []
    lines = []
    if "torch" in skipped:
        lines.append("torch is left out: PyTorch is not installed (pip install '.[torch]')")
    if {"steps", "torch", "precision", "train"} & set(parts) and not machine()["avx512_bf16"]:
        lines.append("no AVX512-BF16 found: the bars for mixed_bfloat16 need it")
    defaults = ("model", "batch_size", "piece_batch_size", "num_classes")
    changed = [name for name in defaults if FLAGS[name].value != FLAGS[name].default]
    if changed:
        lines.append(f"the bars are for the defaults of {', '.join(changed)}, not for this run")
    for part, cores in other_cores.items():
        if cores > 0.1:
            lines.append(f"other programs kept {cores:.1f} cores busy during {part}: too noisy")
    return lines


def settings(parts):
    """Returns what the flags ask for."""
    if FLAGS.device:
        return device.settings_of(FLAGS).shown()
    names = ("model", "batch_size", "piece_batch_size", "num_classes", "precision", "repeats")
    names += ("image_size", "workers") if "train" in parts else ()
    return {name: FLAGS[name].value for name in names}


def print_report(report):
    """Prints the report as a plain table."""
    about = report["machine"]
    print(f"{about['processor']}, {about['cores']} cores, AVX512-BF16: {about['avx512_bf16']}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print(", ".join(f"{name} {value}" for name, value in report["settings"].items()))
    for line in report["notes"]:
        print(f"note: {line}")
    print()
    print(table(report["figures"]))


def main(argv):
    """Measures, prints and writes what is asked for."""
    asked = [*argv[1:], *(FLAGS.what.split(",") if FLAGS.what else [])]
    parts = chosen_parts(asked)
    if FLAGS.output and not Path(FLAGS.output).absolute().parent.is_dir():
        raise SystemExit(f"`--output` must be in a folder. Received: --output={FLAGS.output}")
    skipped = []
    if "torch" in parts and importlib.util.find_spec("torch") is None:
        if "all" not in asked:
            raise SystemExit("the torch part needs PyTorch: pip install '.[torch]'")
        skipped = ["torch"]
    device.check(FLAGS, parts)
    if not FLAGS.device:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # before TensorFlow looks for devices
    figures, more_notes, other_cores = [], [], {}
    for part in [part for part in parts if part not in skipped]:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        start, foreign = time.perf_counter(), foreign_seconds()
        measured, about = measure(part)
        figures, more_notes = figures + measured, more_notes + about
        gc.collect()  # models are cyclic; the next part needs their memory
        other_cores[part] = (foreign_seconds() - foreign) / (time.perf_counter() - start)
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": settings(parts),
        "notes": more_notes + notes(parts, skipped, other_cores),
        "other_cores": other_cores,
        "figures": figures,
    }
    print_report(report)
    if FLAGS.output:
        Path(FLAGS.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
