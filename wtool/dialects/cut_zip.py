"""A torch zip file that was cut short: which record it ends in, and which tensors are lost with it.

The directory of a zip file is at its end, and so is gone. What is left is read from the front: the
pickle with all names comes first, and says how long each storage is; torch's writer puts sizes
behind the records, others put them before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wtool.dialects.torch_storages import read_storage_id
from wtool.encodings.pickle_machine import parse_source
from wtool.encodings.pickle_nodes import Call, Dict, Persistent
from wtool.encodings.pickle_walk import walk
from wtool.errors import InputError, TruncatedInput, WtoolError
from wtool.sources import Source, read_bytes

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_FULL32 = 0xFFFFFFFF
_SIZES_FOLLOW = 8
MAX_RECORDS = 100_000
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


@dataclass(frozen=True)
class Names:
    """Of each storage: its bytes, and the tensors on it."""

    nbytes: dict[str, int]
    tensors: dict[str, list[str]]


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
    names = Names({}, {})
    records: list[Record] = []
    for record in _records(source, names):
        records.append(record)
        if record.name.endswith("/data.pkl") and record.stop <= source.size:
            found = _names(source, record)
            names.nbytes.update(found.nbytes)
            names.tensors.update(found.tensors)
    if not records:
        return None
    last = records[-1]
    whole = {r.name.rpartition("/")[2] for r in records if "/data/" in r.name}
    here: list[str] | None = None
    if last.stop > source.size:
        have = source.size - last.start
        text = f"cut at byte {source.size:,}: {have:,} of {last.stop - last.start:,} bytes"
        text += f" of '{last.name}'"
        key = last.name.rpartition("/")[2]
        whole.discard(key)
        here = names.tensors.get(key) if "/data/" in last.name else None
        text += f", tensor '{here[0]}'" if here else ""
    else:
        text = f"cut at byte {source.size:,}, behind the record '{last.name}'"
    total = sum(map(len, names.tensors.values()))
    lost = [name for key, some in names.tensors.items() if key not in whole for name in some]
    if total:
        text += f"; {len(lost):,} of {total:,} tensors are not whole"
    return Cut(text, next(iter(here or lost), None))


def _records(source: Source, names: Names) -> Iterator[Record]:
    """The records from the front, as far as they can be followed; the last may end outside."""
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
    if name.endswith("/data.pkl"):
        try:
            return parse_source(source, start).end - start
        except InputError:
            return None
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


def _names(source: Source, record: Record) -> Names:
    """What the pickle says of the storages; empty where it cannot be read."""
    names = Names({}, {})
    try:
        root = parse_source(source, record.start).value
        for node in walk(root):
            if isinstance(node, Persistent):
                said = read_storage_id(node)
                names.nbytes[said.key] = said.nbytes
            elif isinstance(node, Dict):
                for key, value in node.items():
                    storage = _storage_of(value)
                    if storage is not None:
                        names.tensors.setdefault(storage, []).append(str(key))
    except WtoolError:
        return Names({}, {})
    return names


def _storage_of(value: Any) -> str | None:
    """The storage that a rebuilt tensor lies on, None where the value is no tensor."""
    if not isinstance(value, Call):
        return None
    if value.full == "torch._utils._rebuild_parameter" and value.args:
        value = value.args[0]
    first = value.args[0] if isinstance(value, Call) and value.args else None
    if isinstance(first, Persistent) and isinstance(first.id, tuple) and len(first.id) > 2:
        return str(first.id[2])
    return None
