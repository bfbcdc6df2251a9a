"""keras.distribution.DataParallel on two devices of JAX against one."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each case came to, in one process: case → devices → name → values."""
    output = tmp_path_factory.mktemp("jax_parallel") / "found.npz"
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        # Two devices of one processor; half of the time went into optimising what runs once.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": str(TESTS),
    }
    done = subprocess.run(
        [sys.executable, TESTS / "jax_parallel_run.py", output],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = {}
    for key, value in np.load(output).items():
        case, devices, name = key.split(" ", 2)
        cases.setdefault(case, {}).setdefault(int(devices), {})[name] = value
    return cases


@pytest.mark.parametrize("case", ["same", "options", "drawn"])
def test_two_devices_equal_one(found, case):
    one, two = found[case][1], found[case][2]
    assert one.keys() == two.keys()
    kinds = {name.split()[0] for name in one}
    assert {"history", "variable", "slot"} <= kinds
    assert case != "same" or {"evaluate", "predict"} <= kinds
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradients_were_accumulated_and_clipped(found):
    """Else that they come to the same would tell nothing."""
    slots = found["options"][2]
    norms = [np.linalg.norm(v) for name, v in slots.items() if name.endswith("_momentum")]
    # Of 4 batches two updates, each by a gradient whose norm was cut to 0.1.
    most = 0.1 * (1 + 0.9)
    assert len(norms) > 5 and 0.5 * most < max(norms) <= most * 1.001


def test_both_views_and_all_terms_were_trained(found):
    history = found["same"][2]
    for term in ("exit_kl", "exit_hint", "view_kl", "view_mmd", "exit_1_loss"):
        values = history[f"history {term}"]
        assert len(values) == 2 and (values > 0).all()
    assert history["history loss"][1] < history["history loss"][0]


def test_no_two_images_are_drawn_alike_on_the_devices(found):
    """Of 16 equal images, places 5 × 5 and mirrored or not, the first 8 on the first device."""
    view = found["drawn"][2]["view 0"]
    assert view.shape == (16, 8, 8, 1)
    halves = [{image.tobytes() for image in half} for half in (view[:8], view[8:])]
    assert all(len(half) > 5 for half in halves)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(view[:8], view[8:]))
    assert len(halves[0] & halves[1]) < 4


def test_a_batch_that_does_not_divide_is_refused(found):
    assert "evenly divide" in str(found["uneven"][2]["error text"])
