r"""Measures how fast sd_keras trains on a CPU, each figure beside the bar it has to reach.

    python apps/benchmark.py all --output results.json
    python apps/benchmark.py steps --model resnet18 --batch_size 64 --num_classes 100
    python apps/benchmark.py steps precision --precision float32,mixed_bfloat16 --repeats 10
    python apps/benchmark.py torch                  # needs pip install '.[torch]'
    python apps/benchmark.py --what=import

One part or several, as words or by --what:

    steps       a step of each method against a step of the plain network
    torch       images per second against the same step written in plain PyTorch
    precision   images per second in mixed_bfloat16 against float32
    distortion  CropFlip against Keras's own layers, and its share of a plain step
    losses      the objectives and their gradient, as a share of the step they belong to
    import      the seconds that `import sd_keras` adds to `import keras`
    all         all of these; the torch part is left out where PyTorch is not installed

What is compared runs in one process in turn, A B A B …, after two rounds of warm-up. A figure
is the median of the ratios of the rounds, with the smallest and the largest beside it, so that
a machine's other work hits both sides alike. The bars are for resnet18 with 100 classes at the
default batch sizes. Everything runs on the CPU; an accelerator is not used.
"""

import datetime
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from absl import app, flags

PARTS = ("steps", "torch", "precision", "distortion", "losses", "import")
PRECISIONS = ("float32", "mixed_bfloat16")
PACKAGES = ("keras", "tensorflow", "numpy", "torch")
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
flags.DEFINE_list("precision", list(PRECISIONS), f"Precisions, of {', '.join(PRECISIONS)}.")
flags.DEFINE_integer("repeats", 10, "Rounds behind each figure.", lower_bound=1)
flags.DEFINE_string("output", None, "JSON file to write.")


# TensorFlow, and what imports it, is imported inside functions: a wrong word or flag is
# answered at once, and the environment set at the end of this file comes first.


def chosen_parts(words):
    """Returns the parts asked for, in their own order; ends the program for others."""
    asked = [*words, *(FLAGS.what.split(",") if FLAGS.what else [])]
    unknown = [word for word in asked if word not in (*PARTS, "all")]
    if unknown or not asked:
        choices = ", ".join((*PARTS, "all"))
        raise SystemExit(f"what to measure must be of: {choices}. Received: {asked or None}")
    return PARTS if "all" in asked else [part for part in PARTS if part in asked]


def check_flags():
    """Ends the program for a model or precision that there is not."""
    wrong = [name for name in FLAGS.precision if name not in PRECISIONS]
    if wrong or not FLAGS.precision:
        raise SystemExit(f"--precision must be of {PRECISIONS}. Received: {FLAGS.precision}")
    from sd_keras.models import MODELS

    if FLAGS.model not in MODELS:
        raise SystemExit(f"--model must be one of {sorted(MODELS)}. Received: {FLAGS.model}")


def measure(part):
    """Returns the figures of one part."""
    if part == "import":
        return import_figures()
    import benchmark_parts

    if part == "torch":
        import benchmark_torch

        return benchmark_torch.torch_figures(FLAGS)
    return getattr(benchmark_parts, f"{part}_figures")(FLAGS)


def import_figures():
    """The seconds that sd_keras adds to Keras, in fresh interpreters."""
    from benchmark_parts import figure

    def imports():
        result = subprocess.run(
            [sys.executable, "-c", IMPORT_SCRIPT], capture_output=True, text=True, check=True
        )
        return [float(word) for word in result.stdout.split()[-2:]]

    imports()  # fills the file cache
    seconds = [imports() for _ in range(IMPORT_RUNS)]
    keras_seconds = statistics.median(pair[0] for pair in seconds)
    added = [pair[1] for pair in seconds]
    beside = f"import keras {keras_seconds:.2f} s"
    return [figure("import", "seconds sd_keras adds", added, "<=", 0.3, unit="s", beside=beside)]


def machine():
    """Describes the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    fields = dict(
        (word.strip() for word in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    supported = "avx512_bf16" in fields["flags"].split() if "flags" in fields else None
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "avx512_bf16": supported,
        "system": platform.platform(),
    }


def versions():
    """Returns the versions of Python and of the packages that are measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def notes(parts, skipped):
    """What a reader has to know before reading the figures."""
    lines = []
    if "torch" in skipped:
        lines.append("torch is left out: PyTorch is not installed (pip install '.[torch]')")
    if {"steps", "torch", "precision"} & set(parts) and "mixed_bfloat16" in FLAGS.precision:
        missing = {False: "lacks AVX512-BF16", None: "does not tell whether it has AVX512-BF16"}
        supported = machine()["avx512_bf16"]
        if not supported:
            lines.append(f"the processor {missing[supported]}: bars for bfloat16 may not apply")
    defaults = ("model", "batch_size", "piece_batch_size", "num_classes")
    changed = [name for name in defaults if FLAGS[name].value != FLAGS[name].default]
    if changed:
        lines.append(f"the bars are for the defaults of {', '.join(changed)}, not for this run")
    return lines


def print_report(report):
    """Prints the report as a plain table."""
    from benchmark_parts import table

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
    parts = chosen_parts(argv[1:])
    skipped = []
    if "torch" in parts and importlib.util.find_spec("torch") is None:
        if "all" not in argv[1:] and FLAGS.what != "all":
            raise SystemExit("the torch part needs PyTorch: pip install '.[torch]'")
        skipped = ["torch"]
    measured = [part for part in parts if part not in skipped]
    if measured != ["import"]:
        check_flags()
    figures = []
    for part in measured:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        figures += measure(part)
        gc.collect()  # models are cyclic; the next part needs their memory
    names = ("model", "batch_size", "piece_batch_size", "num_classes", "precision", "repeats")
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {name: FLAGS[name].value for name in names},
        "notes": notes(parts, skipped),
        "figures": figures,
    }
    assert all(math.isfinite(figure["median"]) for figure in figures)
    print_report(report)
    if FLAGS.output:
        Path(FLAGS.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # before TensorFlow looks for devices
    app.run(main)
