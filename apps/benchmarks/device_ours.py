"""Our side of `benchmark.py train --device`: an ordinary `fit` whose epochs are turns.

Run as a process of its own by benchmarks.device, with its settings as JSON.
"""

import json
import sys
from types import SimpleNamespace

from benchmarks.accelerators import peak_memory
from benchmarks.images import batch
from benchmarks.turns import Turns, turns_callback

# Turns end when no more is asked for.
MANY = 10**6


def main(settings):
    """Says what is trained, then trains an epoch at each line of input."""
    turns = Turns()
    import keras
    from benchmarks.trainers import multiply_accumulates, trainer

    from sd_keras.data import OnDevice

    try:
        model = trainer(settings, settings.precision, settings.method)
    except ValueError as error:  # for instance of an unknown model
        raise SystemExit(str(error)) from None
    images = batch(settings, settings.steps * settings.batch_size)
    data = OnDevice(*images, settings.batch_size, seed=0, drop_remainder=True, steps=settings.block)
    turns.answer(macs=multiply_accumulates(model), beside="")
    if turns.wait():
        framework = keras.config.backend()
        callback = turns_callback(turns, lambda: peak_memory(framework))
        model.fit(data, epochs=MANY, verbose=0, callbacks=[callback])


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))
