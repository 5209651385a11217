"""A zip file's members: where their bytes are, from the central directory; nothing is extracted.

The central directory decides; a local header only says how long it is itself, and must not
contradict. Names are keys, never paths. Stored and deflated members are read, all else is refused
by name, and so is what two readers could see differently: members that overlap, names that are
equal but for case, two ends of the directory.

Source: PKWARE APPNOTE 6.3.10; torch 2.13's writer and miniz (what torch accepts).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wtool.encodings.zip_inflate import MAX_DEFLATE_RATIO, InflatedSource
from wtool.errors import (
    MalformedInput,
    TruncatedInput,
    UnsafeInput,
    WtoolError,
    shorten,
)
from wtool.sources import Source, WindowSource, read_bytes

# The end record is followed by a comment of at most 65,535 bytes.
TAIL_BYTES = 22 + 65_535
MAX_MEMBERS = 2_000_000
MAX_DIRECTORY_BYTES = 256 << 20
# Local headers this close together are read with one call.
WINDOW_BYTES = 1 << 20
# A record held in memory whole may be this large, or this many times its deflated size.
MAX_RECORD_RATIO = 100
FREE_RECORD_BYTES = 16 << 20

STORED, DEFLATED = 0, 8
_ENCRYPTED, _PATCHED, _STRONG, _MASKED = 0x01, 0x20, 0x40, 0x2000
_REFUSED_FLAGS = _ENCRYPTED | _PATCHED | _STRONG | _MASKED
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstd",
    95: "xz",
}

# signature, version, flags, method, time, date, crc, csize, size, name, extra
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
# signature, made by, needed, flags, method, time, date, crc, csize, size, name, extra, comment,
# disk, internal, external, header offset
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
# signature, disk, directory's disk, members on disk, members, directory size, its offset, comment
_END = struct.Struct("<4sHHHHIIH")
# signature, record size, made by, needed, disk, directory's disk, members on disk, members, size,
# offset
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")


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


class ZipDirectory:
    """The members of one zip file, by name. Built by `read_directory`."""

    def __init__(self, source: Source, members: dict[str, Member]) -> None:
        self.source = source
        self.members = members
        self._folded: dict[str, str] | None = None
        self._starts: dict[str, int] = {}

    def names(self) -> list[str]:
        """Member names in the directory's order."""
        return list(self.members)

    def find(self, name: str) -> Member | None:
        """The member of that name: exactly, else with case ignored, as torch looks it up."""
        member = self.members.get(name)
        if member is None:
            if self._folded is None:
                self._folded = {known.lower(): known for known in self.members}
            known = self._folded.get(name.lower())
            member = None if known is None else self.members[known]
        return member

    def check_headers(self, members: Iterable[Member]) -> None:
        """Read and check the local headers of `members`, neighbours with one read.

        MalformedInput where one contradicts the directory or reaches into the next member.
        """
        wanted = [m for m in members if m.name not in self._starts]
        wanted.sort(key=lambda member: member.header_offset)
        source, starts = self.source, self._starts
        window_start = window_end = 0
        window: bytes | bytearray = b""
        unpack = _LOCAL.unpack_from
        for index, member in enumerate(wanted):
            at = member.header_offset
            need = at + 30 + len(member.raw_name)
            if need > window_end:
                window_start = at
                window_end = _window_end(wanted, index, need)
                window = read_bytes(source, window_start, window_end - window_start)
            at -= window_start
            signature, _, flags, method, _, _, _, packed, nbytes, name_size, extra_size = unpack(
                window, at
            )
            name = window[at + 30 : at + 30 + name_size]
            start = member.header_offset + 30 + name_size + extra_size
            if (
                signature != b"PK\3\4"
                or flags & _REFUSED_FLAGS
                or method != member.method
                or name != member.raw_name
                or (packed != 0 and packed != _FULL32 and packed != member.packed_nbytes)
                or (nbytes != 0 and nbytes != _FULL32 and nbytes != member.nbytes)
                or start + member.packed_nbytes > member.limit
            ):
                raise self._contradiction(member, signature, flags, start)
            starts[member.name] = start

    def _contradiction(
        self, member: Member, signature: bytes, flags: int, start: int
    ) -> MalformedInput:
        what = f"zip member '{shorten(member.name)}'"
        if signature != b"PK\3\4":
            message = f"{what}: no local header where the directory says"
        elif flags & _REFUSED_FLAGS:
            message = f"{what}: encrypted or patched according to its local header"
        elif start + member.packed_nbytes > member.limit:
            return MalformedInput(
                f"{what} reaches into the next one",
                path=self.source.name,
                offset=member.header_offset,
                expected=f"end at byte {member.limit} at most",
                found=start + member.packed_nbytes,
            )
        else:
            message = f"{what}: local header and directory disagree on name, method or size"
        return MalformedInput(message, path=self.source.name, offset=member.header_offset)

    def data_start(self, member: Member) -> int:
        """Offset of the member's first stored byte; checks its local header."""
        start = self._starts.get(member.name)
        if start is None:
            self.check_headers((member,))
            start = self._starts[member.name]
        return start

    def open(self, member: Member) -> Source:
        """The member's bytes: a window of the file, or inflated in passing where it is deflated."""
        window = WindowSource(self.source, self.data_start(member), member.packed_nbytes)
        if member.method == STORED:
            return window
        return InflatedSource(window, member.nbytes, f"zip member '{shorten(member.name)}'")

    def read(self, member: Member, max_bytes: int) -> bytearray:
        """The whole member; UnsafeInput above `max_bytes` or where it inflates out of reason."""
        if member.nbytes > max_bytes or (
            member.nbytes > FREE_RECORD_BYTES
            and member.nbytes > MAX_RECORD_RATIO * member.packed_nbytes
        ):
            raise UnsafeInput(
                f"zip member '{shorten(member.name)}' is too large to be read whole",
                path=self.source.name,
                offset=member.header_offset,
                expected=f"at most {max_bytes} bytes, {MAX_RECORD_RATIO} times its deflated size",
                found=f"{member.nbytes} bytes from {member.packed_nbytes}",
            )
        return read_bytes(self.open(member), 0, member.nbytes)


def _window_end(wanted: Sequence[Member], index: int, need: int) -> int:
    """End of the read that starts at header `index`: as far as headers follow closely."""
    start = end = wanted[index].header_offset
    end = need
    for member in wanted[index + 1 :]:
        stop = member.header_offset + 30 + len(member.raw_name)
        # A gap of a page costs less than another call.
        if stop - start > WINDOW_BYTES or stop - end > 8192:
            break
        end = stop
    return end


def read_directory(source: Source) -> ZipDirectory:
    """The directory of the zip file `source`, checked; reads no member.

    Raises TruncatedInput where the file has no end record, MalformedInput where the directory
    contradicts itself or the file or says what wtool does not read (encryption, methods beside
    deflate), UnsafeInput for what two readers could see differently.
    """
    try:
        count, offset, nbytes = _find_directory(source)
        data = bytes(read_bytes(source, offset, nbytes))
        return ZipDirectory(source, _read_members(data, count, offset))
    except WtoolError as error:
        raise error.locate(path=source.name) from error.__cause__


def _find_directory(source: Source) -> tuple[int, int, int]:
    """(number of members, offset, size) of the central directory."""
    tail_start = max(0, source.size - TAIL_BYTES)
    tail = bytes(read_bytes(source, tail_start, source.size - tail_start))
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - 18))
    if at < 0:
        raise TruncatedInput(
            "zip file without the end record of its directory: cut short, or not a zip file",
            expected="PK\\5\\6 within the last 65,557 bytes",
            found=f"none in {source.size} bytes",
        )
    end_offset = tail_start + at
    _, disk, first_disk, here, count, nbytes, offset, comment = _END.unpack_from(tail, at)
    if at + 22 + comment > len(tail):
        raise TruncatedInput("zip comment ends outside the file", offset=end_offset)
    _refuse_second_end(tail, at)
    limit = end_offset
    if end_offset >= 20:
        locator = bytes(read_bytes(source, end_offset - 20, 20))
        if locator.startswith(b"PK\6\7"):
            big = _read_end64(source, locator, end_offset - 20)
            for small, large, full in zip(
                (disk, first_disk, here, count, nbytes, offset),
                big,
                (_FULL16,) * 4 + (_FULL32,) * 2,
                strict=False,
            ):
                if small not in (full, large):
                    raise MalformedInput(
                        "the two end records of the zip directory disagree",
                        offset=end_offset,
                        expected=large,
                        found=small,
                    )
            disk, first_disk, here, count, nbytes, offset, limit = big
    if disk or first_disk or here != count:
        raise MalformedInput("zip file is a part of several", offset=end_offset)
    if offset + nbytes > limit:
        raise MalformedInput(
            "zip directory ends outside its place",
            offset=end_offset,
            expected=f"at most {limit}",
            found=offset + nbytes,
        )
    if count > MAX_MEMBERS or nbytes > MAX_DIRECTORY_BYTES:
        raise UnsafeInput(
            "zip directory too large",
            offset=end_offset,
            expected=f"at most {MAX_MEMBERS} members in {MAX_DIRECTORY_BYTES} bytes",
            found=f"{count} in {nbytes}",
        )
    if count * 46 > nbytes:
        raise MalformedInput(
            "zip directory too short for its members",
            offset=end_offset,
            expected=f"{count} members of 46 bytes at least",
            found=f"{nbytes} bytes",
        )
    return count, offset, nbytes


def _refuse_second_end(tail: bytes, chosen: int) -> None:
    """Refuse an end record whose comment holds another: readers differ on which one counts."""
    at = tail.find(b"PK\5\6")
    while 0 <= at < chosen:
        _, disk, first_disk, here, count, _, _, comment = _END.unpack_from(tail, at)
        plausible = disk == first_disk == 0 and here == count
        if plausible and at + 22 + comment >= chosen + 22:
            raise UnsafeInput("zip file with two ends of its directory, one inside a comment")
        at = tail.find(b"PK\5\6", at + 1)


def _read_end64(
    source: Source, locator: bytes, locator_offset: int
) -> tuple[int, int, int, int, int, int, int]:
    """(disk, first disk, members here, members, size, offset, own offset) of the 64-bit record."""
    _, disk, at, disks = _LOCATOR.unpack(locator)
    if disk or disks > 1 or at + 56 > locator_offset:
        raise MalformedInput(
            "64-bit end record of the zip directory is not where its locator says",
            offset=locator_offset,
            found=at,
        )
    record = _END64.unpack(read_bytes(source, at, 56))
    if record[0] != b"PK\6\6":
        raise MalformedInput("no 64-bit end record where its locator says", offset=at)
    return *record[4:10], at


def _read_members(data: bytes, count: int, directory_offset: int) -> dict[str, Member]:
    """The entries of the central directory `data`, by name, in its order."""
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
            signature, _, _, flags, method, _, _, crc, packed, nbytes,
            name_size, extra_size, comment_size, disk, _, _, header,
        ) = unpack(data, position)  # fmt: skip
        start = position
        position += 46 + name_size + extra_size + comment_size
        raw = data[start + 46 : start + 46 + name_size]
        if signature != b"PK\1\2" or position > size:
            raise MalformedInput(
                "zip directory entry is broken", offset=directory_offset + start, found=signature
            )
        if packed == _FULL32 or nbytes == _FULL32 or header == _FULL32:
            extra = data[start + 46 + name_size : start + 46 + name_size + extra_size]
            nbytes, packed, header = _widen(extra, nbytes, packed, header)
        if flags & _REFUSED_FLAGS or disk or (method != STORED and method != DEFLATED):
            raise _unreadable(raw, flags, method, disk, directory_offset + start)
        if (packed != nbytes) if method == STORED else nbytes > packed * MAX_DEFLATE_RATIO + 64:
            raise MalformedInput(
                f"zip member {shorten(repr(raw)[1:])} has sizes that cannot be",
                offset=directory_offset + start,
                expected="equal sizes where stored, and at most 1,032 to 1 where deflated",
                found=f"{nbytes} bytes from {packed}",
            )
        rows.append((header, raw, method, crc, packed, nbytes))
    if position != size:
        raise MalformedInput(
            "zip directory has more bytes than members",
            offset=directory_offset + position,
            expected=f"{count} members",
            found=f"{size - position} bytes left",
        )
    limits = _next_headers(rows, directory_offset)
    members = {}
    for (header, raw, method, crc, packed, nbytes), limit in zip(rows, limits, strict=True):
        name = _decode_name(raw, header)
        members[name] = Member(name, raw, method, crc, packed, nbytes, header, limit)
    if len({name.lower() for name in members}) != count:
        raise UnsafeInput(
            "two zip members with one name, case ignored", found=repr(_first_double(rows))
        )
    return members


def _next_headers(rows: list[tuple], directory_offset: int) -> list[int]:
    """For each member, where the next header or the directory starts; no two may overlap."""
    order = sorted(range(len(rows)), key=lambda index: rows[index][0])
    limits = [directory_offset] * len(rows)
    limit = directory_offset
    for index in reversed(order):
        header, raw, _, _, packed, _ = rows[index]
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
            if value == _FULL32:
                if used + 8 > len(body):
                    raise MalformedInput("zip64 field too short", found=f"{len(body)} bytes")
                (values[index],) = struct.unpack_from("<Q", body, used)
                used += 8
        if max(values) >= 1 << 63:
            raise MalformedInput("zip64 size out of range", found=max(values))
        return values[0], values[1], values[2]
    raise MalformedInput("zip member without the zip64 field that its sizes need")


def _decode_name(raw: bytes, header: int) -> str:
    if not raw or b"\0" in raw:
        raise UnsafeInput("zip member with an empty name or a NUL in it", offset=header)
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
    if flags & _REFUSED_FLAGS:
        return MalformedInput(f"{what} is encrypted", offset=offset)
    known = _METHODS.get(method)
    return MalformedInput(
        f"{what} is compressed in a way that is not read",
        offset=offset,
        expected="stored (0) or deflate (8)",
        found=f"{known} ({method})" if known else f"method {method}",
    )


def _first_double(rows: list[tuple]) -> str:
    seen = set()
    for row in rows:
        name = _decode_name(row[1], row[0])
        if name.lower() in seen:
            return shorten(name)
        seen.add(name.lower())
    return ""
