"""Where the records of TFRecord files begin: walked once, then remembered.

A TFRecord file is a chain: 8 bytes of length, 4 of checksum, the record, 4 of checksum
(tensorflow/core/lib/io/record_writer.h). Its records have no table, so the lengths are walked
when the files are first opened. What is found is kept in the user's cache folder and not
beside the files, as data sets are often shared and must not be written to.
"""

import contextlib
import hashlib
import io
import json
import os
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# What surrounds the bytes of one record: length and its checksum, checksum of the bytes.
HEADER, FOOTER = 12, 4
# Files are walked by threads that mostly wait for the disk.
WALKERS = 32
# Of the remembered files; a change of what they hold must raise it.
FORMAT = 1


def record_offsets(paths):
    """Returns where the records of each file begin and, last, where the file ends.

    They are remembered as long as no file changes its size or its time of modification.
    Where the cache folder cannot be written, the files are walked every time.

    Args:
        paths: list of str, the files.

    Returns:
        List of int64 arrays (records + 1,), one per file.

    Raises:
        FileNotFoundError: a file is not there.
        OSError: a file ends within a record.
    """
    paths = [os.path.abspath(path) for path in paths]
    with ThreadPoolExecutor(WALKERS) as threads:
        # Taken before walking: a file that changes meanwhile is walked again next time.
        states = [(found.st_size, found.st_mtime_ns) for found in threads.map(os.stat, paths)]
        # The name tells the files, so that what is found in changed ones replaces the old.
        remembered, state = _cache_file(_digest(paths)), _digest([paths, states])
        offsets = _recalled(remembered, state, [size for size, _ in states])
        if offsets is None:
            offsets = list(threads.map(_walk, paths))
            _remember(remembered, state, offsets)
    return offsets


def _digest(content):
    """Returns a text that differs where lists of text and numbers, or the format, differ."""
    return hashlib.sha256(json.dumps([FORMAT, content]).encode()).hexdigest()


def _cache_file(name):
    """Returns the path of a file in the user's cache folder; None where there is no folder."""
    # The XDG standard says that a relative path is to be ignored.
    folders = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    folder = next((folder for folder in folders if os.path.isabs(folder)), None)
    return folder and Path(folder, "sd_keras", "records", f"{name}.npz")


def _recalled(path, state, sizes):
    """Returns the remembered offsets; None if there are none or of files in another state."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if archive["state"] != state:
                return None
            offsets = np.split(archive["offsets"], archive["ends"][:-1])
    except Exception:  # no folder, no file, or whatever a damaged one makes NumPy raise
        return None
    return offsets if [int(ends[-1]) for ends in offsets] == sizes else None


def _remember(path, state, offsets):
    """Writes the offsets for `_recalled`, wholly or not at all."""
    if path is None:
        return
    content = io.BytesIO()
    ends = np.cumsum([len(part) for part in offsets])
    np.savez(content, state=state, offsets=np.concatenate(offsets), ends=ends)
    # On a full disk or in a home that is read only, the next opening walks again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: several workers may open the data set at once.
        number, aside = tempfile.mkstemp(dir=path.parent, prefix="writing_")
        try:
            with open(number, "wb") as file:
                file.write(content.getbuffer())
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)


def _walk(path):
    """Returns where the records of a file begin, and, last, where the file ends: int64."""
    found, offset = [], 0
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            # Read-ahead would read the whole file for its few headers.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            found.append(offset)
            file.seek(offset)
            header = file.read(8)
            if len(header) == 8:
                offset += HEADER + struct.unpack("<Q", header)[0] + FOOTER
            if len(header) < 8 or offset > size:
                raise OSError(
                    f"The file {path!r} of the data set ends within a record; prepare the data "
                    f"set again. Received: file of {size} bytes"
                )
    return np.array([*found, size], "int64")
