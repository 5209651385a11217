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
from typing import TYPE_CHECKING

from wtool.encodings.zip_end import find_directory
from wtool.encodings.zip_entries import STORED, Member, read_members
from wtool.encodings.zip_headers import read_starts
from wtool.encodings.zip_inflate import InflatedSource
from wtool.errors import UnsafeInput, WtoolError, shorten
from wtool.sources import Source, WindowSource, read_bytes

if TYPE_CHECKING:
    from wtool.encodings.zip_columns import Columns

# A record held in memory whole may be this large, or this many times its deflated size.
MAX_RECORD_RATIO = 100
FREE_RECORD_BYTES = 16 << 20
# From here on the columns gain more than it takes to import NumPy, 60 ms.
MANY_MEMBERS = 30_000
# In `starts`: the member's local header was not read yet.
_UNREAD = -1


class ZipDirectory:
    """The members of one zip file, by name and by position. Built by `read_directory`.

    names, entries: of the members, in the directory's order. positions: of each name in them.
    starts: offset of the first stored byte of each member whose local header was checked, else -1.
    columns: the entries once more, where they are read by column.

    UnsafeInput where two names are equal, case ignored.
    """

    def __init__(
        self,
        source: Source,
        names: list[str],
        entries: Sequence[Member],
        columns: Columns | None = None,
    ) -> None:
        self.source = source
        self.names = names
        self.entries = entries
        self._columns = columns
        self.starts = [_UNREAD] * len(names)
        self.positions = self._folded = dict(zip(names, range(len(names)), strict=True))
        # Each name behind a NUL, which no name has.
        self._text = self._lowered = "\0".join(("", *names))
        if self._text.lower() != self._text:
            lowered = list(map(str.lower, names))
            self._folded = dict(zip(lowered, range(len(names)), strict=True))
            self._lowered = "\0".join(("", *lowered))
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

    def are_below(self, start: str) -> bool:
        """Whether all names begin with `start`."""
        return self._text.count("\0" + start) == len(self.names)

    def below(self, start: str) -> Sequence[int]:
        """Positions of the members whose names begin with `start`, case ignored."""
        text, mark = self._lowered, "\0" + start.lower()
        count = text.count(mark)
        if not count:
            return ()
        # As a rule they stand one after another.
        first = text.count("\0", 0, text.find(mark))
        if text.count("\0", 0, text.rfind(mark)) == first + count - 1:
            return range(first, first + count)
        found = map(str.startswith, text[1:].split("\0"), repeat(mark[1:]))
        return list(compress(range(len(self.names)), found))

    def check_headers(self, positions: Iterable[int] | None = None) -> None:
        """Read and check the local headers of the members at `positions`, by default of all.

        MalformedInput where one contradicts the directory or reaches into the next member.
        """
        starts, entries = self.starts, self.entries
        chosen = range(len(starts)) if positions is None else positions
        wanted = [position for position in chosen if starts[position] == _UNREAD]
        found = None
        if self._columns is not None and len(wanted) >= MANY_MEMBERS:
            wanted.sort()
            found = self._columns.read_starts(self.source, wanted)
        if found is None:
            wanted.sort(key=lambda position: entries[position].header_offset)
            found = read_starts(self.source, [entries[position] for position in wanted])
        for position, start in zip(wanted, found, strict=True):
            starts[position] = start

    def stored_sizes(self) -> list[int]:
        """Bytes of each member, by position; -1 of those that are deflated."""
        if self._columns is not None:
            return self._columns.sizes.tolist()
        return [m.nbytes if m.method == STORED else -1 for m in self.entries]

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
        data = read_bytes(source, offset, nbytes)
        if count >= MANY_MEMBERS:
            from wtool.encodings.zip_columns import read_columns

            columns = read_columns(data, count, offset)
            if columns is not None:
                return ZipDirectory(source, columns.names, columns, columns)
        return ZipDirectory(source, *read_members(bytes(data), count, offset))
    except WtoolError as error:
        raise error.locate(path=source.name) from error.__cause__


def _first_double(names: list[str]) -> str:
    seen = set()
    for name in names:
        if name.lower() in seen:
            return shorten(name)
        seen.add(name.lower())
    return ""
