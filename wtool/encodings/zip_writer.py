"""Bytes of a zip archive of stored members, with real sizes and checksums, zip64 where needed.

Source: PKWARE APPNOTE 6.3.9. No data descriptors; the date is the first that zip can hold, so the
same members give the same bytes. A header is written before its data with checksum 0 and again
after it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from wtool.errors import UnsupportedError

# A field of 32 (16) bits with this value says: look in the zip64 extra.
MAX32 = 0xFFFFFFFF
MAX16 = 0xFFFF
VERSION_STORED = 10
VERSION_ZIP64 = 45
FLAG_UTF8 = 0x800
# 1980-01-01, 00:00.
DOS_TIME = 0
DOS_DATE = 0x21
ZIP64_EXTRA = 0x0001
# The padding field that torch writes, bytes "FB", to put data on a multiple of 64.
PADDING_EXTRA = 0x4246
# One extra field holds at most this much; larger alignments make no sense.
MAX_ALIGNMENT = 4096

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")


@dataclass(frozen=True)
class Member:
    """One stored member: name, offset of its local header, size of its data, alignment of its data.

    alignment 1 means none. Raises UnsupportedError for a name that zip cannot hold.
    """

    name: str
    offset: int
    size: int
    alignment: int = 1

    def __post_init__(self) -> None:
        if len(self.name.encode("utf-8", "surrogatepass")) > MAX16:
            raise UnsupportedError("name too long for a zip member", tensor=self.name)
        if not 1 <= self.alignment <= MAX_ALIGNMENT:
            raise UnsupportedError(
                "bad alignment", expected=f"1 to {MAX_ALIGNMENT}", found=self.alignment
            )

    @property
    def data_offset(self) -> int:
        """Offset in bytes of the data."""
        return self.offset + len(self.local_header(0))

    @property
    def end(self) -> int:
        """Offset in bytes after the data: where the next member may start."""
        return self.data_offset + self.size

    def local_header(self, crc: int) -> bytes:
        """The header before the data; its length does not depend on `crc`."""
        name = _encoded(self.name)
        large = self.size >= MAX32
        extra = struct.pack("<HHQQ", ZIP64_EXTRA, 16, self.size, self.size) if large else b""
        if self.alignment > 1:
            start = self.offset + _LOCAL.size + len(name) + len(extra) + 4
            padding = -start % self.alignment
            extra += struct.pack("<HH", PADDING_EXTRA, padding) + b"Z" * padding
        size = MAX32 if large else self.size
        return (
            _LOCAL.pack(
                0x04034B50,
                VERSION_ZIP64 if large else VERSION_STORED,
                _flags(self.name),
                0,
                DOS_TIME,
                DOS_DATE,
                crc,
                size,
                size,
                len(name),
                len(extra),
            )
            + name
            + extra
        )

    def central_entry(self, crc: int) -> bytes:
        """The entry of the directory at the end."""
        name = _encoded(self.name)
        wide = []
        if self.size >= MAX32:
            wide += [self.size, self.size]
        if self.offset >= MAX32:
            wide.append(self.offset)
        extra = struct.pack(f"<HH{len(wide)}Q", ZIP64_EXTRA, 8 * len(wide), *wide) if wide else b""
        version = VERSION_ZIP64 if wide else VERSION_STORED
        return (
            _CENTRAL.pack(
                0x02014B50,
                version,
                version,
                _flags(self.name),
                0,
                DOS_TIME,
                DOS_DATE,
                crc,
                min(self.size, MAX32),
                min(self.size, MAX32),
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                min(self.offset, MAX32),
            )
            + name
            + extra
        )


def lay_out(members: Sequence[tuple[str, int]], alignment: int = 1) -> list[Member]:
    """Members (name, size in bytes), one after the other from byte 0 on."""
    placed: list[Member] = []
    position = 0
    for name, size in members:
        member = Member(name, position, size, alignment)
        placed.append(member)
        position = member.end
    return placed


def directory(members: Sequence[Member], crcs: Sequence[int], comment: bytes = b"") -> bytes:
    """The central directory and the records after it, to be written where the last member ends.

    comment: about the whole archive, at most MAX16 bytes.
    """
    start = members[-1].end if members else 0
    entries = b"".join(m.central_entry(c) for m, c in zip(members, crcs, strict=True))
    count, size = len(members), len(entries)
    tail = b""
    if count >= MAX16 or size >= MAX32 or start >= MAX32:
        tail = struct.pack(
            "<IQHHIIQQQQ",
            0x06064B50,
            44,
            VERSION_ZIP64,
            VERSION_ZIP64,
            0,
            0,
            count,
            count,
            size,
            start,
        ) + struct.pack("<IIQI", 0x07064B50, 0, start + size, 1)
    short = min(count, MAX16)
    tail += struct.pack(
        "<IHHHHIIH",
        0x06054B50,
        0,
        0,
        short,
        short,
        min(size, MAX32),
        min(start, MAX32),
        len(comment),
    )
    return entries + tail + comment


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _flags(name: str) -> int:
    return 0 if name.isascii() else FLAG_UTF8
