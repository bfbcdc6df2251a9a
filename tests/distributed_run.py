"""Trains a tiny network under a strategy and writes what came of it; one process a worker.

    python tests/distributed_run.py STRATEGY DEVICES OUTPUT.npz CASE

STRATEGY is a name of `sd_keras.distribute`; with DEVICES 2 the CPU counts as two. The workers
of "multi_worker" are told by TF_CONFIG. CASE is "same" or "stream:FOLDER", where ready-made views
and synchronised normalisation make all strategies come to the same, "backed_up:FOLDER", or
"beside", "refused", "options" or "drawn".
"""

import contextlib
import pathlib
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf
from conftest import smallest_network, tiny_network

import sd_keras
from sd_keras import data, distribute, methods
from sd_keras.distortions import CropFlip


def images_and_labels(count=44):
    """Two views of each; with batches of 16 the last has 12."""
    generator = np.random.default_rng(0)
    views = tuple(generator.integers(0, 256, (count, 8, 8, 1)).astype("uint8") for _ in range(2))
    return views, generator.integers(0, 4, count).astype("int32")


def batches(*arrays, size=16):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def model_of(
    method=None, distortion=None, synchronized=True, optimizer=None, shape=(8, 8, 1), **compile_with
):
    """With both methods; with the plain one on the smallest network."""
    keras.utils.set_random_seed(0)
    both = methods.be_your_own_teacher() + methods.data_distortion(mmd_weight=0.1)
    is_plain = method is not None and method.num_views == 1
    network = (
        smallest_network(shape)
        if is_plain
        else tiny_network(4, [] if method else None, input_shape=shape)
    )
    if synchronized:
        distribute.synchronize(network)
    model = sd_keras.SelfDistillModel(network, method or both, distortion)
    optimizer = optimizer or sd_keras.optimizers.SGD(0.05, weight_decay=1e-3)
    model.compile(optimizer, **{"metrics": ["accuracy"], "jit_compile": False} | compile_with)
    return model


def check_shuffled_arrays(model, views, labels):
    """Each worker would shuffle them on its own."""
    try:
        model.fit(views, labels)
    except ValueError as error:
        assert "`shuffle` must be False for arrays" in str(error)
    else:
        raise AssertionError("shuffled arrays were accepted")


def same():
    """Everything that a fit, an evaluation and a prediction come to, by name."""
    model = model_of()
    views, labels = images_and_labels()
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        check_shuffled_arrays(model, views, labels)
    held = batches(views[0], labels)
    options = {"validation_data": held, "shuffle": False, "verbose": 0}
    found = {"history": model.fit(batches(views, labels), epochs=2, **options).history}
    found["evaluate"] = model.evaluate(held, return_dict=True, verbose=0)
    found["predict"] = model.predict(held, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    found["variable"] = {f"{i} {v.path}": v.numpy() for i, v in enumerate(variables)}
    return {f"{k} {name}".replace("/", "|"): v for k, d in found.items() for name, v in d.items()}


def beside():
    """What two epochs beside a teacher and a peer, and behind the own past, come to."""
    views, labels = images_and_labels()
    pair = methods.fitnet(1.0, alpha=0.5) + methods.deep_mutual_learning()
    past = methods.progressive(steps=6) + methods.two_branch()
    found = {}
    for name, method, kinds in (("pair", pair, ("teacher", "peer")), ("past", past, ())):
        keras.utils.set_random_seed(0)
        network, *others = (distribute.synchronize(tiny_network(4, [])) for _ in (0, *kinds))
        model = sd_keras.SelfDistillModel(network, method, **dict(zip(kinds, others)))
        model.compile(sd_keras.optimizers.SGD(0.05), metrics=["accuracy"], jit_compile=False)
        x = views if method.num_views > 1 else views[0]
        history = model.fit(batches(x, labels), epochs=2, shuffle=False, verbose=0).history
        found |= {f"{name} {key}": values for key, values in history.items()}
        found |= {f"{name} {i}": v.numpy() for i, v in enumerate(model.weights)}
    return found


def streamed(folder):
    """What two steps and an evaluation on image files come to, each worker reading its own."""
    shape = (16, 16, 3)
    model = model_of(methods.data_distortion(), shape=shape)
    train = data.stream(folder, 12, size=16, views=2, seed=1)
    held = data.stream(folder, 12, "validation", size=16, protocol="center")
    found = {"history": model.fit(train, validation_data=held, verbose=0).history}
    found["evaluate"] = model.evaluate(held, return_dict=True, verbose=0)
    found["weights"] = {v.path: v.numpy() for v in model.network.weights}
    return {f"{k} {name}".replace("/", "|"): v for k, d in found.items() for name, v in d.items()}


class At(keras.callbacks.Callback):
    """Calls a function of the model in front of one step."""

    def __init__(self, step, function):
        super().__init__()
        self.step, self.function = step, function

    def on_train_batch_begin(self, batch, logs=None):
        if self.step is not None and self.model.optimizer.iterations == self.step:
            self.step = None  # once, also where the count goes back
            self.function(self.model)


def stop(model):
    raise InterruptedError


def spoil(model):
    bias = model.network.trainable_weights[-1]
    bias.assign(bias * np.float32("nan"))


def backed_up(folder):
    """What two replicas come to that roll back; what one does that goes on where two stopped."""
    backups, strategy = pathlib.Path(sys.argv[3]).parent, distribute.strategy("mirrored")

    def fit(name, scope, at=None, epochs=1, **kwargs):
        with scope:
            model = model_of(methods.baseline(), shape=(16, 16, 3))
            backup = sd_keras.Backup(backups / name, 1, **kwargs)
            train = data.stream(folder, 12, size=16, seed=1)
            with contextlib.suppress(InterruptedError):
                model.fit(
                    train, epochs=epochs, verbose=0, callbacks=[backup, *([at] if at else [])]
                )
        return model, backup

    spoiled, backup = fit("spoiled", strategy.scope(), At(3, spoil), 3, on_divergence="roll_back")
    found = {"roll_backs": backup.roll_backs, "iterations": spoiled.optimizer.iterations.numpy()}
    replicas = [strategy.experimental_local_results(v.value) for v in spoiled.network.weights]
    found |= {
        f"replica_{i}": np.concatenate([r[i].numpy().ravel() for r in replicas]) for i in (0, 1)
    }
    fit("stopped", strategy.scope(), At(1, stop))
    with warnings.catch_warnings(record=True) as caught:
        resumed, backup = fit("stopped", contextlib.nullcontext())
    found["resumed_at"] = backup.resumed_at
    found["warned"] = sum(
        "metrics of epoch 1 count its steps from 1" in str(w.message) for w in caught
    )
    whole, _ = fit("whole", contextlib.nullcontext())
    for name, model in (("resumed", resumed), ("whole", whole)):
        found[name] = np.concatenate([v.numpy().ravel() for v in model.network.weights])
    return found


def message(data=None, **kwargs):
    """The error of a plain fit."""
    (images, _), labels = images_and_labels()
    data = data or (images, labels)
    model = model_of(methods.baseline(), metrics=None, **kwargs)
    try:
        model.fit(batches(*data), shuffle=False, verbose=0)
    except (ValueError, ArithmeticError) as error:
        return str(error)
    return "nothing"


def refused():
    """What is said about each thing that would fail or go wrong, by name."""
    optimizer = sd_keras.optimizers.SGD
    found = {
        name: message(optimizer=optimizer(0.1, **{name: value}))
        for name, value in (
            ("clipnorm", 1.0),
            ("global_clipnorm", 1.0),
            ("clipvalue", 1.0),
            ("gradient_accumulation_steps", 2),
        )
    }
    ema = optimizer(0.1, use_ema=True, ema_overwrite_frequency=2)
    found["ema_overwrite_frequency"] = message(optimizer=ema)
    found["jit_compile"] = message(jit_compile=True)
    keras.config.set_dtype_policy("mixed_float16")
    found["mixed_float16"] = message()
    keras.config.set_dtype_policy("float32")
    (images, _), labels = images_and_labels()
    found["empty"] = message((images[:33], labels[:33]))
    found["labels"] = message((images, np.where(np.arange(44) == 15, 7, labels)))
    found["nan"] = message((images + np.float32("inf"), labels))
    for layer in ("Stock", "Subclass", "Own"):
        found[f"synchronized {layer}"] = unsynchronized(layer, images, labels)
    return found


class Subclass(keras.layers.BatchNormalization):
    """One of another library."""


def unsynchronized(kind, images, labels):
    """The error of a fit with a normalisation whose statistics would drift apart."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(image)
    kinds = {"Stock": keras.layers.BatchNormalization, "Subclass": Subclass}
    # Over another axis TensorFlow's kernel does not serve.
    norm = kinds[kind]() if kind in kinds else sd_keras.layers.BatchNormalization(axis=1)
    network = sd_keras.attach_exits(keras.Model(image, norm(x)), 4, at=[])
    model = sd_keras.SelfDistillModel(network)
    model.compile("sgd", jit_compile=False)
    try:
        model.fit(batches(images, labels), verbose=0)
    except ValueError as error:
        return str(error)
    return "nothing"


def options():
    """Losses of one epoch and of an evaluation under options, by name."""
    views, labels = images_and_labels(48)
    found = {}

    def losses(name, **kwargs):
        model = model_of(**kwargs)
        history = model.fit(batches(views, labels), shuffle=False, verbose=0).history
        found[name] = np.array(
            [history["loss"][0], model.evaluate(batches(views[0], labels), verbose=0)[0]]
        )
        return model

    model = losses("steps_1")
    before = found["steps_1"]
    # Compiled again, what is reported is of the new metrics.
    model.compile(sd_keras.optimizers.SGD(0.05), metrics=["accuracy"], jit_compile=False)
    data = batches(views, labels)
    history = model.fit(data, shuffle=False, verbose=0, epochs=2).history
    assert history["loss"][1] < history["loss"][0] < before[0]
    losses("steps_3", steps_per_execution=3)
    ema = sd_keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5, weight_decay=1e-3)
    losses("ema", optimizer=ema)
    keras.config.set_dtype_policy("mixed_bfloat16")
    losses("mixed_bfloat16")
    return found


def drawn():
    """What the replicas draw and keep after an epoch with a distortion and plain normalisation."""
    views, labels = images_and_labels(48)
    found = {}
    model = model_of(methods.data_distortion(), CropFlip(1, seed=0), synchronized=False)
    model.fit(batches(views[0], labels), shuffle=False, verbose=0)
    strategy = tf.distribute.get_strategy()
    moving = model.network.get_layer("stem_norm").moving_variance.value
    found["moving"] = np.stack([v.numpy() for v in strategy.experimental_local_results(moving)])
    generator = model.distortion.seed_generator
    draws = strategy.run(lambda: keras.random.uniform((2,), seed=generator))
    found["replica_draws"] = np.stack(
        [d.numpy() for d in strategy.experimental_local_results(draws)]
    )
    return found


if __name__ == "__main__":
    name, devices, output, case = sys.argv[1:]
    cpu = tf.config.list_physical_devices("CPU")[0]
    single = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [single] * int(devices))
    case, _, folder = case.partition(":")
    cases = {"same": same, "refused": refused, "options": options, "drawn": drawn}
    cases["beside"] = beside
    cases |= {"stream": streamed, "backed_up": backed_up}
    strategy = distribute.strategy(name)
    # Within the scope of no strategy another could not be entered.
    with strategy.scope() if name != "none" else contextlib.nullcontext():
        found = cases[case](*([f"folder:{folder}"] if folder else []))
    if distribute.is_chief(strategy):
        np.savez(output, **found)
