"""Noise and gradients of one network on the backend of KERAS_BACKEND; prints them as JSON."""

import itertools
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from conftest import bright_and_dark, tiny_model
from keras import ops

from sd_keras import analysis, methods


def same_weights(network):
    """Gives the network weights that are the same on every backend."""
    generator = np.random.default_rng(0)
    for weight in network.trainable_weights:
        size = np.sqrt(2 / max(1, np.prod(weight.shape[:-1])))
        values = generator.normal(size=weight.shape) * size
        weight.assign(values + (len(weight.shape) == 1))
    return network


def main():
    """Returns what each analysis finds."""
    images, labels = bright_and_dark(), np.arange(32) % 4
    model = tiny_model(methods.get("be_your_own_teacher"))
    network = same_weights(model.network)
    noise = analysis.weight_noise(network, images, labels, [0.0, 0.05], 2, batch_size=20)
    found = {name: own["cross_entropy"].tolist() for name, own in noise.items()}
    found["gradients"] = analysis.gradient_magnitudes(model, images, labels, 16)["mean"].tolist()
    ablated = analysis.unit_ablation(network, images, labels, [0.0, 0.5], 3)
    found["ablation"] = [own.tolist() for own in ablated.values()]
    turn = itertools.cycle([lambda view: view, lambda view: ops.flip(view, 2)])
    views = analysis.consistency(network, images, lambda view: next(turn)(view))
    found["consistency"] = [own["symmetric_kl"].tolist() for own in views.values()]
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
