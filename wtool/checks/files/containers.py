"""What the file rules need of containers: zip directories, texts, the storages that a pickle names.

Everything walked here comes from the file: walks are iterative, counted and see a container once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wtool.encodings.pickle_nodes import Call
from wtool.encodings.pickle_walk import walk
from wtool.encodings.zip_directory import ZipDirectory, read_directory
from wtool.extents import Extent, Strided, Tiled
from wtool.sources import FileSource, read_bytes

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint
    from wtool.checks.subject import Subject

MAX_TEXT = 1 << 20
# Formats whose pickle torch.load reads.
LOADED_BY_TORCH = ("torch-zip", "torch-legacy", "torch-tar")


def zip_files(subject: Subject) -> Iterator[tuple[str, Checkpoint, ZipDirectory]]:
    """(path, what it holds, its directory) of each file of the model that is a zip file."""
    for path, checkpoint in subject.parts():
        if is_zip(path):
            # One is kept for the next rule: shards may be more than files can be open.
            if subject.directory is None or subject.directory[0] != path:
                subject.directory = path, read_directory(FileSource(path))
            yield path, checkpoint, subject.directory[1]


def zip_paths(subject: Subject) -> list[str]:
    """The files of the model that are zip files."""
    return [path for path in subject.checkpoint.files if is_zip(path)]


def is_zip(path: str) -> bool:
    """Whether a file begins as a zip file does."""
    if not os.path.isfile(path):
        return False
    source = FileSource(path)
    return source.size >= 4 and bytes(read_bytes(source, 0, 4)) == b"PK\3\4"


def strided(extent: Extent) -> Iterator[Strided]:
    """The raw extents that a tensor is made of; none where its values are computed."""
    if isinstance(extent, Strided):
        yield extent
    elif isinstance(extent, Tiled):
        for _, piece in extent.pieces:
            yield from strided(piece)


def texts(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """(where, text) of all texts that are not names of tensors: metadata, and values of a pickle.

    A dictionary's entry is named by its key. Texts are cut at MAX_TEXT characters.
    """
    for key, text in checkpoint.metadata.items():
        yield key, text[:MAX_TEXT]
    for key, node in extra_nodes(checkpoint):
        text = as_text(node)
        if text:
            yield key, text


def extra_nodes(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """(key, node) of all values that are no tensors; what several share is the first one's."""
    seen: set[int] = set()
    for key, value in checkpoint.extras.items():
        for node in walk(value, seen=seen):
            yield key, node


def as_text(node: Any) -> str:
    """A node's text, "" where it is none; bytes are taken as Latin-1, paths as joined parts."""
    if isinstance(node, str):
        return str(node[:MAX_TEXT])
    if isinstance(node, bytes | bytearray):
        return bytes(node[:MAX_TEXT]).decode("latin-1")
    if isinstance(node, Call) and node.full.startswith("pathlib."):
        parts = [part for part in node.args if isinstance(part, str)]
        return "/".join(part.rstrip("/") for part in parts)[:MAX_TEXT]
    return ""
