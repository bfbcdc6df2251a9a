"""Trains a small-image classifier by self-distillation and measures every exit.

    python apps/train_cifar.py                                    # digits, both methods
    python apps/train_cifar.py --compare                          # beside the plain network
    python apps/train_cifar.py --dataset=cifar100 --data_dir=DIR --model=resnet18 \\
        --method=be_your_own_teacher --epochs=200 --batch_size=128 --workdir=runs/r18
    python apps/train_cifar.py --method=knowledge_distillation --teacher=resnet32

Rerun the same command to resume; after SIGTERM it has saved the last epoch and ended with exit
code 75. The workdir then holds network.keras, saved_model/1, results.json, log.csv and TensorBoard
files. A finished run is trained further by more --epochs with --schedule=constant, or with
--schedule given again.
"""

import time

import run_data
import run_recipe
import run_settings
from absl import app, flags
from app_start import lazy_import
from run_settings import build_method, settings_of_run

keras = lazy_import("keras")
sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
report = lazy_import("sd_keras.report")
run_training = lazy_import("run_training")

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_settings)
flags.adopt_module_key_flags(run_recipe)
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
# Flags that say how to run, not what: they may change when a run is resumed.
RUNTIME_FLAGS = ("workdir", "data_dir", "compare", "export", *run_recipe.RUNTIME_FLAGS)


def main(argv):
    """Trains, measures, saves and exports one run."""
    run_training.run_app(argv, run)


def run(workdir):
    """Carries out the run of the flags, and the plain one next to it if asked for."""
    keras.config.set_dtype_policy(FLAGS.precision)
    asked, path = settings_of_run(RUNTIME_FLAGS), workdir / "flags.json"
    run_training.refuse_other_settings(path, asked, run_recipe.extendable_settings(path, asked))
    run_settings.check_networks()
    run_recipe.check_batches()
    splits = sd_keras.data.load(
        FLAGS.dataset, FLAGS.data_dir, FLAGS.image_size, FLAGS.validation, FLAGS.seed
    )
    teacher = teacher_of_run(splits, workdir)
    results = train_and_measure(splits, FLAGS.method, workdir, FLAGS.model, teacher)
    plain = None
    if FLAGS.compare:
        print("plain baseline:")
        plain = train_and_measure(splits, "baseline", workdir / "baseline", FLAGS.model)
    print()
    print(report.exits_table(*results, baseline=plain))
    run_training.print_files(workdir)


def teacher_of_run(splits, workdir):
    """Returns the teacher that the flags ask for, trained before if need be; or None."""
    if not FLAGS.teacher:
        return None
    file = None
    if name := run_settings.teacher_to_train():
        # Built once with it untrained, so that a wrong flag is found before it is trained.
        untrained = build_network(splits, name, "one")
        build_model(splits, FLAGS.method, FLAGS.model, untrained)
        print("teacher:")
        train_and_measure(splits, "baseline", workdir / "teacher", name)
        file = workdir / "teacher/network.keras"
    return run_settings.load_teacher(splits.input_shape, splits.num_classes, file)


def train_and_measure(splits, method_name, workdir, model_name, teacher=None):
    """Trains or resumes one network; returns its costs and its accuracies per exit."""
    start = time.perf_counter()
    settings = settings_of_run(RUNTIME_FLAGS) | {"model": model_name, "method": method_name}
    if results := run_training.finished_results(workdir, settings):
        return results["costs"], results["measured"]
    # The seed draws which of the training images they are.
    images, labels = run_data.part_of(splits.train, FLAGS.fraction, FLAGS.seed)
    keras.utils.set_random_seed(FLAGS.seed)
    model = build_model(splits, method_name, model_name, teacher)
    held = len(splits.validation[0]) if splits.validation else 0
    print(
        f"{splits.name}: {len(images)}, {held} and {len(splits.test[0])} images to train, "
        f"validate and test, {splits.input_shape}; {model_name} with {len(model.exit_names)} "
        f"exits; {model.method.name}"
    )
    size = run_recipe.evaluation_batch()
    run_recipe.check_compiled(model.network, splits.test[0][:size])
    batches = run_recipe.build_batches(method_name, images, labels)
    minutes = FLAGS.checkpoint_minutes or None
    backup = sd_keras.Backup(workdir / "backup", keep=2, every_minutes=minutes)
    seconds = run_training.EpochSeconds(workdir / "seconds.json")
    with run_training.RunFolder(workdir, {"flags.json": settings}) as folder:
        model.fit(
            batches,
            shuffle=False,  # the batches bring their own order
            epochs=FLAGS.epochs,
            validation_data=splits.validation,
            validation_batch_size=size,
            verbose=0,
            callbacks=[
                *run_training.run_callbacks(workdir, backup, FLAGS.epochs, len(images)),
                seconds,
                run_training.TimeLimit(FLAGS.minutes, backup),
                folder,
            ],
        )
        about = {"seconds": round(time.perf_counter() - start, 1), "flags": settings}
        about["resumed_after_epoch"] = (backup.resumed_at or (0, 0))[0]
        about["training_seconds"] = seconds.total(FLAGS.epochs)
        results = run_training.finish(
            workdir,
            model.network,
            lambda network: measure(network, splits, size),
            about,
            {"data": splits.name, "network": model_name},
            FLAGS.export,
            class_names=splits.class_names,
        )
    return results["costs"], results["measured"]


def measure(network, splits, batch_size):
    """Returns the accuracies per exit on the validation and test images."""
    parts = {"validation": splits.validation, "test": splits.test}
    parts = {name: part for name, part in parts.items() if part is not None and len(part[0])}
    return {name: analysis.evaluate_exits(network, *p, batch_size) for name, p in parts.items()}


def build_network(splits, name, exits):
    """Builds a backbone with exits."""
    backbone = sd_keras.models.build(
        name, splits.input_shape, FLAGS.stem, mean=splits.mean, std=splits.std
    )
    return sd_keras.attach_exits(backbone, splits.num_classes, at=None if exits == "all" else [])


def build_model(splits, method_name, name, teacher=None):
    """Builds a network, what it learns beside, distortion and optimizer."""
    steps = -(-max(1, round(FLAGS.fraction * len(splits.train[0]))) // FLAGS.batch_size)
    method = build_method(method_name, FLAGS.epochs, steps)
    exits = FLAGS.exits or ("all" if method.min_exits > 1 else "one")
    # The plain network beside, or a teacher to be, learns from no other.
    own = name == FLAGS.model and method_name == FLAGS.method
    peer = FLAGS.peer if own else None
    model = sd_keras.SelfDistillModel(
        build_network(splits, name, exits),
        method,
        run_recipe.build_distortion(splits.input_shape, FLAGS.dataset),
        run_recipe.build_mixing(),
        teacher=teacher,
        peer=peer and build_network(splits, peer, "one"),
        adversary=run_recipe.build_adversary() if own else None,
    )
    model.compile(run_recipe.build_optimizer(steps), metrics=["accuracy"])
    return model


if __name__ == "__main__":
    app.run(main)
