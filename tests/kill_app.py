"""Starts an app again and again, kills it at random moments, and at last lets it end.

    python tests/kill_app.py KILLS apps/train_cifar.py --workdir=DIR …

Each run is forked from a process that has imported TensorFlow and not used it yet. A kill comes up
to half a second after a run's first backup; the delays are the same each time.
"""

import os
import pathlib
import random
import signal
import sys
import time

from app_in_process import answer


def start(app, arguments):
    """Returns the number of a process that runs the app and prints what it printed."""
    number = os.fork()
    if number == 0:
        code, printed = answer(app, arguments)
        print(printed, flush=True)
        os._exit(code)
    return number


def kill_after_backup(number, workdir, delay):
    """Kills a process after its first backup; ends the program where it ended by itself."""
    names = lambda: {path.name for path in workdir.glob("backup/epoch*")}  # noqa: E731
    before = names()
    while not names() - before:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            sys.exit(f"the run ended before its kill, with {os.waitstatus_to_exitcode(status)}")
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def kill(kills, app, arguments):
    """Returns the exit code of the run that ends, and prints how many were killed."""
    workdir = pathlib.Path(arguments[0].removeprefix("--workdir="))
    app, choose = pathlib.Path(app).name, random.Random(0)
    for index in range(kills):
        kill_after_backup(start(app, arguments), workdir, choose.random() / 2)
        print(f"kill {index + 1} of {kills}", file=sys.stderr, flush=True)
    _, status = os.waitpid(start(app, arguments), 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.argv.pop(0)
    kills = int(sys.argv.pop(0))
    sys.exit(kill(kills, sys.argv[0], sys.argv[1:]))
