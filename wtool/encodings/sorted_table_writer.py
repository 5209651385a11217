"""Writes sorted tables (LevelDB's file of keys and values) as TensorFlow writes its indexes.

Blocks of 256 KiB without compression, a whole key every 16 entries, index keys cut as short as they
may be. The layout is in `sorted_table`. Source: LevelDB `table/table_builder.cc`,
`block_builder.cc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from wtool.encodings.checksums import crc32c, mask
from wtool.encodings.protobuf_writer import varint
from wtool.encodings.sorted_table import MAGIC, TRAILER_BYTES

# TensorFlow's settings for checkpoints, not LevelDB's.
BLOCK_BYTES = 262144
RESTART_INTERVAL = 16


def table_bytes(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The table of (key, value) `entries`, whose keys increase strictly.

    Law: reading the table gives the entries. ValueError where the keys do not increase: the caller
    sorts them.
    """
    out = bytearray()
    index: list[tuple[bytes, bytes]] = []
    block: list[tuple[bytes, bytes]] = []
    previous: bytes | None = None
    pending: tuple[bytes, bytes] | None = None
    size = 0
    for key, value in entries:
        if previous is not None and key <= previous:
            raise ValueError("keys of a sorted table must increase")
        if pending is not None:
            index.append((separator(pending[0], key), pending[1]))
            pending = None
        size += _entry_size(previous if len(block) % RESTART_INTERVAL else None, key, value)
        block.append((key, value))
        previous = key
        if size + 4 * _restarts(len(block)) + 4 >= BLOCK_BYTES:
            pending = key, _append(out, _block(block, RESTART_INTERVAL))
            block, size = [], 0
    if block:
        pending = block[-1][0], _append(out, _block(block, RESTART_INTERVAL))
    if pending is not None:
        index.append((successor(pending[0]), pending[1]))
    meta_handle = _append(out, _block([], RESTART_INTERVAL))
    index_handle = _append(out, _block(index, 1))
    handles = meta_handle + index_handle
    return bytes(out) + handles + bytes(40 - len(handles)) + MAGIC


def separator(start: bytes, limit: bytes) -> bytes:
    """A short key from `start` on and before `limit`, where `start` < `limit`."""
    length = min(len(start), len(limit))
    place = next((i for i in range(length) if start[i] != limit[i]), length)
    if place < length and start[place] < 0xFF and start[place] + 1 < limit[place]:
        return start[:place] + bytes((start[place] + 1,))
    return start


def successor(key: bytes) -> bytes:
    """A short key not before `key`."""
    for place, byte in enumerate(key):
        if byte != 0xFF:
            return key[:place] + bytes((byte + 1,))
    return key


def _block(entries: Sequence[tuple[bytes, bytes]], interval: int) -> bytes:
    out = bytearray()
    restarts = [0]
    previous = b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % interval:
            shared = _shared(previous, key)
        elif number:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        previous = key
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def _append(out: bytearray, block: bytes) -> bytes:
    """Add a block with its trailer; its handle."""
    handle = varint(len(out)) + varint(len(block))
    trailer = bytearray(TRAILER_BYTES)
    struct.pack_into("<I", trailer, 1, mask(crc32c(block + b"\x00")))
    out += block + trailer
    return handle


def _entry_size(previous: bytes | None, key: bytes, value: bytes) -> int:
    shared = 0 if previous is None else _shared(previous, key)
    lengths = len(varint(shared)) + len(varint(len(key) - shared)) + len(varint(len(value)))
    return lengths + len(key) - shared + len(value)


def _restarts(count: int) -> int:
    """Whole keys in a block of `count` entries."""
    return max(1, -(-count // RESTART_INTERVAL))


def _shared(before: bytes, key: bytes) -> int:
    """Number of leading bytes that both keys have."""
    length = min(len(before), len(key))
    if before[:length] == key[:length]:
        return length
    return next(i for i in range(length) if before[i] != key[i])
