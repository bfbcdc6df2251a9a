"""How apps start: they import Keras when it is first used, and print one line for an error.

`--help` and wrong flags are answered before anything heavy is loaded. While it loads, what
native libraries write to stderr is kept from the terminal, unless TF_CPP_MIN_LOG_LEVEL is set to
less than 3; warnings and errors of Python are shown at all times.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import tempfile
import types

from absl import app

IS_QUIET = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"


class LazyModule(types.ModuleType):
    """Stands for a module and imports it when one of its attributes is first read."""

    def __getattr__(self, name):
        if self.__name__ not in sys.modules:
            with quiet_native_stderr():
                importlib.import_module("sd_keras")  # first, as it sets TensorFlow's environment
                importlib.import_module(self.__name__)
        return getattr(sys.modules[self.__name__], name)


def lazy_import(name):
    """Returns a module if it is imported already, or else a `LazyModule` that stands for it."""
    return sys.modules.get(name) or LazyModule(name)


def network_file(path):
    """Returns the `.keras` file that a path, which may be the workdir of a run, stands for."""
    path = pathlib.Path(path)
    return path / "network.keras" if path.is_dir() else path


@contextlib.contextmanager
def quiet_native_stderr():
    """Discards what is written to the file descriptor of stderr, unless an exception passes.

    `sys.stderr` still reaches the terminal.
    """
    if not IS_QUIET:
        yield
        return
    sys.stderr.flush()
    terminal, python_stderr = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as written, open(terminal, "w", buffering=1) as text:
        os.dup2(written.fileno(), 2)
        if python_stderr is sys.__stderr__:
            sys.stderr = text
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(terminal, written.read())
            raise
        finally:
            sys.stderr = python_stderr
            os.dup2(terminal, 2)


def run_app(argv, run, *more_errors, resumable=False):
    """Calls an app's function; prints `error: …` and exits with code 1 where it fails.

    Args:
        argv: of `absl.app.run`; positional arguments are refused.
        run: function without arguments.
        *more_errors: exceptions that are reported like ValueError, OSError and ImportError.
        resumable: whether an interrupted app resumes, which is then printed.
    """
    if len(argv) > 1:
        raise app.UsageError(f"flags are written --name=value. Received: {argv[1:]}")
    try:
        run()
    except KeyboardInterrupt:
        if not resumable:
            raise
        print("interrupted; rerun the same command to resume", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError, *more_errors) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
