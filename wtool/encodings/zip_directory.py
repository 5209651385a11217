"""A zip file's members: where their bytes are, from the central directory; nothing is extracted.

The central directory decides; a local header only says how long it is itself, and must not
contradict. Names are keys, never paths. Stored and deflated members are read, all else is refused
by name, and so is what two readers could see differently: members that overlap, names that are
equal but for case, two ends of the directory.

Source: PKWARE APPNOTE 6.3.10; torch 2.13's writer and miniz (what torch accepts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import compress, repeat

from wtool.encodings.zip_end import find_directory
from wtool.encodings.zip_entries import STORED, Member, read_members
from wtool.encodings.zip_headers import read_starts
from wtool.encodings.zip_inflate import InflatedSource
from wtool.errors import UnsafeInput, WtoolError, shorten
from wtool.sources import Source, WindowSource, read_bytes

# A record held in memory whole may be this large, or this many times its deflated size.
MAX_RECORD_RATIO = 100
FREE_RECORD_BYTES = 16 << 20
# In `starts`: the member's local header was not read yet.
_UNREAD = -1


class ZipDirectory:
    """The members of one zip file, by name and by position. Built by `read_directory`.

    names, entries: of the members, in the directory's order. lowered: the names in lower case.
    starts: offset of the first stored byte of each member whose local header was checked, else -1.

    UnsafeInput where two names are equal, case ignored.
    """

    def __init__(self, source: Source, names: list[str], entries: Sequence[Member]) -> None:
        self.source = source
        self.names = names
        self.entries = entries
        self.starts = [_UNREAD] * len(names)
        text = "\0".join(names)
        is_low = text == text.lower()
        self.lowered = names if is_low else list(map(str.lower, names))
        self.positions = dict(zip(names, range(len(names)), strict=True))
        self._folded = (
            self.positions if is_low else dict(zip(self.lowered, range(len(names)), strict=True))
        )
        if len(self._folded) != len(names):
            raise UnsafeInput(
                "two zip members with one name, case ignored",
                found=repr(_first_double(names)),
            )

    @cached_property
    def members(self) -> dict[str, Member]:
        """All members by name, in the directory's order."""
        return dict(zip(self.names, self.entries, strict=True))

    def find(self, name: str) -> Member | None:
        """The member of that name: exactly, else with case ignored, as torch looks it up."""
        position = self.positions.get(name)
        if position is None:
            position = self._folded.get(name.lower())
        return None if position is None else self.entries[position]

    def below(self, start: str) -> list[int]:
        """Positions of the members whose names begin with `start`, case ignored."""
        found = map(str.startswith, self.lowered, repeat(start.lower()))
        return list(compress(range(len(self.names)), found))

    def check_headers(self, positions: Iterable[int] | None = None) -> None:
        """Read and check the local headers of the members at `positions`, by default of all.

        MalformedInput where one contradicts the directory or reaches into the next member.
        """
        starts = self.starts
        chosen = range(len(starts)) if positions is None else positions
        wanted = [(self.entries[k].header_offset, k) for k in chosen if starts[k] == _UNREAD]
        wanted.sort()
        members = [self.entries[k] for _, k in wanted]
        for (_, k), start in zip(wanted, read_starts(self.source, members), strict=True):
            starts[k] = start

    def data_start(self, member: Member) -> int:
        """Offset of the member's first stored byte; checks its local header."""
        position = self.positions[member.name]
        if self.starts[position] == _UNREAD:
            self.check_headers((position,))
        return self.starts[position]

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


def _first_double(names: list[str]) -> str:
    seen = set()
    for name in names:
        if name.lower() in seen:
            return shorten(name)
        seen.add(name.lower())
    return ""
