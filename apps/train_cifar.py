"""Trains a small-image classifier by self-distillation and measures every exit.

    python apps/train_cifar.py                                    # digits, both methods
    python apps/train_cifar.py --compare                          # beside the plain network
    python apps/train_cifar.py --dataset=cifar100 --data_dir=DIR --model=resnet18 \\
        --method=be_your_own_teacher --epochs=200 --batch_size=128 --workdir=runs/r18
    python apps/train_cifar.py --method=knowledge_distillation --teacher=resnet32

The same command goes on where a run stopped. The workdir then holds network.keras,
saved_model/1, results.json, log.csv and TensorBoard files.
"""

import json
import pathlib
import shlex
import shutil
import sys
import time

import run_data
import run_images
import run_networks
import run_recipe
import run_settings
from absl import app, flags, logging
from app_start import lazy_import
from run_settings import build_method, settings_of_run

keras = lazy_import("keras")
sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
checkpoints = lazy_import("sd_keras.checkpoints")
report = lazy_import("sd_keras.report")
run_machine = lazy_import("run_machine")
run_training = lazy_import("run_training")

FLAGS = flags.FLAGS
for module in (run_settings, run_recipe, run_images, run_networks):
    flags.adopt_module_key_flags(module)
flags.DEFINE_string("dataset", "digits", "digits, a TFDS name, folder:PATH or npz:PATH")
flags.DEFINE_string("data_dir", None, "where the prepared TFDS files lie")
flags.DEFINE_integer("image_size", None, "resize images to this height and width")
flags.DEFINE_float("validation", 0.1, "share of the training images held out, or 0", 0, 0.9)
flags.DEFINE_float("fraction", 1.0, "share of the training images used", 0.001, 1)
flags.DEFINE_string("model", "resnet8", "a name of sd_keras.models.MODELS")
flags.DEFINE_enum("stem", "cifar", ["cifar", "imagenet"], "stem of the network")
flags.DEFINE_enum(
    "exits", None, ["all", "one"], "exits to attach (default: as many as the method trains)"
)
flags.DEFINE_bool(
    "compare", False, "train the plain network too, on the same images, and show it beside"
)
flags.DEFINE_bool("export", True, "write saved_model/1")
flags.DEFINE_string("workdir", "runs/digits", "folder of the run; resumes what it holds")
flags.DEFINE_bool(
    "on_device", False, "keep the images on the device, and run many steps in one program"
)
flags.DEFINE_float(
    "minutes",
    None,
    "train no longer than this, but an epoch at least: end between two with exit code 75, to go "
    "on by the same command",
    0,
)
flags.DEFINE_float(
    "checkpoint_minutes", 0, "wait so long between two checkpoints; 0 for one an epoch", 0
)
# Flags that say how to run, not what: they may change when a run is resumed.
FREE_FLAGS = ("workdir", "data_dir", "compare", "export")
FREE_FLAGS += ("on_device", "minutes", "checkpoint_minutes")


def main(argv):
    """Trains, measures, saves and exports one run."""
    if len(argv) > 1:
        raise app.UsageError(f"flags are written --name=value. Received: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # TensorFlow's notes on saving, file by file
    try:
        run(pathlib.Path(FLAGS.workdir))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(workdir):
    """Carries out the run of the flags, and the plain one beside it if asked for."""
    keras.config.set_dtype_policy(FLAGS.precision)
    checkpoints.refuse_other_settings(workdir / "flags.json", settings_of_run(FREE_FLAGS))
    run_images.check_images()
    run_networks.check_networks()
    run_training.check_training()
    splits = sd_keras.data.load(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.validation, FLAGS.seed
    )
    teacher = teacher_of_run(splits, workdir)
    shown = train_and_measure(splits, FLAGS.method, workdir, FLAGS.model, teacher)
    plain = None
    if FLAGS.compare:
        print("plain baseline:")
        plain = train_and_measure(splits, "baseline", workdir / "baseline", FLAGS.model)
    print()
    print(report.exits_table(*shown, baseline=plain))
    print(f"\nwritten to {workdir}: " + ", ".join(sorted(p.name for p in workdir.iterdir())))


def teacher_of_run(splits, workdir):
    """Returns the teacher that the flags ask for, trained before if need be; or None."""
    if not FLAGS.teacher:
        return None
    file = None
    if name := run_networks.teacher_to_train():
        # Built once with it untrained, so that a wrong flag is found before it is trained.
        untrained = build_network(splits, name, "one")
        build_model(splits, FLAGS.method, FLAGS.model, untrained)
        print("teacher:")
        train_and_measure(splits, "baseline", workdir / "teacher", name)
        file = workdir / "teacher/network.keras"
    return run_networks.load_teacher(splits.input_shape, splits.num_classes, file)


def train_and_measure(splits, method_name, workdir, model_name, teacher=None):
    """Trains or resumes one network; returns its costs and its accuracies per exit."""
    start = time.perf_counter()
    # The seed draws which of the training images they are.
    images, labels = run_data.part_of(splits.train, FLAGS.fraction, FLAGS.seed)
    model, epoch = checkpoints.restore(workdir / "checkpoints")
    if model is None:
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(splits, method_name, model_name, teacher)
        # Only now: a wrong flag must not leave a workdir that the right one is refused.
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(workdir / "flags.json", settings(model_name, method_name))
    else:
        print(f"resuming after epoch {epoch} of {FLAGS.epochs}")
        checkpoints.forget_epochs(workdir / "log.csv", epoch)
    written = [(workdir / name).exists() for name in ("results.json", "network.keras")]
    if epoch == FLAGS.epochs and all(written):
        results = json.loads((workdir / "results.json").read_text())
        return results["costs"], results["measured"]
    held = len(splits.validation[0]) if splits.validation else 0
    print(
        f"{splits.name}: {len(images)}, {held} and {len(splits.test[0])} images to train, "
        f"validate and test, {splits.input_shape}; {model_name} with {len(model.exit_names)} "
        f"exits; {model.method.name}"
    )
    if epoch < FLAGS.epochs:
        some = splits.test[0][: run_training.evaluation_batch()]
        run_training.check_compiled(model.network, some)
        batches = run_training.batches_of(method_name, images, labels, epoch)
        run_training.fit(model, batches, splits.validation, workdir, epoch)
    about = {"seconds": round(time.perf_counter() - start, 1), "resumed_after_epoch": epoch}
    about["training_seconds"] = run_machine.training_seconds(workdir / "seconds.json", FLAGS.epochs)
    about["flags"] = settings(model_name, method_name)
    return finish(model.network, splits, workdir, about)


def method_of(name, splits):
    """Builds the method of a name for the training images of the flags."""
    return build_method(name, FLAGS.epochs, steps_of(splits))


def steps_of(splits):
    """Returns the number of batches of an epoch."""
    return -(-max(1, round(FLAGS.fraction * len(splits.train[0]))) // FLAGS.batch_size)


def settings(model_name, method_name):
    """Returns the flags of a run that trains this network, beside the one asked for or as it."""
    return settings_of_run(FREE_FLAGS) | {"model": model_name, "method": method_name}


def exits_of(method):
    """Returns which exits to attach, "all" or "one"."""
    return FLAGS.exits or ("all" if method.min_exits > 1 else "one")


def build_network(splits, name, exits):
    """Builds a backbone with exits."""
    backbone = sd_keras.models.build(
        name, splits.input_shape, FLAGS.stem, mean=splits.mean, std=splits.std
    )
    return sd_keras.attach_exits(backbone, splits.num_classes, at=None if exits == "all" else [])


def build_model(splits, method_name, name, teacher=None):
    """Builds a network, what it learns beside, distortion and optimizer."""
    method = method_of(method_name, splits)
    # The plain network beside, or a teacher to be, learns from no other.
    own = name == FLAGS.model and method_name == FLAGS.method
    peer = FLAGS.peer if own else None
    model = sd_keras.SelfDistillModel(
        build_network(splits, name, exits_of(method)),
        method,
        run_images.build_distortion(splits.input_shape, FLAGS.dataset),
        run_images.build_mixing(),
        teacher=teacher,
        peer=peer and build_network(splits, peer, "one"),
        adversary=run_images.build_adversary() if own else None,
    )
    model.compile(run_recipe.build_optimizer(steps_of(splits)), metrics=["accuracy"])
    return model


def finish(network, splits, workdir, about_run):
    """Measures and writes the network; returns its costs and its accuracies per exit."""
    checkpoints.write_whole(workdir / "network.keras", network.save)
    costs = analysis.costs(network)
    parts = {"validation": splits.validation, "test": splits.test}
    size = run_training.evaluation_batch()
    measured = {
        name: analysis.evaluate_exits(network, *part, batch_size=size)
        for name, part in parts.items()
        if part is not None and len(part[0])
    }
    if FLAGS.export and keras.config.backend() == "tensorflow":
        shutil.rmtree(workdir / "saved_model/1", ignore_errors=True)
        about = {"data": splits.name, "network": about_run["flags"]["model"], "measured": measured}
        sd_keras.export.saved_model(
            network, workdir / "saved_model/1", class_names=splits.class_names, about=about
        )
    results = {
        "costs": costs,
        "measured": measured,
        **about_run,
        "versions": report.versions(),
        "hardware": run_machine.hardware(),
        "command": shlex.join(["python", *sys.argv]),
    }
    checkpoints.write_json(workdir / "results.json", results)
    return costs, measured


if __name__ == "__main__":
    app.run(main)
