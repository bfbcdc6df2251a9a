"""Trains ImageNet networks by self-distillation, on one device or many, and cannot lose a run.

    python apps/train_imagenet.py --data_dir=DIR --model=resnet50 --workdir=runs/r50
    python apps/train_imagenet.py --dataset=folder:PATH --recipe=modern --precision=mixed_bfloat16
    TF_CONFIG=… python apps/train_imagenet.py --strategy=multi_worker …       # on every worker

Rerun the same command to resume bit-exactly; after SIGTERM it has saved the run and ended with
exit code 75. The workdir holds backup/, network.keras, saved_model/1,
results.json, flags.json, recipe.json, log.csv and TensorBoard files. Not run at full length by
this project; docs/training.md says what was.
"""

import dataclasses
import json
import sys

import run_settings
from absl import app, flags
from app_start import lazy_import
from run_settings import build_method, portable_settings, settings_of_run

keras = lazy_import("keras")
sd_keras = lazy_import("sd_keras")
analysis = lazy_import("sd_keras.analysis")
callbacks = lazy_import("sd_keras.callbacks")
checkpoints = lazy_import("sd_keras.checkpoints")
crops = lazy_import("sd_keras.data.crops")
distribute = lazy_import("sd_keras.distribute")
recipes = lazy_import("sd_keras.recipes")
report = lazy_import("sd_keras.report")
run_training = lazy_import("run_training")
tf = lazy_import("tensorflow")

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(run_settings)
flags.DEFINE_string("dataset", "imagenet2012", "a TFDS name or folder:PATH")
flags.DEFINE_string("data_dir", None, "where the prepared TFDS files lie")
flags.DEFINE_string("train_split", "train", "images to train on; of TFDS also a part of a split")
flags.DEFINE_string("eval_split", "validation", "images to measure on; nothing is chosen by them")
flags.DEFINE_float("max_bad_images", 0.01, "unreadable images, a share or a number, to stop at", 0)
flags.DEFINE_string("model", "resnet50", "the backbone, a name of sd_keras.models.MODELS")
flags.DEFINE_enum("stem", "imagenet", ["cifar", "imagenet"], "stem of the network")
flags.DEFINE_enum(
    "recipe",
    None,
    ["resnet", "vgg", "alexnet", "modern"],
    "see sd_keras.recipes (default: the network's paper's)",
)
flags.DEFINE_integer("epochs", None, "in place of the recipe's", 1)
flags.DEFINE_integer(
    "batch_size", None, "images per step of all replicas, in place of the recipe's", 1
)
flags.DEFINE_float("learning_rate", None, "in place of the recipe's", 0)
flags.DEFINE_float("weight_decay", None, "in place of the recipe's", 0)
flags.DEFINE_integer("image_size", None, "in place of the recipe's", 1)
flags.DEFINE_integer("accumulate", 1, "steps whose gradients are averaged for one update", 1)
flags.DEFINE_enum(
    "strategy", "none", ["none", "mirrored", "multi_worker", "tpu"], "how to use several devices"
)
flags.DEFINE_bool("synchronize", False, "normalise over the batches of all replicas")
flags.DEFINE_bool("xla", False, "compile the step by XLA; not with several replicas")
flags.DEFINE_integer("steps_per_execution", 1, "steps between two returns to Python", 1)
flags.DEFINE_string("workdir", "runs/imagenet", "folder of the run; resumes what it holds")
flags.DEFINE_integer("backup_steps", 500, "steps between backups; one more ends each epoch", 1)
flags.DEFINE_integer("keep", 3, "backups that are kept", 1)
flags.DEFINE_enum(
    "on_divergence", "stop", ["stop", "roll_back"], "when the loss is NaN or too high"
)
flags.DEFINE_float("max_loss", None, "loss of a step that counts as divergence, as NaN does", 0)
# Flags that say how to run, not what: they may change when a run is resumed.
RUNTIME_FLAGS = (
    *("data_dir", "strategy", "steps_per_execution", "workdir", "backup_steps", "keep"),
    *("on_divergence", "max_loss", "max_bad_images"),
)


def main(argv):
    """Trains, measures, saves and exports one run."""
    run_training.run_app(argv, run_as_worker)


def run_as_worker(workdir):
    """Carries out the run; of several workers, ends with code 75 when another has ended."""
    try:
        run(workdir)
    except tf.errors.OpError as error:
        is_multi_worker = FLAGS.strategy == "multi_worker"
        what = "another worker has ended" if is_multi_worker else "error"
        print(f"{what}: {error.message.splitlines()[0]}", file=sys.stderr)
        sys.exit(callbacks.PREEMPTED if is_multi_worker else 1)


def run(workdir):
    """Carries out the run of the flags."""
    keras.config.set_dtype_policy(FLAGS.precision)
    run_settings.check_networks(trains=False)
    recipe, method = recipe_of_flags(), build_method(FLAGS.method)
    figures = json.loads(json.dumps(dataclasses.asdict(recipe)))
    asked = {
        "flags.json": portable_settings(settings_of_run(RUNTIME_FLAGS)),
        "recipe.json": figures,
    }
    for name, content in asked.items():
        run_training.refuse_other_settings(workdir / name, content)
    strategy = distribute.strategy(FLAGS.strategy)
    train, held = streams(recipe, method)
    with strategy.scope():
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(train, recipe, method)
    is_chief = distribute.is_chief(strategy)
    if is_chief:
        announce(train, held, model, strategy)
    with run_training.RunFolder(workdir, asked) as folder:
        history = model.fit(
            train,
            validation_data=held,
            epochs=recipe.epochs,
            verbose=0,
            callbacks=callbacks_of_run(workdir, recipe, train, folder if is_chief else None),
        )
        if is_chief:
            if not history.epoch:
                print("trained before; measured and exported again")
            finish(model, held, workdir, {"train": train.bad_images, "eval": held.bad_images})
    distribute.wait_for_all(strategy)


def recipe_of_flags():
    """Returns the recipe with the figures that flags give in place of its own."""
    if FLAGS.model not in sd_keras.models.MODELS:
        raise ValueError(
            f"`model` must be one of {', '.join(sorted(sd_keras.models.MODELS))}. "
            f"Received: model={FLAGS.model!r}"
        )
    recipe = recipes.RECIPES[FLAGS.recipe or recipes.of_network(FLAGS.model)]
    names = ("epochs", "batch_size", "learning_rate", "weight_decay", "image_size")
    given = {name: getattr(FLAGS, name) for name in names}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in given.items() if v is not None})
    if FLAGS.xla and recipe.rand_augment:
        raise ValueError(
            "`xla` must be false for a recipe with RandAugment, which XLA cannot compile. "
            "Received: xla=True"
        )
    return recipe


def streams(recipe, method):
    """Opens the images to train and to measure on."""
    options = {"data_dir": FLAGS.data_dir, "max_bad_images": FLAGS.max_bad_images}
    options |= {"size": recipe.image_size, "seed": FLAGS.seed}
    views = {"views": method.num_views, "protocol": recipe.protocol}
    opened = sd_keras.data.stream
    train = opened(FLAGS.dataset, recipe.batch_size, FLAGS.train_split, **options, **views)
    held = opened(FLAGS.dataset, recipe.batch_size, FLAGS.eval_split, protocol="center", **options)
    if train.class_names != held.class_names:
        raise ValueError(
            "`eval_split` must have the classes of the training images. Received: "
            f"{held.num_classes} classes, other than the {train.num_classes} to train"
        )
    return train, held


def build_model(train, recipe, method):
    """Builds and compiles backbone, exits, method and optimizer."""
    size = recipe.image_size
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels

    def build(name, at):
        backbone = sd_keras.models.build(name, (size, size, 3), FLAGS.stem, mean=mean, std=std)
        return sd_keras.attach_exits(backbone, train.num_classes, at=at)

    network = build(FLAGS.model, None if method.min_exits > 1 else [])
    beside = {"peer": FLAGS.peer and build(FLAGS.peer, [])}
    if FLAGS.teacher:
        beside["teacher"] = run_settings.load_teacher((size, size, 3), train.num_classes)
    steps = recipe.epochs * train.steps_per_epoch
    if FLAGS.accumulate > steps:
        raise ValueError(
            f"`accumulate` must be at most the {steps} steps of the run, or nothing would be "
            f"trained. Received: accumulate={FLAGS.accumulate}"
        )
    if FLAGS.synchronize:
        for each in filter(None, (network, beside["peer"])):
            distribute.synchronize(each)
    distortion, mixing = recipe.distortion(FLAGS.seed), recipe.mixing(FLAGS.seed)
    model = sd_keras.SelfDistillModel(network, method, distortion, mixing, **beside)
    top_5 = keras.metrics.SparseTopKCategoricalAccuracy(min(5, train.num_classes), name="top_5")
    model.compile(
        recipe.optimizer(train.steps_per_epoch, FLAGS.accumulate),
        loss=recipe.loss(),
        # Weighted, so that images that could not be read do not count.
        weighted_metrics=["accuracy", top_5],
        jit_compile=FLAGS.xla,
        steps_per_execution=FLAGS.steps_per_execution,
    )
    return model


def announce(train, held, model, strategy):
    """Prints what is about to be done."""
    replicas, exits = strategy.num_replicas_in_sync, len(model.exit_names)
    print(
        f"{FLAGS.dataset}: {train.num_examples} and {held.num_examples} images to train and to "
        f"measure on, {train.num_classes} classes; {FLAGS.model} with {exits} "
        f"exit{'s' * (exits > 1)}; {model.method.name}; {train.steps_per_epoch} steps of "
        f"{train.batch_size} images an epoch on {replicas} replica{'s' * (replicas > 1)}",
        flush=True,
    )


def callbacks_of_run(workdir, recipe, train, folder):
    """Returns the backup, and of the chief, which has a folder, what logs the run."""
    backup = sd_keras.Backup(
        workdir / "backup", FLAGS.backup_steps, FLAGS.keep, FLAGS.on_divergence, FLAGS.max_loss
    )
    averages = [keras.callbacks.SwapEMAWeights()] if recipe.ema_epochs else []
    if folder is None:
        return [*averages, backup]
    images = train.steps_per_epoch * train.batch_size
    logging = run_training.run_callbacks(workdir, backup, recipe.epochs, images)
    return [*averages, *logging, folder]


def finish(model, held, workdir, bad_images):
    """Measures, writes and shows the trained network."""
    bad = {name: {"count": b.count, "names": b.names} for name, b in bad_images.items()}
    about = {"bad_images": bad, "flags": settings_of_run(RUNTIME_FLAGS)}
    about["recipe"] = checkpoints.read_json(workdir / "recipe.json")
    results = run_training.finish(
        workdir,
        model.network,
        lambda network: analysis.evaluate_exits(network, held),
        about,
        {"data": FLAGS.dataset, "method": model.method.name, "network": FLAGS.model},
        reload=True,
        class_names=held.class_names,
        preprocessing="center_crop" if held.size <= crops.PAPER_SIZE else "resize",
    )
    print()
    print(report.measures_table(results["measured"]))
    for name, images in bad_images.items():
        if images.count:
            names = ", ".join(images.names)
            print(f"{images.count} images to {name} on could not be read: {names}")
    run_training.print_files(workdir)


if __name__ == "__main__":
    app.run(main)
