"""Trains on one device and under keras.distribution on two; writes what came of both.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 \\
        python tests/jax_parallel_run.py OUTPUT.npz

The names in the file are CASE, NUMBER OF DEVICES and what was found, divided by blanks.
"""

import sys

import jax
import keras
import numpy as np
from conftest import tiny_network

import sd_keras
from sd_keras import methods
from sd_keras.distortions import CropFlip

BOTH = methods.be_your_own_teacher() + methods.data_distortion(mmd_weight=0.1)
SGD = {"learning_rate": 0.05, "momentum": 0.9}
CLIPNORM = 0.1


def images_and_labels(count=44):
    """Two views of each; with batches of 16 the last has 12."""
    generator = np.random.default_rng(0)
    views = tuple(generator.integers(0, 256, (count, 8, 8, 1)).astype("uint8") for _ in range(2))
    return views, generator.integers(0, 4, count).astype("int32")


def model_of(method, distortion=None, **settings):
    keras.utils.set_random_seed(0)
    network = tiny_network(at=None if method.min_exits > 1 else [])
    model = sd_keras.SelfDistillModel(network, method, distortion)
    model.compile(sd_keras.optimizers.SGD(**SGD | settings), metrics=["accuracy"])
    return model


def trained(model, x, labels, **options):
    """Everything that a fit leaves behind, by name."""
    options = {"batch_size": 16, "shuffle": False, "verbose": 0} | options
    found = {"history": model.fit(x, labels, **options).history}
    found["variable"] = {str(i): v.numpy() for i, v in enumerate(model.variables)}
    slots = enumerate(model.optimizer.variables)
    found["slot"] = {f"{i} {v.name}": v.numpy() for i, v in slots}
    return found


def same():
    """Both methods on ready-made views, an evaluation and a prediction."""
    model = model_of(BOTH, weight_decay=1e-3)
    views, labels = images_and_labels()
    found = trained(model, views, labels, epochs=2, validation_data=(views[0], labels))
    options = {"batch_size": 16, "verbose": 0}
    found["evaluate"] = model.evaluate(views[0], labels, return_dict=True, **options)
    return found | {"predict": model.predict(views[0], **options)}


def options():
    """One exit; an update after every second batch, each variable's gradient clipped."""
    settings = {"clipnorm": CLIPNORM, "gradient_accumulation_steps": 2}
    (images, _), labels = images_and_labels(64)
    return trained(model_of(methods.baseline(), **settings), images, labels)


def drawn():
    """Views drawn in the step: of one image 16 times, and what training on such comes to."""
    (images, _), labels = images_and_labels(32)
    distortion = CropFlip(2, seed=0)
    found = trained(model_of(methods.data_distortion(), distortion), images, labels)

    def view(batch):
        with keras.StatelessScope():
            return distortion(batch)

    batch = np.repeat(images[:1], 16, axis=0)
    distribution = keras.distribution.distribution()
    if distribution is not None:
        layout = distribution.get_data_layout(batch.shape).backend_layout
        batch = jax.device_put(batch, layout)
        assert [len(shard.data) for shard in batch.addressable_shards] == [8, 8]
    return found | {"view": {"0": np.asarray(jax.jit(view)(batch))}}


def uneven():
    """What is said about batches that the devices cannot share."""
    (images, _), labels = images_and_labels(30)
    try:
        model_of(methods.baseline()).fit(images, labels, batch_size=15, verbose=0)
    except ValueError as error:
        return {"error": {"text": str(error)}}
    return {"error": {"text": ""}}


def main(output):
    """Runs every case on one device, then on two."""
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 2, devices
    everything = {}
    for distribution in (None, keras.distribution.DataParallel(devices=devices)):
        keras.distribution.set_distribution(distribution)
        count = 1 if distribution is None else 2
        cases = (same, options, drawn) if count == 1 else (same, options, drawn, uneven)
        for case in cases:
            found = case()
            everything |= {
                f"{case.__name__} {count} {kind} {name}".replace("/", "|"): value
                for kind, values in found.items()
                for name, value in values.items()
            }
    np.savez(output, **everything)


if __name__ == "__main__":
    main(sys.argv[1])
