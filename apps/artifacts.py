"""Where apps/export.py writes each kind of artifact, and how each is used."""

import pathlib
import re

import finished_run
from absl import flags
from app_start import lazy_import

serving_configs = lazy_import("sd_keras.export.serving_configs")

KINDS = ("saved_model", "lite", "lite_cascade", "onnx", "keras")
ENDINGS = {"lite": ".tflite", "onnx": ".onnx", "keras": ".keras"}

FLAGS = flags.FLAGS
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


def paths(kinds):
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
    found = {
        "saved_model": models / name,
        "lite": folder / f"{stem}{rounded}.tflite",
        "lite_cascade": folder / f"{name}_cascade{rounded}",
        "onnx": folder / f"{stem}.onnx",
        "keras": folder / f"{stem}_stock.keras",
    }
    if FLAGS.to != "all" and FLAGS.output:
        found[FLAGS.to] = pathlib.Path(FLAGS.output)
    if not found["saved_model"].name.isdigit():
        found["saved_model"] /= str(next_version(found["saved_model"]))
    return {kind: _checked(found[kind], ENDINGS.get(kind)) for kind in kinds}


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
    """Returns the number behind the highest of a folder of versions, 1 in a new one."""
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
