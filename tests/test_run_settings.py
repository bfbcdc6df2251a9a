"""What flags make of methods, of data and of views."""

import app_in_process
import numpy as np
import pytest
from absl import flags


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("teacher") / "network.keras"
    file.write_text("")
    with app_in_process.isolated():
        return settings(file)


def settings(teacher):
    """What flags come to, by the test that looks at it."""
    import run_data
    import run_settings

    flags.FLAGS(["app"])
    found = {}

    def built(*arguments, name):
        flags.FLAGS.unparse_flags()
        for flag in flags.FLAGS:
            flags.FLAGS[flag].unparse()
        flags.FLAGS(["app", f"--method={name}", *arguments])
        try:
            run_settings.check_networks(trains=False)
            return run_settings.build_method(name, epochs=10, steps=10)
        except ValueError as error:
            return str(error)

    byot = built("--deepest_last=2", "--alternating=5", name="be_your_own_teacher")
    found["turns"] = [[float(w) for w in byot.label_weights(2, s)] for s in (0, 5, 10, 80, 85, 95)]
    ramped = built("--ramp=0.5", "--discrepancy=coral", name="data_distortion")
    found["ramp"] = [[float(o.at(s).weight) for o in ramped.objectives] for s in (0, 25, 50)]
    beside = {"deep_mutual_learning": "--peer=resnet8", "label_smoothing": "--seed=0"}
    beside["attention_transfer"] = f"--teacher={teacher}"
    for name, flag in beside.items():
        method = built("--ramp=0.5", flag, name=name)
        first = method if isinstance(method, str) else float(method.objectives[0].at(0).weight)
        found[name] = first
    found["nothing rises"] = built("--ramp=0.5", name="deep_supervision")
    found["unknown"] = built("--ramp=0.5", "--discrepancy=foo", name="data_distortion")
    found["pairs"] = built(name="class_wise")
    images = np.arange(40)
    found["part"] = [run_data.part_of((images, images), 0.25, s)[0].tolist() for s in (0, 0, 1)]
    plain = run_data.distortion_of({}, (32, 32, 3), "cifar100", 3)
    strong = run_data.distortion_of({"distortion": ["affine", "color"]}, (8, 8, 1), "digits", 3)
    found["views"] = [plain.padding, plain.flip, [type(d).__name__ for d in strong.distortions]]
    found["views"].append([strong.distortions[0].padding, strong.distortions[0].flip])
    return found


def test_the_deepest_exit_is_alone_behind_the_turns(found):
    assert found["turns"] == [[0.5, 1], [1, 1], [0.5, 1], [0, 1], [0, 1], [0, 1]]


def test_every_weight_can_rise(found):
    assert found["ramp"] == [[0, 0], [0.5, 0.25], [1, 0.5]]
    assert [
        found[n] for n in ("deep_mutual_learning", "attention_transfer", "label_smoothing")
    ] == [*(0, 0, 0)]
    assert "`ramp` must be given for a method with a weight that can rise" in found["nothing rises"]


def test_what_cannot_be_is_named(found):
    assert "`discrepancy` must be one of" in found["unknown"]
    assert "`method` class_wise must be left to apps/train_cifar.py" in found["pairs"]


def test_part_and_views_of_a_run(found):
    first, same, other = found["part"]
    assert first == same == sorted(first) != other and len(first) == 10
    assert found["views"] == [4, True, ["CropFlip", "Affine", "Color"], [1, False]]
