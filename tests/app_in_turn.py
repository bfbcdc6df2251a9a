"""Gives one app several command lines in one process: TensorFlow is imported once for all.

    python tests/app_in_turn.py apps/analyze.py < COMMANDS > RESULTS

COMMANDS is a JSON list of lists of arguments; RESULTS one of [exit code, stdout and stderr].
"""

import contextlib
import io
import json
import os
import runpy
import sys
import traceback

from absl import app, flags
from absl.testing import flagsaver


def main_of(path):
    """Runs the file as a program would be run, up to `app.run`; returns what that received."""
    received = []
    own_run, app.run = app.run, received.append
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        app.run = own_run
    return received[0]


def answer(main, arguments):
    """Returns the exit code and all that was printed for one command line."""
    printed, code = io.StringIO(), 0
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            app.run(main)
        except SystemExit as exit_:
            code = exit_.code or 0
            if isinstance(code, str):  # `sys.exit("what is wrong")`
                print(code, file=sys.stderr)
                code = 1
        except Exception:
            traceback.print_exc()
            code = 1
    return code, printed.getvalue()


if __name__ == "__main__":
    sys.argv.pop(0)
    main = main_of(sys.argv[0])
    start = flagsaver.save_flag_values()
    answers = []
    for arguments in json.load(sys.stdin):
        answers.append(answer(main, arguments))
        flagsaver.restore_flag_values(start)
        flags.FLAGS.unparse_flags()
    json.dump(answers, sys.stdout)
