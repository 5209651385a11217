"""Entries of a zip file's central directory: names, methods, sizes and where each header lies.

What is refused by name: encryption, patches, other methods than deflate, sizes that cannot be,
members that overlap, names that are equal but for case. Source: PKWARE APPNOTE 6.3.10, 4.3.12.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from wtool.encodings.zip_inflate import MAX_DEFLATE_RATIO
from wtool.errors import MalformedInput, UnsafeInput, WtoolError, shorten

STORED, DEFLATED = 0, 8
_ENCRYPTED, _PATCHED, _STRONG, _MASKED = 0x01, 0x20, 0x40, 0x2000
REFUSED_FLAGS = _ENCRYPTED | _PATCHED | _STRONG | _MASKED
# A size or offset that stands in the zip64 field.
FULL32 = 0xFFFFFFFF
_METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstd",
    95: "xz",
}

# signature, (made by, needed,) flags, method, (time, date,) crc, csize, size, name, extra, comment,
# disk, (internal, external,) header offset
_CENTRAL = struct.Struct("<4s4xHH4xIIIHHHH6xI")


class Member(NamedTuple):
    """One entry of the directory. Sizes and offsets in bytes.

    crc: CRC-32 as recorded; torch records 0 where it was told to skip it.
    limit: where the next member's header or the directory starts: this one ends before it.
    """

    name: str
    raw_name: bytes
    method: int
    crc: int
    packed_nbytes: int
    nbytes: int
    header_offset: int
    limit: int


def read_members(
    data: bytes, count: int, directory_offset: int
) -> tuple[list[str], Sequence[Member]]:
    """(names, members) of the central directory `data`, in its order."""
    rows = []
    position = 0
    size = len(data)
    unpack = _CENTRAL.unpack_from
    for _ in range(count):
        if position + 46 > size:
            raise MalformedInput(
                "zip directory ends inside a member", offset=directory_offset + position
            )
        (
            signature, flags, method, crc, packed, nbytes,
            name_size, extra_size, comment_size, disk, header,
        ) = unpack(data, position)  # fmt: skip
        start = position
        position += 46
        raw = data[position : position + name_size]
        position += name_size + extra_size + comment_size
        if signature != b"PK\1\2" or position > size:
            raise MalformedInput(
                "zip directory entry is broken", offset=directory_offset + start, found=signature
            )
        if packed == FULL32 or nbytes == FULL32 or header == FULL32:
            extra = data[start + 46 + name_size : start + 46 + name_size + extra_size]
            nbytes, packed, header = _widen(extra, nbytes, packed, header)
        if flags & REFUSED_FLAGS or disk or (method != STORED and method != DEFLATED):
            raise _unreadable(raw, flags, method, disk, directory_offset + start)
        if (packed != nbytes) if method == STORED else nbytes > packed * MAX_DEFLATE_RATIO + 64:
            raise MalformedInput(
                f"zip member {shorten(repr(raw)[1:])} has sizes that cannot be",
                offset=directory_offset + start,
                expected="equal sizes where stored, and at most 1,032 to 1 where deflated",
                found=f"{nbytes} bytes from {packed}",
            )
        rows.append((raw, method, crc, packed, nbytes, header))
    if position != size:
        raise MalformedInput(
            "zip directory has more bytes than members",
            offset=directory_offset + position,
            expected=f"{count} members",
            found=f"{size - position} bytes left",
        )
    if not rows:
        return [], []
    limits = _next_headers(rows, directory_offset)
    names = _decode_names(rows)
    members = [
        Member(name, *row, limit) for name, row, limit in zip(names, rows, limits, strict=True)
    ]
    return names, members


def _next_headers(rows: list[tuple], directory_offset: int) -> list[int]:
    """For each member, where the next header or the directory starts; no two may overlap."""
    order = sorted(range(len(rows)), key=[row[-1] for row in rows].__getitem__)
    limits = [directory_offset] * len(rows)
    limit = directory_offset
    for index in reversed(order):
        raw, _, _, packed, _, header = rows[index]
        if header + 30 + len(raw) + packed > limit:
            raise MalformedInput(
                f"zip member {shorten(repr(raw)[1:])} overlaps the next one or the directory",
                offset=header,
                expected=f"end at byte {limit} at most",
                found=f"{packed} bytes",
            )
        limits[index] = limit
        limit = header
    return limits


def _widen(extra: bytes, nbytes: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset; those that are full 32 bits come from the zip64 field, in order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind != 1:
            continue
        values = [nbytes, packed, header]
        used = 0
        for index, value in enumerate(values):
            if value == FULL32:
                if used + 8 > len(body):
                    raise MalformedInput("zip64 field too short", found=f"{len(body)} bytes")
                (values[index],) = struct.unpack_from("<Q", body, used)
                used += 8
        if max(values) >= 1 << 63:
            raise MalformedInput("zip64 size out of range", found=max(values))
        return values[0], values[1], values[2]
    raise MalformedInput("zip member without the zip64 field that its sizes need")


def _decode_names(rows: list[tuple]) -> list[str]:
    """Names as text: UTF-8, and what is not, in the code page of the first PCs."""
    raws = [row[0] for row in rows]
    together = b"\0".join(raws)
    if b"" in raws or together.count(b"\0") != len(raws) - 1:
        header = next(row[-1] for row in rows if not row[0] or b"\0" in row[0])
        raise UnsafeInput("zip member with an empty name or a NUL in it", offset=header)
    try:
        return together.decode("utf-8").split("\0")
    except UnicodeDecodeError:
        return [_decode_name(raw) for raw in raws]


def _decode_name(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _unreadable(raw: bytes, flags: int, method: int, disk: int, offset: int) -> WtoolError:
    what = f"zip member {shorten(repr(raw)[1:])}"
    if disk:
        return MalformedInput(f"{what} lies on another disk", offset=offset, found=disk)
    if flags & _PATCHED:
        return MalformedInput(f"{what} holds a patch, not data", offset=offset)
    if flags & REFUSED_FLAGS:
        return MalformedInput(f"{what} is encrypted", offset=offset)
    known = _METHODS.get(method)
    return MalformedInput(
        f"{what} is compressed in a way that is not read",
        offset=offset,
        expected="stored (0) or deflate (8)",
        found=f"{known} ({method})" if known else f"method {method}",
    )
