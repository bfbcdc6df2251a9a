"""A trained network as a `.keras` file that needs Keras only."""

import keras
from keras import layers

from sd_keras.checkpoints import write_whole
from sd_keras.export.parts import ENSEMBLE, chosen, ensure_parent, new_path
from sd_keras.models.exits import exit_names, submodel
from sd_keras.models.stock import stock


def write_keras(network, path, exit=None, fold=False, packages=()):
    """Writes a `.keras` file that loads where this library is not installed.

    There `keras.models.load_model(path)` gives a model of Keras's own layers from raw pixels
    `(n, height, width, channels)` to the answers: of one exit, logits `(n, classes)`; of
    `"ensemble"`, the mean of the exits' probabilities (BYOT section 4.2), `(n, classes)`,
    float32; of all, the network's dict of `exit_1 …` and `features_1 …`.

    Args:
        network: made by `attach_exits`.
        path: of the file to create, which ends in `.keras`. It appears whole or not at all;
            missing folders are made.
        exit: one of `exit_names(network)`, `"ensemble"`, or None for all exits.
        fold: write the form for inference, as `stock` makes it.
        packages: packages, such as `"keras_hub"`, that the file may need besides Keras.

    Raises:
        FileExistsError: if `path` exists.
        ValueError: if `path` ends otherwise, there is no such exit, or the file would need
            another package.
    """
    path = new_path(path, ".keras")
    names = exit_names(network)
    chosen(network, exit)  # refuses another exit
    if exit == ENSEMBLE:
        logits = [network.output[name] for name in names]
        probabilities = [layers.Softmax(dtype="float32")(each) for each in logits]
        # Average wants two at least.
        mean = layers.Average(dtype="float32")(probabilities) if names[1:] else probabilities[0]
        model = keras.Model(network.input, mean, name=f"{network.name}_ensemble")
    else:
        model = network if exit is None else submodel(network, exit)
    model = stock(model, fold, packages)
    with ensure_parent(path):
        write_whole(path, model.save)
