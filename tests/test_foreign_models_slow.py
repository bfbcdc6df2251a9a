"""Exits without arguments on every convolutional model of keras.applications."""

import gc

import keras
import pytest
from test_foreign_models import application

from sd_keras import analysis, attach_exits, exit_names, submodel

pytestmark = pytest.mark.slow

NAMES = [
    *("VGG16", "VGG19", "Xception", "InceptionV3", "InceptionResNetV2"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("DenseNet121", "DenseNet169", "DenseNet201", "NASNetMobile", "NASNetLarge"),
    *(f"EfficientNetB{i}" for i in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
]
SIZES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}


@pytest.mark.parametrize("name", NAMES)
def test_exits_without_arguments(name):
    backbone = application(name, SIZES.get(name, 64))
    network = attach_exits(backbone, 5)
    names = exit_names(network)
    assert len(names) == 4
    own = {id(variable) for variable in network.variables}
    assert {id(variable) for variable in backbone.variables} <= own
    costs = analysis.costs(network)
    plain = analysis.costs(attach_exits(backbone, 5, at=[]))["exit_1"]
    assert costs[names[-1]] == plain
    sizes = [len(submodel(network, exit_name).layers) for exit_name in names[:-1]]
    assert sizes == sorted(set(sizes))
    taps = [network.get_layer(f"bottleneck_{i}").input for i in (1, 2, 3)]
    shares = [round(costs[exit_name]["macs"] / plain["macs"], 2) for exit_name in names]
    print(name, [t._keras_history.operation.name for t in taps], shares)
    del backbone, network, taps
    keras.utils.clear_session()
    gc.collect()
