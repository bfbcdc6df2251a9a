"""Where TensorFlow Datasets keeps a prepared data set, and what to say when it is not there.

The folder is looked for here and not by `tfds.builder`: that one runs the data set's own
code, may ask a server about a data set that is not prepared, and answers with assertions.
"""

import difflib
import re
from pathlib import Path

NAME = re.compile(r"(?P<base>[A-Za-z]\w*)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
VERSION = re.compile(r"\d+\.\d+\.\d+")


def prepared_folder(name, data_dir):
    """Returns the folder of the prepared files: of the version asked for, or of the newest.

    Args:
        name: "NAME", "NAME/CONFIG", either with ":VERSION".
        data_dir: folder that TensorFlow Datasets prepared into, or None for its default.

    Raises:
        FileNotFoundError: the data set exists but is not prepared there.
        ValueError: no such data set, or several configurations to choose from.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise _unknown_name(name)
    base, config, version = match["base"], match["config"], match["version"]
    root = _data_folder(data_dir) / base
    if not root.is_dir():
        raise missing_files(name, data_dir, root) if base in _names() else _unknown_name(name)
    folder = root / config if config else root
    if not config and not _versions(root):
        folder = _only_configuration(name, root) or root
    found = _versions(folder)
    if not found or (version and version not in found):
        raise missing_files(name, data_dir, folder, found)
    return folder / (version or found[-1])


def missing_files(name, data_dir, folder, found=()):
    """Returns the error that a data set is not prepared, with the command that prepares it."""
    there = f" (found there: {', '.join(found)})" if found else ""
    target = _data_folder(data_dir)
    return FileNotFoundError(
        f"The data set {name!r} is not prepared: looked for its files in {folder}{there}. Nothing "
        "is downloaded here; run once, on a machine with network access,\n"
        f"    tfds build {name} --data_dir {target}\n"
        "and if need be copy the files, or give as `data_dir` the folder that has them. "
        f"Received: name={name!r}, data_dir={_as_text(data_dir)}"
    )


def _unknown_name(name):
    """Returns the error that there is no such data set, with the forms and similar names."""
    known = ["digits", *_names()]
    close = difflib.get_close_matches(name, known, n=5) or difflib.get_close_matches(
        name.partition(":")[0].partition("/")[0].lower(), known, n=5
    )
    return ValueError(
        "`name` must be one of 'digits', 'npz:PATH', 'folder:PATH', or a TensorFlow Datasets "
        "name ('NAME', 'NAME/CONFIG', 'NAME:1.2.3'). Close matches: "
        f"{', '.join(close) or 'none'}. Received: name={name!r}"
    )


def _names():
    """Returns the names of all data sets that TensorFlow Datasets has code for."""
    import tensorflow_datasets as tfds

    # Community data sets are listed on a server.
    return tfds.list_builders(with_community_datasets=False)


def _data_folder(data_dir):
    """Returns the folder of all data sets."""
    import tensorflow_datasets as tfds

    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()


def _versions(folder):
    """Returns the versions prepared in a folder, oldest first."""
    found = []
    for path in folder.glob("*/dataset_info.json"):
        # Without the features (written since version 4) the records cannot be decoded.
        if VERSION.fullmatch(path.parent.name) and (path.parent / "features.json").is_file():
            found.append(path.parent.name)
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def _only_configuration(name, root):
    """Returns the one configuration's folder, None if none is prepared."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _versions(path))
    if len(folders) > 1:
        choices = ", ".join(f"{root.name}/{folder.name}" for folder in folders)
        raise ValueError(
            f"`name` must say which configuration is meant, one of {choices}. "
            f"Received: name={name!r}"
        )
    return folders[0] if folders else None


def _as_text(data_dir):
    """Returns a path as quoted text whatever its type, and None as it is."""
    return None if data_dir is None else repr(str(data_dir))
