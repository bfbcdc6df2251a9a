"""Every network with every method in every precision, one training step each."""

import gc

import keras
import numpy as np
import pytest

from sd_keras import SelfDistillModel, attach_exits, exit_names, methods, models
from sd_keras.distortions import CropFlip

pytestmark = pytest.mark.slow

SMALLEST = {"alexnet": 67} | {name: 32 for name in models.MODELS if name.startswith("vgg")}
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", models.MODELS)
def test_every_method_trains_one_step(name, precision):
    keras.config.set_dtype_policy(precision)
    size = SMALLEST.get(name, 8)
    backbone = models.build(name, (size, size, 3))
    networks = {
        plain: attach_exits(backbone, 5, at=[] if plain else None) for plain in (True, False)
    }
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype="uint8")
    both = methods.be_your_own_teacher() + methods.data_distortion()
    for method in (*(build() for build in methods.METHODS.values()), both):
        network = networks[method.min_exits == 1]
        model = SelfDistillModel(network, method, CropFlip(1, seed=0))
        model.compile("sgd", run_eagerly=True)
        history = model.fit(images, np.arange(4), batch_size=4, verbose=0).history
        assert set(model.term_names) <= set(history), method.name
        assert all(np.isfinite(values).all() for values in history.values()), method.name
        outputs = model.predict(images, verbose=0)
        for exit_name in exit_names(network):
            assert outputs[exit_name].dtype == "float32" and outputs[exit_name].shape == (4, 5)
    keras.utils.clear_session()
    gc.collect()
