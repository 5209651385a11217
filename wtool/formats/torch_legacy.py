"""PyTorch's files from before 1.6, and of `_use_new_zipfile_serialization=False`: no zip, no index.

    pickle of 0x1950a86a20f9469cfc6c          magic number
    pickle of 1001                            protocol version
    pickle of {"little_endian": ..., ...}     the writer's machine, which changes nothing
    pickle of the object                      storages are named ('storage', class, key, location,
                                              numel, view), view None or (key, offset, numel)
    pickle of [key, ...]                      as strings sort
    int64 numel, raw elements                 for each key, in that order; always little-endian

Several saves may follow one another in one file. The first is read; `root="@2"` reads the second,
"@2.model" a branch of it. Of the blobs, only the counts are read. Stricter than torch, which leaves
storages that the key list forgets uninitialised.
Source: torch 2.13 `torch/serialization.py`, `_legacy_load`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from wtool.checkpoint import Checkpoint
from wtool.dialects.torch_storages import Storage, StorageId, read_storage_id
from wtool.dialects.torch_stream import PickleStream
from wtool.encodings.collection import without_collection
from wtool.encodings.pickle_machine import Pickled
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent, describe
from wtool.errors import MalformedInput, TruncatedInput, UsageError, WtoolError, counted, shorten
from wtool.formats import Format, Probe
from wtool.sources import Source, read_bytes

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
# A save that follows another is looked for this many times; the file says nothing of how many.
MAX_SAVES = 1000
_MAGIC_BYTES = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAGIC_TEXT = b"L119547037146038801333356L\n."
HEAD_BYTES = 64


def claims(probe: Probe) -> bool:
    """Whether the file starts with the pickled magic number, in any protocol."""
    return is_save(probe.head)


def is_save(head: bytes) -> bool:
    """Whether `head` begins with the pickled magic number: PROTO, from 4 on a FRAME, the number."""
    body = head[2:] if head[:1] == b"\x80" else head
    if body[:1] == b"\x95":
        body = body[9:]
    return body.startswith((_MAGIC_BYTES, _MAGIC_TEXT))


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """The Checkpoint of one save in the file; reads pickles and the counts of the blobs.

    root: as everywhere; with "@K" or "@K.branch", the K-th save is read.
    """
    from wtool.dialects.torch_checkpoint import build_checkpoint
    from wtool.dialects.torch_objects import ObjectReader

    chosen = re.fullmatch(r"@(\d{1,4})(?:\.(.*))?", root or "", re.DOTALL)
    wanted = int(chosen[1]) if chosen else 1
    source = probe.source
    with without_collection():
        saves, end = _read_saves(source)
        if not 1 <= wanted <= len(saves):
            raise UsageError(f"the file holds {len(saves)} saves", found=f"--root {root}")
        save = saves[wanted - 1]
        return build_checkpoint(
            probe.path,
            FORMAT.name,
            save.pickled,
            ObjectReader(save.storages),
            root=chosen[2] if chosen else root,
            notes=_notes(save, wanted, len(saves), source.size - end),
        )


@dataclass(frozen=True, eq=False)
class Save:
    """One save: its object pickle, its storages, the classes whose Python source it carries."""

    pickled: Pickled
    storages: LegacyStorages
    sources: tuple[str, ...]


class LegacyStorages:
    """The storages of one save by persistent id, placed once the key list is known."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._roots: dict[str, StorageId] = {}
        self._views: dict[str, tuple[str, int, int]] = {}
        self._bases: dict[str, int] = {}
        # By identity of the node; a node that is gone cannot be asked for.
        self._ids: dict[int, StorageId] = {}

    def add(self, node: Persistent) -> None:
        """Note what one persistent id says; MalformedInput where it contradicts another."""
        said = self._ids[id(node)] = read_storage_id(node, items=(6,))
        known = self._roots.setdefault(said.key, said)
        if known.dtype is not said.dtype or known.numel != said.numel:
            raise MalformedInput(
                f"storage '{shorten(said.key)}' is named in two ways",
                expected=f"{known.numel} x {known.dtype}",
                found=f"{said.numel} x {said.dtype}",
            )
        view = _view(said)
        if view is not None:
            key, first, numel = view
            if self._views.setdefault(key, (said.key, first, numel)) != (said.key, first, numel):
                raise MalformedInput(f"view of a storage '{shorten(key)}' is given in two ways")

    def place(self, keys: list[str], stream: PickleStream) -> None:
        """Find the blobs, in the order of `keys`, from the stream's position on.

        MalformedInput where keys and persistent ids do not match or a count is wrong,
        TruncatedInput where a blob ends outside the file.
        """
        listed = set(keys)
        unlisted = [key for key in self._roots if key not in listed]
        if unlisted:
            raise MalformedInput(
                f"storage is not in the list of keys: '{shorten(unlisted[0])}'",
                expected=f"{len(self._roots)} keys",
                found=f"{len(keys)}",
            )
        for index, key in enumerate(keys):
            id = self._roots.get(key)
            if id is None:
                raise MalformedInput(f"listed storage that no tensor has: '{shorten(key)}'")
            if key in self._bases:
                raise MalformedInput(f"storage key listed twice: '{shorten(key)}'")
            offset = stream.position
            what = f"storage '{shorten(key)}', {index + 1} of {len(keys)}"
            count = int.from_bytes(stream.next_bytes(8, what), "little", signed=True)
            if count != id.numel:
                raise MalformedInput(
                    f"number of elements of {what}",
                    path=self._source.name,
                    offset=offset,
                    expected=id.numel,
                    found=count,
                )
            if id.nbytes > self._source.size - stream.position:
                raise TruncatedInput(
                    f"file ends within {what}",
                    path=self._source.name,
                    offset=offset,
                    expected=f"{id.nbytes} bytes",
                    found=self._source.size - stream.position,
                )
            self._bases[key] = stream.position
            stream.position += id.nbytes

    def __call__(self, node: Persistent) -> Storage:
        """The storage that a persistent id names; for a view, the root's part up to its end."""
        # What is no persistent id was never noted: reading it as one says what is wrong.
        said = self._ids.get(id(node)) or read_storage_id(node, items=(6,))
        base = self._bases.get(said.key)
        if base is None:
            raise MalformedInput(f"storage is not in the list of keys: '{shorten(said.key)}'")
        identity: Hashable = (self._source.name, base)
        view = _view(said)
        if view is None:
            return Storage(self._source, base, said.nbytes, said.dtype, identity)
        _, first, numel = view
        nbytes = (first + numel) * said.dtype.itemsize
        return Storage(self._source, base, nbytes, said.dtype, identity, shift=first)


def _view(id: StorageId) -> tuple[str, int, int] | None:
    """(key, first element, elements) of the part of a storage that is meant; None for all of it."""
    (view,) = id.rest
    if view is None:
        return None
    if isinstance(view, tuple) and len(view) == 3:
        key, first, numel = view
        numbers = type(first) is int and type(numel) is int and first >= 0 and numel >= 0
        if isinstance(key, str) and key != id.key and numbers and first + numel <= id.numel:
            return str(key), first, numel
    raise MalformedInput(
        f"view of a storage '{shorten(id.key)}'",
        expected=f"None, or (another key, offset, count) within {id.numel} elements",
        found=describe(view),
    )


def _read_saves(source: Source) -> tuple[list[Save], int]:
    """(saves one after another, offset behind the last); the first is there, or it is an error."""
    saves = [_read_save(stream := PickleStream(source))]
    while len(saves) < MAX_SAVES:
        offset = stream.position
        head = read_bytes(source, offset, min(HEAD_BYTES, source.size - offset))
        if not is_save(bytes(head)):
            return saves, offset
        saves.append(_read_save(stream))
    return saves, stream.position


def _read_save(stream: PickleStream) -> Save:
    """One save; the stream moves behind its last blob."""
    path = stream.source.name
    start = stream.position
    magic = stream.next_pickle("magic number").value
    if magic != MAGIC or type(magic) is not int:
        raise MalformedInput("magic number", path=path, offset=start, expected=hex(MAGIC))
    version = stream.next_pickle("protocol version").value
    if version != VERSION or type(version) is not int:
        raise MalformedInput(
            "protocol version", path=path, expected=VERSION, found=describe(version)
        )
    system = stream.next_pickle("system information").value
    if not isinstance(system, Dict):
        raise MalformedInput("system information", path=path, expected="a dictionary")
    storages = LegacyStorages(stream.source)
    sources: dict[str, None] = {}

    def persistent(id: Any) -> Any:
        if isinstance(id, tuple) and len(id) == 4 and id[0] == "module":
            return _module(id, sources)
        node = Persistent(id)
        storages.add(node)
        return node

    pickled = stream.next_pickle("object", persistent=persistent)
    offset = stream.position
    keys = stream.next_pickle("list of storage keys").value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise MalformedInput(
            "list of storage keys", path=path, offset=offset, expected="a list of text"
        )
    try:
        storages.place([str(key) for key in keys], stream)
    except WtoolError as error:
        raise error.locate(path=path, offset=offset) from error.__cause__
    return Save(pickled, storages, tuple(sources))


def _module(id: tuple, sources: dict[str, None]) -> Any:
    """The class that a record ('module', class, source file, source text) stands for."""
    _, cls, _file, text = id
    if type(cls) not in (Global, Call):
        raise MalformedInput("record of a module without its class", found=describe(cls))
    if text:
        sources[getattr(cls, "full", "")] = None
    return cls


def _notes(save: Save, wanted: int, count: int, trailing: int) -> list[str]:
    notes = []
    if count > 1:
        more = " or more" if count == MAX_SAVES else ""
        notes.append(
            f"the file holds {count}{more} saves; number {wanted} is read"
            + (" (--root @2 reads the second)" if wanted == 1 else "")
        )
    if trailing:
        notes.append(f"not read: {counted(trailing, 'byte')} after the last save")
    if save.sources:
        names = ", ".join(shorten(name) for name in list(save.sources)[:3])
        more = f" and {len(save.sources) - 3} more" if len(save.sources) > 3 else ""
        notes.append(f"carries the Python source of {names}{more}; it was not run")
    return notes


FORMAT = Format(
    "torch-legacy",
    "PyTorch file from before 1.6",
    (".pt", ".pth", ".bin", ".ckpt"),
    claims,
    open_file,
)
