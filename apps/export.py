"""Writes a trained network as what a server, a phone or another runtime takes.

    python apps/export.py --network=runs/digits                       # saved_models/digits/1, 2, …
    python apps/export.py --network=runs/digits --early_exit=max_probability --max_drop=0.02
    python apps/export.py --network=runs/digits --to=lite --precision=int8
    python apps/export.py --network=runs/digits --to=all --output=artifacts

Where `--network` is the workdir of a run, what its results.json tells (data, method, accuracy of
each exit) goes into the model card, and `--dataset`, `--validation` and `--seed` are the run's.
Data are read only where class names (`--dataset`), representative images (int8) or thresholds
and temperatures (fitted on the validation images) are asked for. Prints what was written and how
to use it (docs/serving.md, docs/edge.md). A digits network takes 10 to 20 s.
"""

import pathlib
import re
import sys

import finished_run
import run_data
from absl import app, flags, logging
from app_start import lazy_import, quiet_native_stderr, run_app

export = lazy_import("sd_keras.export")
parts = lazy_import("sd_keras.export.parts")
inference = lazy_import("sd_keras.inference")
compiled = lazy_import("sd_keras.inference.compiled")
serving_configs = lazy_import("sd_keras.export.serving_configs")
thresholds = lazy_import("sd_keras.inference.thresholds")

KINDS = ("saved_model", "lite", "lite_cascade", "onnx", "keras")
ENDINGS = {"lite": ".tflite", "onnx": ".onnx", "keras": ".keras"}

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(finished_run)
flags.DEFINE_enum("to", "saved_model", [*KINDS, "all"], "what to write")
flags.DEFINE_string(
    "output",
    None,
    "file or folder to create, the folder of all with --to=all (default: saved_models/NAME/NUMBER, "
    "other kinds beside the network)",
)
flags.DEFINE_string("name", None, "of the model (default: that of its folder)")
flags.DEFINE_string("exit", None, "one exit, or ensemble, instead of all")
flags.DEFINE_enum(
    "precision", "float32", ["float32", "float16", "dynamic", "int8"], "of LiteRT files"
)
flags.DEFINE_integer("representative", 200, "training images that int8 is calibrated on", 1)
flags.DEFINE_string("policy", None, "thresholds that apps/evaluate.py --policy wrote")
flags.DEFINE_enum("early_exit", None, finished_run.RULES, "choose thresholds by this rule")
flags.DEFINE_float("max_drop", 0.01, "of the accuracy, that thresholds may cost", 0, 1)
flags.DEFINE_float("confidence_level", 0.95, "how surely that holds on new images; 0: as it comes")
flags.DEFINE_bool("calibrate", False, "fit a temperature per exit to the validation images")
flags.DEFINE_enum("preprocessing", "resize", ["resize", "center_crop"], "of encoded images")
flags.DEFINE_string("class_names", None, "text file with the name of one class a line")
# Which kinds a flag says something to.
OF_KINDS = {
    "exit": ("lite", "onnx", "keras"),
    "precision": ("lite", "lite_cascade"),
    "representative": ("lite", "lite_cascade"),
    "policy": ("saved_model", "lite_cascade"),
    "early_exit": ("saved_model", "lite_cascade"),
    "calibrate": ("saved_model", "lite_cascade"),
    "class_names": ("saved_model", "lite_cascade"),
    "preprocessing": ("saved_model",),
}


def main(argv):
    """Writes what the flags ask for."""
    logging.set_verbosity(logging.ERROR)  # converters warn of each other
    run_app(argv, run_and_shorten_errors)


def run_and_shorten_errors():
    """Calls `run`; raises its errors, and TensorFlow's such as of a full disk, on one line."""
    try:
        run()
    except (ValueError, OSError, ImportError, RuntimeError, *tensorflow_errors()) as error:
        text = re.sub(r"\{\{.*?\}\}", "", str(error))  # the place in a graph
        raise ValueError(" ".join(text.split())) from None


def tensorflow_errors():
    """Returns TensorFlow's class of errors in a tuple, an empty one where it is not in use."""
    tensorflow = sys.modules.get("tensorflow")
    return (tensorflow.errors.OpError,) if tensorflow else ()


def run():
    """Checks all that can be checked, then writes."""
    kinds = KINDS if FLAGS.to == "all" else (FLAGS.to,)
    check_flags(kinds)
    network = finished_run.load_network()
    if FLAGS.exit:
        parts.chosen(network, FLAGS.exit)
    paths = paths_of(kinds)
    for kind in kinds:
        if kind in ("lite", "lite_cascade", "onnx"):
            parts.check_machine(kind, kind.removesuffix("_cascade"))
    arguments = arguments_for(network, kinds)
    for kind, path in paths.items():
        with quiet_native_stderr():
            getattr(export, kind)(network, path, **arguments[kind])
        print(f"{path}  {size(path) / 1e6:.2f} MB")
        for line in how_to_use(kind, path):
            print(f"    {line}")


def check_flags(kinds):
    """Raises ValueError for flags that say nothing here, or contradict each other."""
    for name, takers in OF_KINDS.items():
        if FLAGS[name].present and not set(takers) & set(kinds):
            raise ValueError(
                f"`{name}` must not be given unless --to is one of {takers} or 'all'. "
                f"Received: {name}={FLAGS[name].value!r}, to={FLAGS.to!r}"
            )
    thresholds.check_promise(FLAGS.max_drop, None, FLAGS.confidence_level)
    for name in ("max_drop", "confidence_level"):
        if FLAGS[name].present and not FLAGS.early_exit:
            raise ValueError(f"`early_exit` must be given with `{name}`. Received: early_exit=None")
    if FLAGS.policy and (FLAGS.early_exit or FLAGS.calibrate):
        raise ValueError(
            "`policy` must not be given with `early_exit` or `calibrate`, which make another. "
            f"Received: policy={FLAGS.policy!r}"
        )
    if FLAGS.name and FLAGS.output and FLAGS.to != "all":
        raise ValueError(
            "`name` must not be given with `output`, which says it. "
            f"Received: name={FLAGS.name!r}, output={FLAGS.output!r}"
        )


def arguments_for(network, kinds):
    """Returns the arguments of the functions that write, by kind."""
    is_int8 = FLAGS.precision == "int8" and bool({"lite", "lite_cascade"} & set(kinds))
    needs_names = FLAGS["dataset"].present and not FLAGS.class_names
    splits = None
    if is_int8 or needs_names or FLAGS.early_exit or FLAGS.calibrate:
        splits = finished_run.load_splits(network)
    policy, temperatures = fitted(network, splits)
    named = {"class_names": class_names(splits), "policy": policy}
    rounded = {"precision": FLAGS.precision}
    rounded["representative"] = representative(splits) if is_int8 else None
    served = {"preprocessing": FLAGS.preprocessing, "about": about(), "temperatures": temperatures}
    cascade = named | rounded
    if policy is None and temperatures:
        none_leaves = [None] * (len(temperatures) - 1)
        cascade["policy"] = inference.Policy("max_probability", none_leaves, temperatures)
    return {
        "saved_model": named | served,
        "lite": {"exit": FLAGS.exit} | rounded,
        "lite_cascade": cascade,
        "onnx": {"exit": FLAGS.exit},
        "keras": {"exit": FLAGS.exit},
    }


def fitted(network, splits):
    """Returns policy and temperatures of the flags; None for those that are not asked for."""
    if FLAGS.policy:
        return finished_run.read_policy(FLAGS.policy), None
    if not FLAGS.early_exit and not FLAGS.calibrate:
        return None, None
    if splits.validation is None or not len(splits.validation[0]):
        raise ValueError(
            "`validation` must be a share that leaves images to fit thresholds and temperatures "
            "on. Received: data without validation images"
        )
    images, labels = splits.validation
    logits = compiled.predict(network, images)
    if not FLAGS.early_exit:
        return None, inference.fit_temperatures(logits, labels)
    chosen, why_none_leaves = finished_run.choose_thresholds(
        logits, splits.validation, inference.path_costs(network), FLAGS.max_drop
    )
    shares = ", ".join(f"{100 * share:.1f}" for share in chosen.shares)
    print(f"thresholds {chosen.policy.to_dict()['thresholds']}: {shares} % leave at the exits")
    if why_none_leaves:
        print(why_none_leaves)
    return chosen.policy, list(chosen.policy.temperatures) if FLAGS.calibrate else None


def class_names(splits):
    """Returns the names of the file or of the data, or None."""
    if not FLAGS.class_names:
        return splits and splits.class_names
    try:
        return pathlib.Path(FLAGS.class_names).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`class_names` must be a text file in UTF-8 ({error}). "
            f"Received: class_names={FLAGS.class_names!r}"
        ) from None


def representative(splits):
    """Returns training images drawn by the seed, in stored order."""
    images = splits.train[0]
    return run_data.drawn((images, images), FLAGS.representative, finished_run.seed())[0]


def about():
    """Returns what the run knows of itself, for the model card."""
    results = finished_run.results()
    named = {"data": "dataset", "model": "model", "method": "method", "epochs": "epochs"}
    recorded = results.get("flags", {})
    entries = {key: recorded[flag] for key, flag in named.items() if flag in recorded}
    return entries | ({"measured": results["measured"]} if "measured" in results else {})


def paths_of(kinds):
    """Returns the new paths to write to, by kind.

    Raises:
        ValueError, FileExistsError: for a name or an ending that will not do; if one exists.
    """
    name, folder = model_name(), finished_run.network_file().parent
    models = pathlib.Path("saved_models")
    if FLAGS.to == "all" and FLAGS.output:
        folder = models = pathlib.Path(FLAGS.output)
    stem = f"{name}_{FLAGS.exit}" if FLAGS.exit else name
    rounded = "" if FLAGS.precision == "float32" else f"_{FLAGS.precision}"
    paths = {
        "saved_model": models / name,
        "lite": folder / f"{stem}{rounded}.tflite",
        "lite_cascade": folder / f"{name}_cascade{rounded}",
        "onnx": folder / f"{stem}.onnx",
        "keras": folder / f"{stem}_stock.keras",
    }
    if FLAGS.to != "all" and FLAGS.output:
        paths[FLAGS.to] = pathlib.Path(FLAGS.output)
    if not paths["saved_model"].name.isdigit():
        paths["saved_model"] /= str(next_version(paths["saved_model"]))
    return {kind: _checked(paths[kind], ENDINGS.get(kind)) for kind in kinds}


def _checked(path, ending):
    if ending and path.suffix != ending:
        raise ValueError(f"`output` must end in {ending}. Received: output={str(path)!r}")
    if path.exists():
        raise FileExistsError(f"`output` must not exist yet. Received: output={str(path)!r}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"`output` must lie in a folder. Received: output={str(path)!r}")
    return path


def model_name():
    """Returns the name of the flags, or that of the run's folder or of the network's file."""
    name = (
        FLAGS.name or re.sub(r"[^A-Za-z0-9_.-]", "_", finished_run.name()).lstrip(".-") or "model"
    )
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ValueError(
            "`name` must be letters, digits, `_`, `.` and `-`, the first a letter or digit. "
            f"Received: name={name!r}"
        )
    return name


def next_version(folder):
    """Returns the number after the highest of a folder of versions, 1 in a new one."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return 1 + max((int(each.name) for each in entries if each.name.isdigit()), default=0)


def size(path):
    """Returns the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def how_to_use(kind, path):
    """Returns lines that say what to do with what was written."""
    if kind == "lite_cascade":
        return [f"python apps/run_cascade.py {path} images.npy"]
    if kind != "saved_model":
        return []
    base, extra = path.absolute().parent, path.absolute() / "assets.extra"
    card = f"described in {path / 'assets.extra/model_card.md'}"
    try:
        command = serving_configs.docker_command(base.name, base, extra).splitlines()
    except ValueError as error:  # a path that docker's command line cannot take
        return [card, f"to serve it by docker, move it: {error}"]
    client = f"python apps/client.py --model={base.name} photo.png"
    return [
        card,
        "to serve and to ask it (docs/serving.md; docker not run here):",
        *command,
        client,
    ]


if __name__ == "__main__":
    app.run(main)
