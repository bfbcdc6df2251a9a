"""The part of benchmark.py that measures two worker processes against one process.

Run by `python apps/benchmark.py train --workers`, see there. The same two processor cores, the
same global batch: one process with two threads, and two workers on 127.0.0.1, each on a core of
its own with one thread. Each is started once and trains in a single, ordinary `fit`, in which
a callback times the steps and stops after every few until it is asked for more: so the sides
work in turn.

The convolutions are oneDNN's unless the environment says otherwise, as they are by themselves
where the processor has AVX-512. Those that TensorFlow uses elsewhere take a third more work on
one thread than on two, and far more new memory in a worker: half of a worker's time.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import process_of

BATCH_SIZE = 128
# Of a turn's steps the first, behind the pause, does not count.
STEPS, ROUNDS = 3, 4
BAR = ">= 0.85"
COUNT = 2
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def workers_figures(settings):
    """Images per second of two workers against one process with as many threads."""
    from benchmarks.figures import compare, figure

    cores = sorted(getattr(os, "sched_getaffinity", lambda pid: ())(0))[:COUNT]
    if len(cores) < COUNT:
        raise SystemExit(f"--workers needs {COUNT} processor cores, and Linux to assign them")
    given = not settings["batch_size"].using_default_value
    batch_size = settings.batch_size if given else BATCH_SIZE
    work = [settings.model, str(settings.num_classes), str(batch_size)]
    with tempfile.TemporaryFile("w+") as errors:
        sides = {"one": [start(work, cores, errors)], "two": []}
        for index, task in enumerate(cluster()):
            sides["two"].append(start(work, [cores[index]], errors, task))
        try:
            seconds = in_turn(sides, min(ROUNDS, settings.repeats), errors)
        finally:
            for process in sum(sides.values(), []):
                process.kill()
                process.communicate()
    speeds = {side: batch_size / statistics.median(s) for side, s in seconds.items()}
    row = compare(seconds["one"], seconds["two"])
    row["beside"] = f"{speeds['two']:.1f} / {speeds['one']:.1f} images/s, batches of {batch_size}"
    row["images_per_second"] = speeds
    row["onednn"] = (ONEDNN | os.environ)["TF_ENABLE_ONEDNN_OPTS"] == "1"
    row["beside"] += f", oneDNN {'on' if row['onednn'] else 'off'}"
    return [figure("train", f"{settings.model}, 2 workers / 1 process images/s", BAR, **row)]


def cluster():
    """TF_CONFIG of each worker."""
    sockets = [socket.socket() for _ in range(COUNT)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    workers = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    return [
        {"cluster": workers, "task": {"type": "worker", "index": index}} for index in range(COUNT)
    ]


def start(work, cores, errors, task=None):
    """Starts a process that trains for one turn whenever it reads a line."""
    command, environment = process_of("workers", *work, ",".join(map(str, cores)))
    return subprocess.Popen(
        command,
        env=ONEDNN | environment | ({"TF_CONFIG": json.dumps(task)} if task else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def in_turn(sides, rounds, errors):
    """Returns the seconds of a step of each side, the median of each of its turns."""
    seconds = {side: [] for side in sides}
    for index in range(1 + rounds):
        for side, processes in sides.items():
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [process.stdout.readline() for process in processes]
            if not all(answers):
                errors.seek(0)
                raise SystemExit(f"a process of --workers failed:\n{errors.read()[-3000:]}")
            if index:  # the first turn traces and warms up
                seconds[side].append(statistics.median(json.loads(answers[0])))
    return seconds


def serve(name, num_classes, batch_size, cores):
    """Trains for one turn at each line of input; prints the seconds of its steps."""
    os.sched_setaffinity(0, cores)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(len(cores))
    from sd_keras import SelfDistillModel, attach_exits, distribute, models
    from sd_keras.distortions import CropFlip
    from sd_keras.optimizers import SGD

    strategy = distribute.strategy("multi_worker" if "TF_CONFIG" in os.environ else "none")
    with strategy.scope():
        network = attach_exits(models.build(name, (32, 32, 3)), num_classes, at=[])
        model = SelfDistillModel(network, distortion=CropFlip(seed=0))
        model.compile(SGD(0.01, momentum=0.9, weight_decay=5e-4), metrics=["accuracy"])
    shape = (4 * batch_size, 32, 32, 3)
    images = tf.cast(tf.random.stateless_uniform(shape, (0, 1), 0, 256, "int32"), "uint8")
    labels = tf.random.stateless_uniform(shape[:1], (0, 2), 0, num_classes, "int32")
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size).repeat()
    # The number of steps is only there because the data never end.
    model.fit(data, steps_per_epoch=10**6, verbose=0, callbacks=[turns_callback()])


def turns_callback():
    """Returns a Keras callback that times turns of steps, each asked for by a line of input."""
    import keras

    class Turns(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.wait()

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())
            if len(self.ends) > STEPS:
                seconds = [end - begin for begin, end in zip(self.ends, self.ends[1:])]
                print(json.dumps(seconds), flush=True)
                self.wait()

        def wait(self):
            self.ends = []
            if not sys.stdin.readline():  # whoever asked is gone
                self.model.stop_training = True

    return Turns()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    model_name, classes, size, numbers = sys.argv[1:]
    serve(model_name, int(classes), int(size), [int(number) for number in numbers.split(",")])
