"""Runs the apps in the process of the tests, where TensorFlow is imported already.

Each app has its own flags and modules, since several apps define flags of the same name.
"""

import contextlib
import copy
import functools
import io
import logging
import os
import pathlib
import runpy
import signal
import sys
import traceback
from unittest import mock

import keras
from absl import app as absl_app
from absl import flags
from absl.testing import flagsaver

APPS = pathlib.Path(__file__).parents[1] / "apps"


def _app_modules():
    """Returns the imported modules in the folder of the apps, by name."""
    return {
        name: module
        for name, module in sys.modules.items()
        if str(vars(module).get("__file__")).startswith(f"{APPS}/")
    }


def _copied(state):
    """Returns a copy of the state of `flags.FLAGS` down to its dicts."""
    return {name: copy.copy(value) for name, value in state.items()}


# The flags of absl itself: `flags.FLAGS`, which all modules share, before an app is imported.
ABSL_FLAGS = _copied(vars(flags.FLAGS))


@contextlib.contextmanager
def isolated(modules=None, state=None):
    """Sets the imported modules of the apps and the flags, by default none; restores them."""
    modules = {} if modules is None else modules
    state = _copied(ABSL_FLAGS) if state is None else state
    outer_modules, outer_state, path = _app_modules(), dict(vars(flags.FLAGS)), list(sys.path)

    def put(modules, state):
        for name in _app_modules():
            del sys.modules[name]
        sys.modules.update(modules)
        vars(flags.FLAGS).clear()
        vars(flags.FLAGS).update(state)

    put(modules, state)
    sys.path.insert(0, str(APPS))
    try:
        yield
        modules.update(_app_modules())
    finally:
        sys.path[:] = path
        put(outer_modules, outer_state)


@functools.cache
def load(name):
    """Runs the file of an app up to `app.run`.

    Returns the main function, the modules that the app imported, and its flags.
    """
    received, modules, state = [], {}, _copied(ABSL_FLAGS)
    with isolated(modules, state), mock.patch.object(absl_app, "run", received.append):
        runpy.run_path(str(APPS / name), run_name="__main__")
    return received[0], modules, state


@contextlib.contextmanager
def _process_state():
    """Restores what an app may change about its process."""
    environment, handlers = dict(os.environ), list(logging.root.handlers)
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    level, arguments = logging.root.level, sys.argv
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        sys.argv = arguments
        keras.config.set_dtype_policy("float32")


def answer(name, arguments):
    """Returns exit code and printed text (stdout and stderr) of an app for one command line."""
    main, modules, state = load(name)
    printed, code = io.StringIO(), 0
    with (
        _process_state(),
        isolated(modules, state),
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        sys.argv = [str(APPS / name), *map(str, arguments)]
        try:
            absl_app.run(main)
        except SystemExit as exit_:
            code = exit_.code or 0
            if isinstance(code, str):  # `sys.exit("what is wrong")`
                print(code, file=sys.stderr)
                code = 1
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            flags.FLAGS.unparse_flags()
    return code, printed.getvalue()


@contextlib.contextmanager
def parsed(name, arguments):
    """Parses the flags of an app; yields the globals of its file, without running it."""
    main, modules, state = load(name)
    with _process_state(), isolated(modules, state), flagsaver.flagsaver():
        flags.FLAGS([name, *map(str, arguments)])
        try:
            yield main.__globals__
        finally:
            flags.FLAGS.unparse_flags()
