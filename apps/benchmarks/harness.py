"""How benchmarks measure: sides take turns, and a figure is a ratio within one round.

Needs no framework. Sides of one process are functions, see `interleave`; sides that need a
process each are `WorkerProcess`es, see `take_turns`.
"""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import sys
import time
import traceback

IMAGE_SHAPE = (32, 32, 3)
SECONDS_TO_END = 5


def random_images(count, size=IMAGE_SHAPE[0], seed=0):
    """Returns raw images `(count, size, size, 3)`."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype="uint8")


def batch(settings, count=None, views=1, size=IMAGE_SHAPE[0]):
    """Returns random raw images, a tuple of batches for several views, and class numbers."""
    import numpy as np

    count = count or settings.batch_size
    images = tuple(random_images(count, size, seed) for seed in range(views))
    labels = np.random.default_rng(0).integers(0, settings.num_classes, count, dtype="int32")
    return images if views > 1 else images[0], labels


def interleave(functions, repeats, warm_up=2, limit=float("inf"), clock=time.perf_counter):
    """Calls functions in turn, A B C A B C …, and times each call.

    Takes a dict from name to a function, or to a pair of a function and how often one turn calls
    it, for what is too short to be timed alone. `warm_up` rounds before the others do not count;
    after `limit` seconds no further round begins. Returns a dict from name to the seconds of one
    call, one value per round.
    """
    seconds = {name: [] for name in functions}
    for index in range(-warm_up, repeats):
        if index == 0:
            end = clock() + limit
        elif index > 0 and clock() > end:
            break
        for name, function in functions.items():
            function, calls = function if isinstance(function, tuple) else (function, 1)
            start = clock()
            for _ in range(calls):
                function()
            if index >= 0:
                seconds[name].append((clock() - start) / calls)
    return seconds


def figure(name, values, bar=None, unit="x", note="", precision=None, of_fastest=None, **more):
    """One row of the report: the median of the values, one a round, and whether it reaches its bar.

    A bar is for instance `"<= 1.12"`; the unit is "x" of a ratio, "%" of a share of 1. `of_fastest`
    is the same from the fastest call of each side; further arguments are for the JSON file.
    """
    median, met = statistics.median(values), None
    if bar:
        direction, limit = bar.split()
        met = median <= float(limit) if direction == "<=" else median >= float(limit)
    row = {"name": name, "precision": precision, "unit": unit, "median": median}
    row |= {"min": min(values), "max": max(values), "of_fastest": of_fastest, "bar": bar}
    return row | {"met": met, "note": note, "values": list(values), **more}


def ratio(name, seconds, numerator, denominator, bar=None, note="", images=None, **more):
    """The figure of how many times as long one side takes as another.

    With `images`, those of one call: how many times as many images per second it has. Takes the
    seconds that `interleave` returns and names of two sides; the rest as `figure`.
    """
    sides = seconds[numerator], seconds[denominator]
    medians = [statistics.median(values) for values in sides]
    if images:
        sides = sides[::-1]
        more["images_per_second"] = speeds = [images / median for median in medians]
        shown = "{:.1f} / {:.1f} images/s".format(*speeds)
    else:
        shown = " / ".join(f"{1e3 * m:.2f} ms" if m < 0.1 else f"{m:.3f} s" for m in medians)
    more |= {"of_fastest": min(sides[0]) / min(sides[1]), "seconds": medians}
    note = f"{shown}; {note}" if note else shown
    return figure(name, [a / b for a, b in zip(*sides)], bar, note=note, **more)


def speed_figures(name, seconds, images, macs, peak, bar=None, note="", precision=None):
    """Yields images per second of training, and their share of a peak in TFLOP/s."""
    speeds = [images / value for value in seconds]
    yield figure(f"{name}, images/s", speeds, bar, "images/s", note, precision)
    # Backward takes twice the products of forward, each of two operations.
    gflop = 6 * macs / 1e9
    shares = [speed * gflop / (1e3 * peak) for speed in speeds]
    more = {"note": f"{gflop:.2f} GFLOP an image; peak {peak:.3f} TFLOP/s", "unit": "%"}
    more |= {"precision": precision, "gflop_per_image": gflop}
    yield figure(f"{name}, share of the peak", shares, **more)


def table(figures):
    """Returns the figures as lines of text."""

    def shown(value, unit):
        if value is None:
            return ""
        suffix = "" if unit == "x" else f" {unit}"
        return f"{value:.3%}" if unit == "%" else f"{value:.3f}{suffix}"

    numbers = ("median", "min", "max", "of_fastest")
    rows = [("part", "figure", "precision", *numbers, "bar", "met", "note")]
    for row in figures:
        bar = row["bar"] or ""
        if bar and row["unit"] == "%":
            bar = f"{bar.split()[0]} {float(bar.split()[1]):.1%}"
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        cells = (row["part"], row["name"], row["precision"] or "")
        cells += tuple(shown(row[key], row["unit"]) for key in numbers)
        rows.append((*cells, bar, met, row["note"]))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


class WorkerProcess:
    """A process that calls a function of a module here with a WorkerProtocol and arguments.

    Takes a name for messages, the function, such as `"device.train_in_turns"`, variables to add to
    the environment, the processor cores to use (all by default), and the arguments.
    """

    def __init__(self, name, function, environment=None, cores=(), **arguments):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, connection = context.Pipe()
        settings = (connection, function, environment or {}, cores, arguments)
        self.process = context.Process(target=_work, args=settings, daemon=True)
        self.process.start()
        connection.close()

    def answer(self):
        """Returns the next answer; ends the program if there will be none."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            message = f"it ended with exit code {self.process.exitcode}"
        if isinstance(message, str):
            raise SystemExit(f"{self.name} failed: {message}")
        return message

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Ends the process: by itself where it waits for a turn, otherwise by force."""
        self.connection.close()
        self.process.join(SECONDS_TO_END)
        self.process.kill()
        self.process.join()


def result_of(name, function, **options):
    """Returns the only answer of a WorkerProcess, whose arguments these are."""
    with WorkerProcess(name, function, **options) as worker:
        return worker.answer()


class WorkerProtocol:
    """What a worker says to the process that started it, and how it waits for its turn."""

    def __init__(self, connection):
        self.connection = connection

    def answer(self, **values):
        """Sends one answer."""
        self.connection.send(values)

    def wait(self):
        """Waits until a turn is asked for; returns False where none will be."""
        try:
            return self.connection.recv() is None
        except (EOFError, ConnectionError):
            return False


def _work(connection, function, environment, cores, arguments):
    os.dup2(2, 1)  # the output is for the report
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    if cores:  # before a library makes threads
        os.sched_setaffinity(0, cores)
    module, name = function.split(".")
    try:
        function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
        function(WorkerProtocol(connection), **arguments)
        return
    except SystemExit as error:
        message = str(error)
    except Exception:
        message = traceback.format_exc()
    with contextlib.suppress(BrokenPipeError):  # the process that asked has ended
        connection.send(message)


def take_turns(sides, rounds):
    """Lets workers that have been started work in turn for some rounds, and ends them.

    Takes a dict from a key to the list of a side's WorkerProcesses, which work together. Returns
    two dicts: what the first worker of each side said before its turns, and all its answers.
    """
    with contextlib.ExitStack() as stack:
        for worker in sum(sides.values(), []):
            stack.enter_context(worker)
        for worker in sum(sides.values(), []):
            stack.callback(worker.connection.close)  # first of all, so that they end together
        first = {key: [each.answer() for each in side][0] for key, side in sides.items()}
        answers = {key: [] for key in sides}
        for index in range(rounds):
            for key, side in sides.items():
                if index == 0:
                    print(f"compiling {side[0].name} …", file=sys.stderr, flush=True)
                for worker in side:
                    with contextlib.suppress(BrokenPipeError):  # `answer` says why
                        worker.connection.send(None)
                answers[key].append([worker.answer() for worker in side][0])
            seconds = " ".join(f"{answers[key][-1]['seconds']:.3f}" for key in sides)
            print(f"round {index}: {seconds} s", file=sys.stderr, flush=True)
    return first, answers
