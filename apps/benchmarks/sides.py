"""Processes that work in turn, A B A B …, each when it is asked; see benchmarks.turns."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import process_of

SECONDS_TO_END = 5


class Side:
    """A process of one of these modules.

    Args:
        name: for messages.
        module: of `benchmarks`.
        *arguments: of its command line.
        environment: what its environment has beside this one's.
    """

    def __init__(self, name, module, *arguments, environment=None):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (`end` closes it)
        command, own = process_of(module, *arguments)
        self.process = subprocess.Popen(
            command,
            env=own | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self):
        """Returns the next answer; ends the program if there will be none."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read()[-3000:].strip()
        raise SystemExit(f"{self.name} failed with exit code {code}:\n{last}")

    def turn(self):
        """Asks for a turn and returns the answer to it."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; why, `answer` says
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        return self.answer()


def in_turn(sides, rounds):
    """Lets sides that have been started work in turn, and ends them.

    Args:
        sides: dict from a key to a Side.
        rounds: how many turns each has.

    Returns:
        Two dicts from key: what each side said before its first turn, and the list of its
        answers.
    """
    try:
        abouts = {key: side.answer() for key, side in sides.items()}
        answers = {key: [] for key in sides}
        for index in range(rounds):
            for key, side in sides.items():
                if index == 0:
                    _say(f"compiling {side.name} …")
                answers[key].append(side.turn())
            seconds = (f"{answers[key][-1]['seconds']:.3f}" for key in sides)
            _say(f"round {index}: {' '.join(seconds)} s")
        return abouts, answers
    finally:
        end(sides.values())


def _say(text):
    print(text, file=sys.stderr, flush=True)


def end(sides):
    """Ends processes: those that wait for a turn by themselves, the others by force."""
    for side in sides:
        with contextlib.suppress(BrokenPipeError):
            side.process.stdin.close()
    limit = time.monotonic() + SECONDS_TO_END
    for side in sides:
        try:
            side.process.wait(max(0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            side.process.kill()
            side.process.wait()
        side.process.stdout.close()
        side.errors.close()
