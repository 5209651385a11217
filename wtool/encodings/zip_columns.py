"""A zip file of very many members: its directory and local headers, each field as one column.

For plain members only: stored, with nothing but the offset in a zip64 field, in the file's order.
For all else the answer is None: the loops of zip_entries and zip_headers read it, or say what is
wrong. They decide; what is accepted here they accept, with the same answer, at five times the cost.
Source: PKWARE APPNOTE 6.3.10, 4.3.7 and 4.3.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any

from wtool.encodings.zip_entries import FULL32, REFUSED_FLAGS, STORED, Member
from wtool.encodings.zip_headers import MAX_GAP_BYTES, WINDOW_BYTES
from wtool.sources import Source

if TYPE_CHECKING:
    import numpy as np

# Local headers of one batch are read, compared and forgotten.
BATCH_BYTES = 2 << 20
# Names are copied and compared one size at a time: torch's have as many sizes as its keys digits.
MAX_NAME_SIZES = 64

_CENTRAL = [
    ("signature", "<u4"), ("versions", "<u4"), ("flags", "<u2"), ("method", "<u2"),
    ("time", "<u4"), ("crc", "<u4"), ("packed", "<u4"), ("nbytes", "<u4"), ("name", "<u2"),
    ("extra", "<u2"), ("comment", "<u2"), ("disk", "<u2"), ("attributes", "V6"), ("header", "<u4"),
]  # fmt: skip
_LOCAL = [
    ("signature", "<u4"), ("version", "<u2"), ("flags", "<u2"), ("method", "<u2"), ("time", "<u4"),
    ("crc", "<u4"), ("packed", "<u4"), ("nbytes", "<u4"), ("name", "<u2"), ("extra", "<u2"),
]  # fmt: skip
# A zip64 field that holds the offset of the local header only.
_FAR = [("kind", "<u2"), ("size", "<u2"), ("offset", "<u8")]
_CENTRAL_SIGNATURE, _LOCAL_SIGNATURE = 0x02014B50, 0x04034B50


@dataclass(frozen=True, eq=False)
class Columns(Sequence[Member]):
    """The members of a directory, each made when it is asked for; arrays of int64, (members,).

    text: the names in UTF-8, each behind a NUL. name_offsets, name_sizes: where they are in it.
    See Member for the rest; header_offsets rise.
    """

    names: list[str]
    text: bytearray
    name_offsets: np.ndarray
    name_sizes: np.ndarray
    crcs: np.ndarray
    sizes: np.ndarray
    header_offsets: np.ndarray
    limits: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: Any) -> Any:
        """The member at `position`."""
        name, size = self.names[position], int(self.sizes[position])
        return Member(
            name,
            name.encode(),
            STORED,
            int(self.crcs[position]),
            size,
            size,
            int(self.header_offsets[position]),
            int(self.limits[position]),
        )

    def __iter__(self) -> Iterator[Member]:
        names, sizes = self.names, self.sizes.tolist()
        columns = (column.tolist() for column in (self.crcs, self.header_offsets, self.limits))
        crcs, headers, limits = columns
        raw_names = map(str.encode, names)
        return map(Member, names, raw_names, repeat(STORED), crcs, sizes, sizes, headers, limits)

    def read_starts(self, source: Source, positions: Sequence[int]) -> list[int] | None:
        """Offset of the first stored byte of each member at `positions`, which rise; None where a
        local header is not as the directory says.
        """
        import numpy

        chosen = numpy.array(positions, numpy.int64)
        starts = numpy.empty(len(chosen), numpy.int64)
        for part, window, at in _windows(source, self, chosen):
            groups = _by_size(self.name_sizes[chosen[part]])
            if groups is None:
                return None
            for size, same in groups:
                found = _starts(self, chosen[part][same], size, window, at[same])
                if found is None:
                    return None
                starts[part][same] = found
        return starts.tolist()


def read_columns(data: bytes | bytearray, count: int, directory_offset: int) -> Columns | None:
    """The members of the central directory `data`; None where one of them is not plain."""
    import numpy

    words = numpy.ndarray(len(data) - 3, "<u4", data, strides=(1,))
    at = numpy.flatnonzero(words == _CENTRAL_SIGNATURE)
    if len(at) != count or at[0] or at[-1] + 46 > len(data):
        return None
    rows = _pieces(data, at, _CENTRAL)
    name_sizes = rows["name"].astype(numpy.int64)
    sizes = rows["nbytes"].astype(numpy.int64)
    ends = at + 46 + name_sizes + rows["extra"]
    if (
        not numpy.array_equal(ends, numpy.append(at[1:], len(data)))
        or not name_sizes.all()
        or rows["comment"].any()
        or rows["disk"].any()
        or rows["method"].any()
        or (rows["flags"] & REFUSED_FLAGS).any()
        or (rows["nbytes"] != rows["packed"]).any()
        or (rows["nbytes"] == FULL32).any()
    ):
        return None
    headers = _header_offsets(data, rows, ends, directory_offset)
    names = _names(data, at + 46, name_sizes)
    if headers is None or names is None:
        return None
    limits = numpy.append(headers[1:], directory_offset)
    if (headers + 30 + name_sizes + sizes > limits).any():
        return None
    crcs = rows["crc"].astype(numpy.int64)
    return Columns(*names, name_sizes, crcs, sizes, headers, limits)


def _header_offsets(
    data: bytes | bytearray, rows: np.ndarray, ends: np.ndarray, directory_offset: int
) -> np.ndarray | None:
    """Where the local headers are; beyond 4 GB the zip64 field at the end of an entry says it."""
    import numpy

    headers = rows["header"].astype(numpy.int64)
    far = numpy.flatnonzero(headers == FULL32)
    if numpy.count_nonzero(rows["extra"]) != len(far) or (rows["extra"][far] != 12).any():
        return None
    fields = _pieces(data, ends[far] - 12, _FAR)
    if (
        (fields["kind"] != 1).any()
        or (fields["size"] != 8).any()
        or (fields["offset"] > directory_offset).any()
    ):
        return None
    headers[far] = fields["offset"]
    return headers


def _names(
    data: bytes | bytearray, at: np.ndarray, sizes: np.ndarray
) -> tuple[list[str], bytearray, np.ndarray] | None:
    """(names, text, offsets in it) of names of those `sizes` at `at`: see Columns."""
    import numpy

    groups = _by_size(sizes)
    if groups is None:
        return None
    offsets = numpy.cumsum(sizes + 1) - sizes
    text = bytearray(int(offsets[-1] + sizes[-1]))
    for size, same in groups:
        _every(text, size)[offsets[same]] = _every(data, size)[at[same]]
    if text.count(0) != len(sizes):
        return None
    try:
        return text[1:].decode("utf-8").split("\0"), text, offsets
    except UnicodeDecodeError:
        return None


def _starts(
    columns: Columns, members: np.ndarray, size: int, window: bytearray, at: np.ndarray
) -> np.ndarray | None:
    """`read_starts` of `members` with names of `size` bytes and headers at `at` in `window`."""
    rows = _pieces(window, at, [*_LOCAL, ("text", f"V{size}")])
    names = _pieces(columns.text, columns.name_offsets[members], f"V{size}")
    nbytes = columns.sizes[members]
    starts = columns.header_offsets[members] + 30 + size + rows["extra"]
    if (
        (rows["signature"] != _LOCAL_SIGNATURE).any()
        or (rows["flags"] & REFUSED_FLAGS).any()
        or rows["method"].any()
        or (rows["name"] != size).any()
        or rows["text"].tobytes() != names.tobytes()
        or (starts + nbytes > columns.limits[members]).any()
    ):
        return None
    for said in (rows["packed"], rows["nbytes"]):
        if not ((said == 0) | (said == FULL32) | (said == nbytes)).all():
            return None
    return starts


def _windows(
    source: Source, columns: Columns, chosen: np.ndarray
) -> Iterator[tuple[slice, bytearray, np.ndarray]]:
    """(which of `chosen`, bytes, where in them their headers start), a batch of headers each."""
    import numpy

    headers = columns.header_offsets[chosen]
    stops = headers + 30 + columns.name_sizes[chosen]
    is_apart = numpy.diff(stops) > MAX_GAP_BYTES
    is_apart |= numpy.diff(stops // WINDOW_BYTES) > 0
    # One read takes the headers firsts[i] to firsts[i + 1]; all reads stand one after another.
    firsts = numpy.flatnonzero(numpy.append(True, is_apart)) if len(chosen) else chosen
    starts = headers[firsts]
    lengths = stops[numpy.append(firsts[1:], len(chosen)) - 1] - starts
    places = numpy.cumsum(lengths) - lengths
    counts = numpy.diff(numpy.append(firsts, len(chosen)))
    at = headers + numpy.repeat(places - starts, counts)
    batches = numpy.flatnonzero(numpy.diff(places // BATCH_BYTES, prepend=-1))
    for first, last in pairwise([*batches.tolist(), len(firsts)]):
        base = int(places[first])
        window = bytearray(int(places[last - 1] + lengths[last - 1]) - base)
        view = memoryview(window)
        reads = (column[first:last].tolist() for column in (starts, places - base, lengths))
        for start, place, length in zip(*reads, strict=True):
            source.read_into(start, view[place : place + length])
        part = slice(firsts[first], firsts[last - 1] + counts[last - 1])
        yield part, window, at[part] - base


def _by_size(sizes: np.ndarray) -> list[tuple[int, np.ndarray]] | None:
    """(size, where it stands in `sizes`) of each size; None where there are too many."""
    import numpy

    distinct = numpy.flatnonzero(numpy.bincount(sizes)).tolist()
    if len(distinct) > MAX_NAME_SIZES:
        return None
    return [(size, numpy.flatnonzero(sizes == size)) for size in distinct]


def _pieces(data: bytes | bytearray, starts: np.ndarray, layout: Any) -> np.ndarray:
    """What lies in `data` at `starts`, copied; each start is one that fits."""
    import numpy

    dtype = numpy.dtype(layout)
    return _every(data, dtype.itemsize)[starts].view(dtype)


def _every(data: bytes | bytearray, size: int) -> np.ndarray:
    """A view of `data` as pieces of `size` bytes that start at each byte."""
    import numpy

    return numpy.ndarray(max(0, len(data) - size + 1), f"V{size}", data, strides=(1,))
