"""The end of a zip file: how many members its central directory has, and where it lies.

Two ends that disagree, or a second end inside the comment, are refused: two readers would see two
different files. Source: PKWARE APPNOTE 6.3.10, 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct

from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput
from wtool.sources import Source, read_bytes

# The end record is followed by a comment of at most 65,535 bytes.
TAIL_BYTES = 22 + 65_535
MAX_MEMBERS = 2_000_000
MAX_DIRECTORY_BYTES = 256 << 20
# Numbers that stand in the 64-bit end record.
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF

# signature, disk, directory's disk, members on disk, members, directory size, its offset, comment
_END = struct.Struct("<4sHHHHIIH")
# signature, record size, made by, needed, disk, directory's disk, members on disk, members, size,
# offset
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")


def find_directory(source: Source) -> tuple[int, int, int]:
    """(number of members, offset, size) of the central directory."""
    tail_start = max(0, source.size - TAIL_BYTES)
    tail = bytes(read_bytes(source, tail_start, source.size - tail_start))
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - 18))
    if at < 0:
        raise TruncatedInput(
            "zip file without the end record of its directory: cut short, or not a zip file",
            expected="PK\\5\\6 within the last 65,557 bytes",
            found=f"none in {source.size} bytes",
            hint="if a download was cut, fetch it again",
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


def read_comment(source: Source) -> bytes:
    """The text about the whole archive behind its end record, b"" for none; after
    `find_directory`, which checks it.
    """
    tail_start = max(0, source.size - TAIL_BYTES)
    tail = bytes(read_bytes(source, tail_start, source.size - tail_start))
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - 18))
    nbytes = _END.unpack_from(tail, at)[7] if at >= 0 else 0
    return tail[at + 22 : at + 22 + nbytes] if nbytes else b""


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
