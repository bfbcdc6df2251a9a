"""The part of benchmark.py that measures what backups cost, and how soon a run goes on.

Run by `python apps/benchmark.py backup`, see there. The cost is that of a plain step, the
cheapest there is. A start is a process of its own, timed from its birth to the end of its first
training step; one that goes on reads weights and optimizer back before that.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import process_of

EVERY_STEPS = 50
STARTS = 3
START_SIZE, START_IMAGES, START_BATCH = 64, 24, 8


def backup_figures(settings):
    """The share of training that backups take, and the ratio of the two kinds of start."""
    return [_cost(settings), _starts(settings)]


def _cost(settings):
    """Seconds of a backup against those of the steps between two."""
    import benchmarks.train
    from benchmarks.figures import figure

    from sd_keras.callbacks import snapshot

    model = benchmarks.train.trainer(settings, "float32", "baseline")
    given = not settings["batch_size"].using_default_value
    count = settings.batch_size if given else benchmarks.train.BATCH_SIZE
    images, labels = benchmarks.train.batch(settings, count, 1)
    with tempfile.TemporaryDirectory() as folder:

        def save():
            state = snapshot.Snapshot.take(model, epoch=0, step=0, logs={}, roll_backs=0)
            snapshot.write(pathlib.Path(folder), state, keep=1)

        step = lambda: model.train_on_batch(images, labels)  # noqa: E731
        seconds = benchmarks.train.timed({"step": step, "save": save}, min(5, settings.repeats))
        size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir()) / 1e6
    values = [s / (EVERY_STEPS * t) for s, t in zip(seconds["save"], seconds["step"])]
    save, step = (statistics.median(seconds[name]) for name in ("save", "step"))
    beside = f"{save:.2f} s for {size:.0f} MB, steps of {count} images in {step:.2f} s"
    name = f"a backup every {EVERY_STEPS} steps / training"
    return figure("backup", name, "<= 0.03", values, unit="%", beside=beside)


def _starts(settings):
    """Seconds to the first step of a run that goes on against one that begins."""
    import benchmarks.train
    from benchmarks.figures import compare, figure

    given = not settings["model"].using_default_value
    model = settings.model if given else benchmarks.train.NETWORK
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        _write_images(root / "images")
        _start(model, root, "begun")
        begun, resumed = [], []
        for index in range(min(STARTS, settings.repeats)):
            begun.append(_start(model, root, f"begun_{index}"))
            # In the folder of a run that made a backup behind its first step.
            resumed.append(_start(model, root, "begun"))
    row = compare(resumed, begun)
    row["beside"] = f"{statistics.median(resumed):.1f} / {statistics.median(begun):.1f} s"
    return figure("backup", f"{model}, first step when going on / anew", "<= 1.2", **row)


def _write_images(root):
    import numpy as np
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (START_SIZE, START_SIZE, 3), "uint8")
    content = tf.io.encode_jpeg(pixels).numpy()
    for index in range(START_IMAGES):
        path = root / f"class{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _start(model, root, name):
    """Returns the seconds from the start of a process to the end of its first step."""
    before = time.time()
    command, environment = process_of("backup", model, root / "images", root / name)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a process of backup failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1]) - before


def serve(name, images, folder):
    """Trains one step more than the folder holds, prints when it ended, and leaves."""
    import keras

    import sd_keras

    class FirstStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch >= self._model.position.skip_steps:
                print(time.time(), flush=True)
                self.model.stop_training = True

    train = sd_keras.data.stream(f"folder:{images}", START_BATCH, size=START_SIZE)
    size = (START_SIZE, START_SIZE, 3)
    backbone = sd_keras.models.build(name, size, "imagenet")
    model = sd_keras.SelfDistillModel(sd_keras.attach_exits(backbone, 2, at=[]))
    model.compile(sd_keras.optimizers.SGD(0.01), metrics=["accuracy"], jit_compile=False)

    class FirstOnly(sd_keras.Backup):
        """Leaves the folder as the first start left it, so that each going on is the same."""

        def _save(self, epoch, step, logs, **kwargs):
            if self.resumed_at is None and step == 1:
                super()._save(epoch, step, logs, **kwargs)

    model.fit(train, verbose=0, callbacks=[FirstStep(), FirstOnly(folder, every_steps=1)])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    serve(*sys.argv[1:])
