"""Local headers of a zip file: where the bytes of each member start.

The central directory decides; a local header only says how long it is itself, and must not
contradict. Source: PKWARE APPNOTE 6.3.10, 4.3.7.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from wtool.encodings.zip_entries import FULL32, REFUSED_FLAGS, Member
from wtool.errors import MalformedInput, shorten
from wtool.sources import Source, read_bytes

# Local headers this close together are read with one call: a gap of a page costs less than another.
WINDOW_BYTES = 1 << 20
MAX_GAP_BYTES = 8192

# signature, (version,) flags, method, (time, date, crc,) csize, size, name, extra
_LOCAL = struct.Struct("<4s2xHH8xIIHH")


def read_starts(source: Source, members: Sequence[Member]) -> list[int]:
    """Offset of the first stored byte of each member; `members` in the order of their headers.

    MalformedInput where a header contradicts the directory or reaches into the next member.
    """
    starts = []
    window_start = window_end = 0
    window = b""
    unpack = _LOCAL.unpack_from
    for index, member in enumerate(members):
        _, raw_name, method, _, packed_nbytes, nbytes, header_offset, limit = member
        need = header_offset + 30 + len(raw_name)
        if need > window_end:
            window_start = header_offset
            window_end = _window_end(members, index)
            window = bytes(read_bytes(source, window_start, window_end - window_start))
        at = header_offset - window_start
        signature, flags, stored_as, packed, unpacked, name_size, extra_size = unpack(window, at)
        at += 30
        start = header_offset + 30 + name_size + extra_size
        if (
            signature != b"PK\3\4"
            or flags & REFUSED_FLAGS
            or stored_as != method
            or window[at : at + name_size] != raw_name
            or (packed != 0 and packed != FULL32 and packed != packed_nbytes)
            or (unpacked != 0 and unpacked != FULL32 and unpacked != nbytes)
            or start + packed_nbytes > limit
        ):
            raise _contradiction(source, member, signature, flags, start)
        starts.append(start)
    return starts


def _window_end(members: Sequence[Member], index: int) -> int:
    """End of the read that starts at header `index`: as far as headers follow closely."""
    first = members[index]
    end = first.header_offset + 30 + len(first.raw_name)
    for following in range(index + 1, len(members)):
        member = members[following]
        stop = member.header_offset + 30 + len(member.raw_name)
        if stop - first.header_offset > WINDOW_BYTES or stop - end > MAX_GAP_BYTES:
            break
        end = stop
    return end


def _contradiction(
    source: Source, member: Member, signature: bytes, flags: int, start: int
) -> MalformedInput:
    what = f"zip member '{shorten(member.name)}'"
    if signature != b"PK\3\4":
        message = f"{what}: no local header where the directory says"
    elif flags & REFUSED_FLAGS:
        message = f"{what}: encrypted or patched according to its local header"
    elif start + member.packed_nbytes > member.limit:
        return MalformedInput(
            f"{what} reaches into the next one",
            path=source.name,
            offset=member.header_offset,
            expected=f"end at byte {member.limit} at most",
            found=start + member.packed_nbytes,
        )
    else:
        message = f"{what}: local header and directory disagree on name, method or size"
    return MalformedInput(message, path=source.name, offset=member.header_offset)
