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
from operator import attrgetter

from wtool.encodings.zip_end import find_directory
from wtool.encodings.zip_entries import (
    FULL32,
    REFUSED_FLAGS,
    STORED,
    Member,
    read_members,
)
from wtool.encodings.zip_inflate import InflatedSource
from wtool.errors import MalformedInput, UnsafeInput, WtoolError, shorten
from wtool.sources import Source, WindowSource, read_bytes

# Local headers this close together are read with one call.
WINDOW_BYTES = 1 << 20
# A record held in memory whole may be this large, or this many times its deflated size.
MAX_RECORD_RATIO = 100
FREE_RECORD_BYTES = 16 << 20

# signature, (version,) flags, method, (time, date, crc,) csize, size, name, extra
_LOCAL = struct.Struct("<4s2xHH8xIIHH")


class ZipDirectory:
    """The members of one zip file, by name. Built by `read_directory`.

    folded: the same members by their names in lower case. starts: by name, offset of the first
    stored byte of each member whose local header was checked.
    """

    def __init__(
        self, source: Source, members: dict[str, Member], folded: dict[str, Member]
    ) -> None:
        self.source = source
        self.members = members
        self.folded = folded
        self.starts: dict[str, int] = {}

    def names(self) -> list[str]:
        """Member names in the directory's order."""
        return list(self.members)

    def find(self, name: str) -> Member | None:
        """The member of that name: exactly, else with case ignored, as torch looks it up."""
        member = self.members.get(name)
        return self.folded.get(name.lower()) if member is None else member

    def check_headers(self, members: Iterable[Member]) -> None:
        """Read and check the local headers of `members`, neighbours with one read.

        MalformedInput where one contradicts the directory or reaches into the next member.
        """
        source, starts = self.source, self.starts
        wanted = [m for m in members if m.name not in starts]
        wanted.sort(key=attrgetter("header_offset"))
        window_start = window_end = 0
        window = b""
        unpack = _LOCAL.unpack_from
        for index, member in enumerate(wanted):
            name, raw_name, method, _, packed_nbytes, nbytes, header_offset, limit = member
            need = header_offset + 30 + len(raw_name)
            if need > window_end:
                window_start = header_offset
                window_end = _window_end(wanted, index, need)
                window = bytes(read_bytes(source, window_start, window_end - window_start))
            at = header_offset - window_start
            signature, flags, stored_as, packed, unpacked, name_size, extra_size = unpack(
                window, at
            )
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
                raise self._contradiction(member, signature, flags, start)
            starts[name] = start

    def _contradiction(
        self, member: Member, signature: bytes, flags: int, start: int
    ) -> MalformedInput:
        what = f"zip member '{shorten(member.name)}'"
        if signature != b"PK\3\4":
            message = f"{what}: no local header where the directory says"
        elif flags & REFUSED_FLAGS:
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
        start = self.starts.get(member.name)
        if start is None:
            self.check_headers((member,))
            start = self.starts[member.name]
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
        count, offset, nbytes = find_directory(source)
        data = bytes(read_bytes(source, offset, nbytes))
        return ZipDirectory(source, *read_members(data, count, offset))
    except WtoolError as error:
        raise error.locate(path=source.name) from error.__cause__
