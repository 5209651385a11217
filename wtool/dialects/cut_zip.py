"""A torch zip file that was cut short: which record it ends in, and which tensors are lost with it.

The directory of a zip file is at its end, and so is gone. What is left is read from the front: the
pickle with all names comes first, and says how long each storage is; torch's writer puts sizes
behind the records, others put them before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wtool.dialects.torch_storages import read_storage_id
from wtool.encodings.pickle_machine import parse_source
from wtool.encodings.pickle_nodes import Call, Dict, Persistent, describe
from wtool.encodings.pickle_walk import walk
from wtool.errors import InputError, TruncatedInput, WtoolError, shorten
from wtool.sources import Source, read_bytes

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_FULL32 = 0xFFFFFFFF
_SIZES_FOLLOW = 8
MAX_RECORDS = 1_000_000
# Records that are neither the pickle nor a storage are a few words.
SMALL_BYTES = 64 << 10
# What follows a record whose sizes follow it: 16 bytes, 24 with sizes of 64 bits, or nothing.
_DESCRIPTORS = (0, 12, 16, 20, 24)


@dataclass(frozen=True, slots=True)
class Record:
    """A record from the front of the file: its name, its first byte, and where it should end."""

    name: str
    start: int
    stop: int


@dataclass
class Names:
    """Of each storage: its bytes, and the tensors on it; nothing until the pickle was read."""

    is_read: bool = False
    nbytes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a file was cut, in a sentence, and the tensor that it ends in or that is lost first."""

    text: str
    tensor: str | None


def explain_cut(source: Source, error: TruncatedInput) -> TruncatedInput:
    """The error of a zip file without its directory, as `error` reports it, with what is lost."""
    try:
        cut = find_cut(source)
    except InputError:
        cut = None
    if cut is None:
        return error
    return TruncatedInput(
        f"zip file without its directory: {cut.text}",
        tensor=cut.tensor,
        hint="fetch the file again, and compare its size and SHA-256",
    )


def find_cut(source: Source) -> Cut | None:
    """Where a torch zip file without its end was cut; None where that is unclear."""
    names = Names()
    records = list(_records(source, names))
    if not records:
        return None
    last = records[-1]
    whole = {r.name.rpartition("/")[2] for r in records if "/data/" in r.name}
    here: list[str] | None = None
    if last.stop > source.size:
        have = source.size - last.start
        text = f"cut at byte {source.size:,}: {have:,} of {last.stop - last.start:,} bytes"
        text += f" of '{shorten(last.name)}'"
        key = last.name.rpartition("/")[2]
        whole.discard(key)
        here = names.tensors.get(key) if "/data/" in last.name else None
        text += f", tensor '{shorten(here[0])}'" if here else ""
    else:
        text = f"cut at byte {source.size:,}, behind the record '{shorten(last.name)}'"
    total = sum(map(len, names.tensors.values()))
    lost = [name for key, some in names.tensors.items() if key not in whole for name in some]
    if total:
        text += f"; {len(lost):,} of {total:,} tensors are not whole"
    return Cut(text, next(iter(here or lost), None))


def _records(source: Source, names: Names) -> Iterator[Record]:
    """The records from the front, as far as they can be followed; the last may end outside.

    names: filled from the first record that is the pickle; a file that attacks has thousands.
    """
    at = 0
    for _ in range(MAX_RECORDS):
        if at + 30 > source.size:
            return
        fields = _LOCAL.unpack(bytes(read_bytes(source, at, 30)))
        signature, flags, packed, name_size, extra_size = (fields[i] for i in (0, 2, 7, 9, 10))
        start = at + 30 + name_size + extra_size
        if signature != b"PK\3\4" or start > source.size:
            return
        name = bytes(read_bytes(source, at + 30, name_size)).decode("utf-8", "replace")
        follows = bool(flags & _SIZES_FOLLOW) and not packed
        if packed == _FULL32:
            return
        is_here = start + packed <= source.size
        if is_here and name.endswith("/data.pkl") and not names.is_read:
            length = _read_names(source, start, names)
            size = length if follows else packed
        else:
            size = _size(source, name, start, names) if follows else packed
        if size is None:
            return
        yield Record(name, start, start + size)
        following = _next_header(source, start + size) if follows else start + size
        if following is None:
            return
        at = following


def _size(source: Source, name: str, start: int, names: Names) -> int | None:
    """Bytes of a record whose header does not say; None where nothing else says it."""
    if name.count("/") == 2 and "/data/" in name:
        return names.nbytes.get(name.rpartition("/")[2])
    piece = bytes(read_bytes(source, start, min(SMALL_BYTES, source.size - start)))
    end = piece.find(b"PK\7\10")
    return end if end >= 0 else None


def _next_header(source: Source, stop: int) -> int | None:
    """Where the next record begins, behind the sizes of this one."""
    for gap in _DESCRIPTORS:
        at = stop + gap
        if at + 4 <= source.size and bytes(read_bytes(source, at, 4)) == b"PK\3\4":
            return at
    return None


def _read_names(source: Source, start: int, names: Names) -> int | None:
    """Fill `names` from the pickle at `start`; its length, None where it cannot be read."""
    names.is_read = True
    try:
        pickled = parse_source(source, start)
    except WtoolError:
        return None
    nbytes: dict[str, int] = {}
    tensors: dict[str, list[str]] = {}
    try:
        for node in walk(pickled.value):
            if isinstance(node, Persistent) and _key_of(node) is not None:
                said = read_storage_id(node)
                nbytes[said.key] = said.nbytes
            elif isinstance(node, Dict):
                for key, value in node.items():
                    storage = _storage_of(value)
                    if storage is not None:
                        name = key if isinstance(key, str) else describe(key)
                        tensors.setdefault(storage, []).append(name)
    except WtoolError:
        return pickled.end - start
    names.nbytes, names.tensors = nbytes, tensors
    return pickled.end - start


def _storage_of(value: Any) -> str | None:
    """Key of the storage that a rebuilt tensor lies on, None where the value is no tensor."""
    if not isinstance(value, Call):
        return None
    if value.full == "torch._utils._rebuild_parameter" and value.args:
        value = value.args[0]
    first = value.args[0] if isinstance(value, Call) and value.args else None
    return _key_of(first) if isinstance(first, Persistent) else None


def _key_of(node: Persistent) -> str | None:
    """The key in a persistent id, None where it is no text."""
    key = node.id[2] if isinstance(node.id, tuple) and len(node.id) > 2 else None
    return key if isinstance(key, str) else None
