"""The sorted table (LevelDB's file of keys and values) as TensorFlow writes its checkpoint indexes.

Footer = last 48 bytes: handles of metaindex and index block, zero padded to 40, magic. A block =
its bytes, one byte of compression (0 none, 1 snappy), the masked CRC-32C of both. The index block's
values are the handles of the data blocks; each of its keys is at least its block's last key.

Blocks are read, checked and decoded one at a time. Beyond LevelDB, which trusts its own files, keys
must increase strictly over the whole table and blocks must lie in file order without overlapping:
an unsorted table answers lookups wrongly, and a block named twice would let a small file cost any
time.

Source: LevelDB `doc/table_format.md`, `table/format.cc`, `table/block.cc`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from wtool.encodings.checksums import CRC32C, crc32c, mask
from wtool.encodings.protobuf import read_varint
from wtool.encodings.snappy import decompress
from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput, WtoolError
from wtool.sources import Source, read_bytes

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_BYTES = 48
# Compression byte and CRC after each block.
TRAILER_BYTES = 5
# TensorFlow's blocks take 256 KiB; one entry may be larger. Larger blocks are read in windows only.
MAX_BLOCK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Handle:
    """Where a block lies: `size` bytes from `offset` on, without the trailer."""

    offset: int
    size: int


@dataclass(frozen=True)
class Table:
    """An opened table: its source, and per data block (key not before its last key, handle)."""

    source: Source
    separators: tuple[bytes, ...]
    handles: tuple[Handle, ...]

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) in key order; every block is checked before its first entry is given."""
        previous: bytes | None = None
        for separator, handle in zip(self.separators, self.handles, strict=True):
            entries = self.block(handle)
            if previous is not None and entries[0][0] <= previous:
                raise MalformedInput(
                    "keys out of order across blocks",
                    path=self.source.name,
                    offset=handle.offset,
                    expected=f"a key after {show(previous)}",
                    found=show(entries[0][0]),
                )
            previous = entries[-1][0]
            if previous > separator:
                raise MalformedInput(
                    "key beyond the index entry of its block",
                    path=self.source.name,
                    offset=handle.offset,
                    expected=f"at most {show(separator)}",
                    found=show(previous),
                )
            yield from entries

    def block(self, handle: Handle) -> list[tuple[bytes, bytes]]:
        """The entries of one data block, at least one."""
        entries = _block_entries(self.source, handle)
        if not entries:
            raise MalformedInput("empty block", path=self.source.name, offset=handle.offset)
        return entries

    def find_block(self, key: bytes) -> Handle | None:
        """The only block that may hold `key`; None where no block may."""
        place = bisect_left(self.separators, key)
        return self.handles[place] if place < len(self.handles) else None


def has_magic(tail: bytes) -> bool:
    """Whether a file with these last bytes ends as a sorted table does."""
    return tail.endswith(MAGIC)


def open_table(source: Source) -> Table:
    """The table in `source`: footer and index block are read and checked, no data block is.

    Raises TruncatedInput or MalformedInput where the file is not a sound table.
    """
    size = source.size
    if size < FOOTER_BYTES:
        raise TruncatedInput(
            "too short for a sorted table",
            path=source.name,
            expected=f"at least {FOOTER_BYTES} bytes",
            found=size,
        )
    start = size - FOOTER_BYTES
    footer = bytes(read_bytes(source, start, FOOTER_BYTES))
    if not has_magic(footer):
        raise MalformedInput(
            "no sorted table, or cut short: bad magic number in the last 8 bytes",
            path=source.name,
            offset=size - len(MAGIC),
            expected=MAGIC.hex(),
            found=footer[-8:].hex(),
        )
    try:
        meta, position = _read_handle(footer, 0, start)
        index, position = _read_handle(footer, position, start)
    except WtoolError as error:
        raise error.locate(path=source.name, offset=start) from None
    if any(footer[position : -len(MAGIC)]):
        raise MalformedInput("footer not padded with zeros", path=source.name, offset=start)
    _block_entries(source, meta)
    separators, handles = [], []
    for key, value in _block_entries(source, index):
        try:
            handle, stop = _read_handle(value, 0, start)
        except WtoolError as error:
            raise error.locate(path=source.name, offset=index.offset) from None
        if stop != len(value):
            raise MalformedInput(
                "bytes after a block handle", path=source.name, offset=index.offset
            )
        separators.append(key)
        handles.append(handle)
    for before, after in pairwise(handles):
        if after.offset < before.offset + before.size + TRAILER_BYTES:
            raise MalformedInput(
                "blocks overlap or lie out of order",
                path=source.name,
                offset=after.offset,
                expected=f"from byte {before.offset + before.size + TRAILER_BYTES} on",
            )
    return Table(source, tuple(separators), tuple(handles))


def read_block(source: Source, handle: Handle) -> bytes:
    """The content of a block: CRC checked, decompressed. UnsafeInput above MAX_BLOCK_BYTES."""
    if handle.size > MAX_BLOCK_BYTES:
        raise UnsafeInput(
            "block too large",
            path=source.name,
            offset=handle.offset,
            expected=f"at most {MAX_BLOCK_BYTES} bytes",
            found=handle.size,
        )
    stored = bytes(read_bytes(source, handle.offset, handle.size + TRAILER_BYTES))
    _check_crc(source, handle, crc32c(stored[:-4]), stored[-TRAILER_BYTES:])
    content = stored[: handle.size]
    compression = stored[handle.size]
    if compression == 0:
        return content
    if compression != 1:
        raise MalformedInput(
            "block with an unknown compression",
            path=source.name,
            offset=handle.offset,
            expected="0 (none) or 1 (snappy)",
            found=compression,
        )
    try:
        return decompress(content, max_bytes=MAX_BLOCK_BYTES)
    except WtoolError as error:
        raise error.locate(path=source.name, offset=handle.offset) from None


def check_block(source: Source, handle: Handle) -> int:
    """Check the CRC of a block of any size in flat memory; returns its compression byte."""
    trailer = bytes(read_bytes(source, handle.offset + handle.size, TRAILER_BYTES))
    crc = CRC32C.of_source(source, handle.offset, handle.size + 1)
    _check_crc(source, handle, crc, trailer)
    return trailer[0]


def decode_entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, value) pairs of a block's content, keys increasing strictly.

    Entry = varints shared, unshared, value size; the key's unshared bytes; the value. The block
    ends with the u32 offsets of the entries that share nothing ("restarts") and their u32 count.
    """
    if len(block) < 4:
        raise TruncatedInput("block too short", expected="at least 4 bytes", found=len(block))
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise MalformedInput(
            "block holds fewer restarts than it says", expected=restarts, found=len(block) // 4 - 1
        )
    entries: list[tuple[bytes, bytes]] = []
    whole_keys = {0}
    key = b""
    position = 0
    while position < end:
        start = position
        shared = block[position]
        # Past `end` there are at least 4 bytes (the count), so the next two can be looked at.
        unshared, size = block[position + 1], block[position + 2]
        if shared < 0x80 and unshared < 0x80 and size < 0x80 and position + 3 <= end:
            position += 3
        else:
            shared, position = read_varint(block, position, end)
            unshared, position = read_varint(block, position, end)
            size, position = read_varint(block, position, end)
        value_start = position + unshared
        stop = value_start + size
        if stop > end:
            raise TruncatedInput(
                "entry runs past its block",
                expected=f"{unshared} + {size} bytes",
                found=end - position,
            )
        if shared:
            if shared > len(key):
                raise MalformedInput(
                    "key shares more bytes than the one before has", expected=len(key), found=shared
                )
            new = key[:shared] + block[position:value_start]
        else:
            whole_keys.add(start)
            new = block[position:value_start]
        if new <= key and entries:
            raise MalformedInput(
                "keys out of order or repeated",
                expected=f"a key after {show(key)}",
                found=show(new),
            )
        key = new
        entries.append((key, block[value_start:stop]))
        position = stop
    for place in range(end, len(block) - 4, 4):
        if int.from_bytes(block[place : place + 4], "little") not in whole_keys:
            raise MalformedInput("restart where no whole key begins")
    return entries


def show(key: bytes) -> str:
    """A key as text for an error message: short, and printable whatever it holds."""
    shown = key if len(key) <= 60 else key[:60] + b"..."
    return f"'{shown.decode('utf-8', 'backslashreplace')}'"


def _block_entries(source: Source, handle: Handle) -> list[tuple[bytes, bytes]]:
    try:
        return decode_entries(read_block(source, handle))
    except WtoolError as error:
        raise error.locate(path=source.name, offset=handle.offset) from None


def _read_handle(data: bytes, position: int, limit: int) -> tuple[Handle, int]:
    """(handle, position after it); the block and its trailer must end at byte `limit` or before."""
    offset, position = read_varint(data, position, len(data))
    size, position = read_varint(data, position, len(data))
    if offset + size + TRAILER_BYTES > limit:
        raise TruncatedInput(
            "block outside the file",
            expected=f"an end at byte {limit} or before",
            found=f"{size} bytes at byte {offset}",
        )
    return Handle(offset, size), position


def _check_crc(source: Source, handle: Handle, crc: int, trailer: bytes) -> None:
    stored = int.from_bytes(trailer[1:], "little")
    if mask(crc) != stored:
        raise MalformedInput(
            "block damaged: its checksum does not match",
            path=source.name,
            offset=handle.offset,
            expected=f"{stored:#010x}",
            found=f"{mask(crc):#010x}",
        )
