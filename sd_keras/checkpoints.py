"""Files that are written atomically, read with care, and folders held by one process."""

import contextlib
import json
import math
import os
import pathlib
import socket
import uuid
import zipfile

import keras

# Unpacked bytes per byte of a .keras file. Keras stores without compression.
MOST_INFLATION = 100
UNFINISHED = ".writing_"  # begins the names of files that are not written yet


def write_whole(path, write):
    """Writes a file so that it is there wholly or not at all, whenever the process ends.

    Args:
        path: `pathlib.Path` of the file; an older one is replaced.
        write: function of a path that writes the file there; `path.write_text`-like
            functions go in as `lambda p: p.write_text(text)`.
    """
    # Keras asks for the ending; the first letter hides the file.
    aside = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:12]}_{path.name}")
    try:
        write(aside)
        _to_disk(aside)
        os.replace(aside, path)
        with contextlib.suppress(OSError):  # some network file systems cannot
            _to_disk(path.parent)  # the new name
    finally:
        aside.unlink(missing_ok=True)


def _to_disk(path):
    """Waits until a file or a folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path, text):
    """Writes a text file in UTF-8 atomically."""
    write_whole(path, lambda unfinished: unfinished.write_bytes(text.encode()))


def write_json(path, content):
    """Writes `content` as a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1))


def read_json(path, expected_type=dict):
    """Reads what `write_json` wrote.

    Args:
        path: path of the file.
        expected_type: the type of the outermost value, `dict` or `list`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8, not JSON with finite numbers, nested too deeply, or holds
            another type.
    """
    try:
        text = pathlib.Path(path).read_bytes().decode()
        content = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from None
    if not isinstance(content, expected_type):
        raise ValueError(
            f"{path} must hold a JSON {'object' if expected_type is dict else 'array'}. "
            f"Received: {type(content).__name__}"
        )
    return content


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def load_network(path):
    """Loads a `.keras` file; of a SelfDistillModel's, its network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no file that Keras wrote.
    """
    if not pathlib.Path(path).is_file():
        is_there = "is no file" if pathlib.Path(path).exists() else "does not exist"
        raise FileNotFoundError(f"`network` {is_there}. Received: network={str(path)!r}")
    try:
        _check_archive(path)
        network = keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged zip, JSON or HDF5 file makes Keras raise
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ValueError(
            f"`network` must be a whole .keras file that Keras can load ({reason}). "
            f"Received: network={str(path)!r}"
        ) from error
    return getattr(network, "network", network)


def _check_archive(path):
    """Raises an error unless a zip file can be read to its end, and is about as large as it says.

    Keras reads the weights without their checksums.
    """
    with zipfile.ZipFile(path) as archive:
        declared = sum(member.file_size for member in archive.infolist())
        if declared > MOST_INFLATION * os.path.getsize(path):
            raise ValueError(f"it holds {declared} bytes when unpacked")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")


class FolderLock:
    """Keeps other processes out of a folder until `release`, or until the process ends.

    The file `.lock` in it names the process. The lock is the operating system's, so that none
    outlives its process. Files that a killed process had not finished writing are deleted.

    Args:
        folder: `pathlib.Path` of an existing folder.
        argument: what the error names.

    Raises:
        ValueError: if another process holds the folder.
        OSError: if the folder cannot be written.
    """

    def __init__(self, folder, argument="folder"):
        self._path = folder / ".lock"
        self._file = _lock(self._path, f"{argument}={str(folder)!r}", argument)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        for unfinished in folder.glob(f"{UNFINISHED}*"):
            unfinished.unlink(missing_ok=True)

    def release(self):
        """Lets other processes in."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _lock(path, received, argument):
    """Returns the locked file."""
    try:
        import fcntl
    except ImportError:  # on Windows, where nothing is locked
        return path.open("a+")
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise ValueError(
                f"`{argument}` must be used by one process at a time, and {holder} is using it. "
                f"Received: {received}"
            ) from None
        except OSError:  # a file system without locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder has deleted it in the meantime
