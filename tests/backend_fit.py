"""Trains a tiny network for a few steps and prints what came of it; run per backend.

    KERAS_BACKEND=jax python tests/backend_fit.py WEIGHTS OUTPUT

WEIGHTS is written when it does not exist, read when it does, so that every backend starts
from the same network; the views are ready-made, so that draws do not matter.
"""

import json
import pathlib
import sys

import keras
import numpy as np
from conftest import tiny_model, tiny_network

from sd_keras import methods
from sd_keras.adversary import FastGradientSign
from sd_keras.distortions import Affine, Chain, Color, CropFlip, Perspective, ThinPlateSpline
from sd_keras.schedules import WarmUp

# PyTorch 2.13 on an AVX2 processor computes a wrong gradient of 1x1 convolutions of stride 2
# with fewer than 8 channels (oneDNN 3.12, channels last; right with oneDNN switched off).
WIDTHS = (8, 16)


def main(weights, output):
    """Fits, evaluates, predicts, saves, loads, and goes on."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    views = tuple(generator.integers(0, 256, (48, 8, 8, 1)).astype("uint8") for _ in range(2))
    labels = generator.integers(0, 4, 48).astype("int32")
    method = methods.be_your_own_teacher(alpha=WarmUp(0.5, 4)) + methods.data_distortion()
    model = tiny_model(method, widths=WIDTHS)
    if weights.exists():
        model.load_weights(weights)
    else:
        model.save_weights(weights)
    options = {"batch_size": 16, "shuffle": False, "epochs": 2, "verbose": 0}
    validation = (views[0], labels)
    history = model.fit(views, labels, validation_data=validation, **options).history
    logits = model.predict(views[0], verbose=0)
    results = {"history": history, "logits": {k: v.tolist() for k, v in logits.items()}}
    results["drawn"] = drawn_views_go_on(views[0], labels, output.with_suffix(".keras"))
    results["beside"] = beside(views[0], labels)
    results["tensorflow"] = "tensorflow" in sys.modules
    results["bad_labels"] = bad_labels(model, views, labels)
    output.write_text(json.dumps(results))


def drawn_views_go_on(images, labels, path):
    """Trains with draws in the step, saves, loads; returns both continuations' losses."""
    parts = [CropFlip(2, seed=3), Affine(seed=4), Perspective(seed=5), Color(seed=6)]
    distortion = Chain([*parts, ThinPlateSpline(seed=7)])
    model = tiny_model(methods.data_distortion(), distortion, at=[], widths=WIDTHS)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    state = parts[0].seed_generator.state
    before = [keras.ops.convert_to_numpy(state).tolist()]
    model.fit(images, labels, **options)
    before.append(keras.ops.convert_to_numpy(state).tolist())
    model.save(path)
    loaded = keras.models.load_model(path)
    losses = [m.fit(images, labels, **options).history["loss"] for m in (model, loaded)]
    return {"losses": losses, "states": before, "steps": int(loaded.step.value)}


def beside(images, labels):
    """Trains beside other networks; returns the losses by method."""
    keras.utils.set_random_seed(0)
    other = {"teacher": tiny_network(at=[], widths=WIDTHS)}
    cases = {
        "fitnet": (methods.fitnet(1.0, alpha=0.5) + methods.attention_transfer(10.0), other),
        "peer": (methods.deep_mutual_learning(), {"peer": tiny_network(at=[], widths=WIDTHS)}),
        "past": (methods.progressive(steps=6), {"adversary": FastGradientSign(1.0)}),
        "balanced": (methods.balanced(methods.label_smoothing()), {}),
    }
    losses = {}
    for name, (method, more) in cases.items():
        model = tiny_model(method, at=[], widths=WIDTHS, **more)
        # The same on all backends: each has random numbers of its own.
        generator = np.random.default_rng(1)
        for variable in model.weights:
            scale = 1 / np.sqrt(max(1, np.prod(variable.shape[:-1])))
            if variable.path.rpartition("/")[2] in ("gamma", "moving_variance"):
                variable.assign(np.ones(variable.shape))
            elif len(variable.shape) > 1:
                variable.assign(scale * generator.normal(size=variable.shape))
        history = model.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
        losses[name] = history.history
    return losses


def bad_labels(model, views, labels):
    """Returns the error about a class number that a stream brings."""

    class Stream(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return views, np.where(labels == 3, 9, labels)

    try:
        model.fit(Stream(), verbose=0, shuffle=False)
    except ValueError as error:
        # The model must be whole after the error, on JAX too.
        model.predict(views[0], verbose=0)
        model.fit(views, labels, batch_size=16, verbose=0)
        return str(error)
    return None


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
