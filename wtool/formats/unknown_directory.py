"""The helpful no for folders: what lies in one that no format claims, and which path to name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from typing import NoReturn

from wtool.errors import InputError, UnknownFormat
from wtool.formats import Probe
from wtool.formats.model_directory import file_names, weight_files

MAX_LISTED = 8
MAX_FOLDERS = 1000
ORBAX = frozenset({"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"})


def explain_directory(probe: Probe) -> NoReturn:
    """Raise the UnknownFormat that says what the folder holds."""
    names = file_names(probe.path)
    folders = _folders(probe.path)
    if ORBAX & set(names) or "ocdbt.process_0" in folders:
        raise UnknownFormat(
            "not a model folder but an Orbax checkpoint", path=probe.path,
            hint="this format is not read yet",
        )  # fmt: skip
    below = _with_weights(probe.path, folders)
    if not below:  # the cache of Hugging Face: snapshots/<revision>
        inner = (f"{a}/{b}" for a in folders for b in _folders(os.path.join(probe.path, a)))
        below = _with_weights(probe.path, islice(inner, MAX_FOLDERS))
    if below:
        shown = ", ".join(below[:MAX_LISTED])
        more = f" and {len(below) - MAX_LISTED} more" if len(below) > MAX_LISTED else ""
        what = "a pipeline of several models" if "model_index.json" in names else "no weight file"
        raise UnknownFormat(
            f"the folder holds {what}; its folders do", path=probe.path, found=f"{shown}{more}",
            hint="name one of them",
        )  # fmt: skip
    if not names and not folders:
        raise UnknownFormat("the folder is empty", path=probe.path)
    shown = ", ".join(names[:MAX_LISTED]) or "folders only"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    raise UnknownFormat(
        "the folder holds no weight file that wtool knows", path=probe.path, found=f"{shown}{more}"
    )


def _folders(path: str) -> list[str]:
    """Names of the folders in a folder, sorted; links are not followed: they may form a loop.

    None where it may not be looked into.
    """
    try:
        with os.scandir(path) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(found)[:MAX_FOLDERS]


def _with_weights(path: str, folders: Iterable[str]) -> list[str]:
    return [folder for folder in folders if _holds_weights(os.path.join(path, folder))]


def _holds_weights(path: str) -> bool:
    try:
        return bool(weight_files(file_names(path)))
    except InputError:
        return False
