"""Our side of `benchmark.py train --device`: an ordinary `fit` whose epochs are turns.

Run as a process of its own by benchmarks.device, with its settings as JSON.
"""

import json
import sys

from benchmarks.accelerators import peak_memory
from benchmarks.turns import Turns, turns_callback

IMAGE_SHAPE = (32, 32, 3)
# Turns end when no more is asked for.
MANY = 10**6


def trainer(settings):
    """Returns a compiled SelfDistillModel as a training script makes it."""
    import keras

    from sd_keras import SelfDistillModel, attach_exits, methods, models
    from sd_keras.distortions import CropFlip
    from sd_keras.optimizers import SGD

    keras.config.set_dtype_policy(settings["precision"])
    keras.utils.set_random_seed(0)
    method = methods.get(settings["method"])
    backbone = models.build(settings["model"], input_shape=IMAGE_SHAPE)
    at = [] if method.min_exits == 1 else None
    network = attach_exits(backbone, settings["num_classes"], at=at)
    model = SelfDistillModel(network, method, CropFlip(seed=0))
    model.compile(SGD(0.1, momentum=0.9, weight_decay=5e-4), metrics=["accuracy"])
    return model


def random_data(settings):
    """Returns random raw images and class numbers for all steps of an epoch."""
    import numpy as np

    count = settings["steps"] * settings["batch_size"]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *IMAGE_SHAPE), dtype="uint8")
    return images, generator.integers(0, settings["num_classes"], count, dtype="int32")


def main(settings):
    """Says what is trained, then trains an epoch at each line of input."""
    turns = Turns()
    import keras

    from sd_keras import analysis
    from sd_keras.data import OnDevice

    try:
        model = trainer(settings)
    except ValueError as error:  # for instance of an unknown model
        raise SystemExit(str(error)) from None
    block = settings["block"]
    data = OnDevice(
        *random_data(settings), settings["batch_size"], seed=0, drop_remainder=True, steps=block
    )
    macs = analysis.costs(model.network)["ensemble"]["macs"] * model.method.num_views
    turns.answer(macs=macs, beside="")
    if turns.wait():
        framework = keras.config.backend()
        callback = turns_callback(turns, lambda: peak_memory(framework))
        model.fit(data, epochs=MANY, verbose=0, callbacks=[callback])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
