"""Manifests as files: JSON, one line for each tensor, the same bytes on every machine.

A manifest may come from anywhere: it is parsed strictly, and what it says of itself is proven.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wtool.encodings.strict_json import loads
from wtool.errors import MalformedInput, MissingInput, UnsupportedError, WtoolError
from wtool.manifests import freezing, release
from wtool.manifests.fields import Fields
from wtool.manifests.freezing import FreezingManifest
from wtool.manifests.release import ReleaseManifest
from wtool.sources import FileSource, read_bytes

Manifest = ReleaseManifest | FreezingManifest

# 100,000 tensors with names of 100 characters take 25 MB.
MAX_NBYTES = 512 << 20
HEAD_NBYTES = 256
# Objects deeper than this stand on one line: a file, a tensor, a rule, a change.
_LAST_OPEN_DEPTH = 3


def is_manifest(path: str) -> bool:
    """Whether the file at `path` starts as manifests do; False where it cannot be read."""
    try:
        source = FileSource(path)
        head = read_bytes(source, 0, min(HEAD_NBYTES, source.size))
    except WtoolError:
        return False
    kinds = (release.KIND.encode(), freezing.KIND.encode())
    return head.lstrip().startswith(b"{") and any(kind in head for kind in kinds)


def load(path: str) -> Manifest:
    """The manifest at `path`, of either kind.

    MissingInput where there is none, MalformedInput where it breaks a rule, UnsupportedError for a
    schema of a later wtool.
    """
    try:
        source = FileSource(path)
        if source.size > MAX_NBYTES:
            raise MalformedInput("too large for a manifest", found=f"{source.size} bytes")
        data = read_bytes(source, 0, source.size)
        if not data[:HEAD_NBYTES].lstrip().startswith(b"{"):
            first = " ".join(f"{byte:02x}" for byte in data[:8])
            raise MalformedInput(
                "not a manifest",
                expected="a JSON object",
                found=f"first bytes {first}" if first else "an empty file",
            )
        return parse(data)
    except MissingInput:
        raise
    except WtoolError as error:
        raise error.locate(path=path) from error.__cause__


def parse(data: bytes | bytearray) -> Manifest:
    """The manifest in `data`; see `load`."""
    fields = Fields(loads(data), "manifest")
    kind = fields.text("kind", (release.KIND, freezing.KIND))
    module: Any = release if kind == release.KIND else freezing
    schema = fields.number("schema")
    if schema > module.SCHEMA:
        raise UnsupportedError(
            "manifest of a later wtool", expected=f"schema {module.SCHEMA} or older", found=schema
        )
    if schema < 1:
        raise MalformedInput("no such schema", expected="1 or more", found=schema)
    manifest: Manifest = module.from_fields(fields)
    return manifest


def dump(manifest: Manifest) -> Iterator[bytes]:
    """The bytes of the file, in pieces. Law: parsing them gives an equal manifest."""
    module: Any = release if isinstance(manifest, ReleaseManifest) else freezing
    for text in _pieces(module.to_json(manifest), 0):
        yield text.encode("ascii")
    yield b"\n"


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """JSON text: containers above _LAST_OPEN_DEPTH have a line for each member."""
    holds_objects = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict) for item in value)
    )
    if not holds_objects or not value or depth > _LAST_OPEN_DEPTH or _is_leaf(value):
        yield json.dumps(value)
        return
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    yield opening
    for number, item in enumerate(value.items() if isinstance(value, dict) else value):
        yield ("," if number else "") + "\n" + "  " * (depth + 1)
        if isinstance(value, dict):
            yield json.dumps(item[0]) + ": "
            item = item[1]
        yield from _pieces(item, depth + 1)
    yield "\n" + "  " * depth + closing


def _is_leaf(value: Any) -> bool:
    """Whether an object holds texts and numbers only: it stands on one line."""
    return isinstance(value, dict) and not any(
        isinstance(item, dict | list) and not _is_sizes(item) for item in value.values()
    )


def _is_sizes(item: Any) -> bool:
    return isinstance(item, list) and all(isinstance(size, int) for size in item)
