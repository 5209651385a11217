"""TensorFlow files made by hand, byte by byte after the specifications, right or wrong on purpose.

Nothing here uses wtool: a mistake shared by a writer and a reader would not show.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import google_crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
FLOAT, DOUBLE, INT32, STRING, INT64 = 1, 2, 3, 7, 9
GRAPH_KEY = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(
    entries: Sequence[tuple[bytes, bytes]], interval: int = 16, restarts: list[int] | None = None
) -> bytes:
    """The content of a block; `restarts` replaces the right ones."""
    out = bytearray()
    starts = []
    before = b""
    for place, (key, value) in enumerate(entries):
        shared = 0
        if place % interval == 0:
            starts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    starts = restarts if restarts is not None else starts or [0]
    return bytes(out) + struct.pack(f"<{len(starts)}I", *starts) + struct.pack("<I", len(starts))


def sealed(content: bytes, compression: int = 0) -> bytes:
    """A block with its trailer."""
    body = content + bytes((compression,))
    return body + struct.pack("<I", masked(body))


def table(blocks: Iterable[Sequence[tuple[bytes, bytes]]], interval: int = 16) -> bytes:
    """A sorted table of the given blocks."""
    return assemble([(entries[-1][0], block(entries, interval), 0) for entries in blocks])


def assemble(blocks: Iterable[tuple[bytes, bytes, int]]) -> bytes:
    """A table of (index key, stored block content, compression byte)."""
    out = bytearray()
    handles = []
    for key, content, compression in blocks:
        handles.append((key, varint(len(out)) + varint(len(content))))
        out += sealed(content, compression)
    meta = varint(len(out)) + varint(8)
    out += sealed(block([]))
    content = block(handles, interval=1)
    index = varint(len(out)) + varint(len(content))
    out += sealed(content)
    return bytes(out) + (meta + index).ljust(40, b"\0") + MAGIC


def header(shards: int = 1, big_endian: bool = False, version: bytes = b"\x08\x01") -> bytes:
    return (
        (number(1, shards) if shards else b"")
        + (number(2, 1) if big_endian else b"")
        + nested(3, version)
    )


def shape(sizes: Iterable[int]) -> bytes:
    return b"".join(nested(2, number(1, size) if size else b"") for size in sizes)


def entry(
    dtype: int,
    sizes: Iterable[int],
    *,
    offset: int = 0,
    size: int = 0,
    shard: int = 0,
    crc: int = 0,
    slices: Iterable[Sequence[tuple[int, int | None]]] = (),
) -> bytes:
    out = number(1, dtype) + nested(2, shape(sizes))
    for field, value in ((3, shard), (4, offset), (5, size)):
        if value:
            out += number(field, value)
    if crc:
        out += varint(6 << 3 | 5) + struct.pack("<I", crc)
    return out + b"".join(nested(7, tensor_slice(extents)) for extents in slices)


def tensor_slice(extents: Sequence[tuple[int, int | None]]) -> bytes:
    """TensorSliceProto of (start, length); no length means the whole dimension."""
    return b"".join(
        nested(1, (number(1, start) if start else b"") + (number(2, n) if n is not None else b""))
        for start, n in extents
    )


def write_bundle(
    prefix: Path,
    entries: dict[bytes, bytes],
    data: bytes = b"",
    *,
    head: bytes | None = None,
    shards: Sequence[bytes] | None = None,
) -> Path:
    """PREFIX.index of one block with these entries, and its data files; returns the prefix."""
    everything = {b"": header() if head is None else head, **entries}
    prefix.with_name(prefix.name + ".index").write_bytes(table([sorted(everything.items())]))
    contents = [data] if shards is None else shards
    for place, content in enumerate(contents):
        name = f"{prefix.name}.data-{place:05d}-of-{len(contents):05d}"
        prefix.with_name(name).write_bytes(content)
    return prefix


def string_tensor(strings: Sequence[bytes], order: str = "little") -> tuple[bytes, int]:
    """(stored bytes, masked checksum) of a string tensor."""
    sign = "<" if order == "little" else ">"
    lengths = b"".join(struct.pack(sign + "I", len(s)) for s in strings)
    check = struct.pack(sign + "I", masked(lengths))
    stored = b"".join(varint(len(s)) for s in strings) + check + b"".join(strings)
    return stored, masked(lengths + check + b"".join(strings))


def object_graph(nodes: Sequence[bytes]) -> bytes:
    return b"".join(nested(1, node) for node in nodes)


def child(node: int, name: str) -> bytes:
    return nested(1, (number(1, node) if node else b"") + nested(2, name.encode()))


def attribute(key: str, full_name: str = "", name: str = "VARIABLE_VALUE") -> bytes:
    parts = nested(1, name.encode()) + (nested(2, full_name.encode()) if full_name else b"")
    return nested(2, parts + nested(3, key.encode()))


def object_bundle(prefix: Path, graph: bytes, names: Iterable[str] = ()) -> Path:
    """A bundle with an object graph, and one float32 scalar under each of `names`."""
    stored, crc = string_tensor([graph])
    entries = {GRAPH_KEY: entry(STRING, (), size=len(stored), crc=crc)}
    data = stored
    for name in names:
        value = struct.pack("<f", len(data))
        entries[name.encode()] = entry(FLOAT, (), offset=len(data), size=4, crc=masked(value))
        data += value
    return write_bundle(prefix, entries, data)


def snappy_literals(data: bytes) -> bytes:
    """`data` as a snappy block of literals only."""
    out = bytearray(varint(len(data)))
    for start in range(0, len(data), 60):
        piece = data[start : start + 60]
        out += bytes(((len(piece) - 1) << 2,)) + piece
    return bytes(out)
