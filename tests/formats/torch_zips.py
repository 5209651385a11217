"""torch files packed again: other methods, names, contents."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path


def rezip(
    path: Path,
    target: Path,
    *,
    compression: int = zipfile.ZIP_STORED,
    rename: Callable[[str], str] = lambda name: name,
    edit: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    comment: bytes = b"",
) -> Path:
    """`path` packed again by Python's zipfile; `edit` gives the new bytes, None to leave out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        new.comment = comment
        for name in old.namelist():
            data = edit(name, old.read(name))
            if data is not None:
                new.writestr(rename(name), data)
    return target


def with_byteorder(path: Path, target: Path, order: bytes) -> Path:
    """The same file with another word in its byteorder record."""
    return rezip(
        path, target, edit=lambda name, data: order if name.endswith("/byteorder") else data
    )
