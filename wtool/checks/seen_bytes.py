"""Checksums of the bytes that the one reading of the values passes over.

Each block is summed while it is in the cache. What a range of a file sums to is put together from
these pieces; what no tensor covered (headers, gaps, tensors in another order) is read for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wtool.dialects.tf_extents import BundleExtent
from wtool.encodings.checksums import CRC32, CRC32C, Checksum
from wtool.sources import FileSource, Source, absolute

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor


class Place(NamedTuple):
    """Where a tensor's raw bytes are, and which checksum its file keeps."""

    kind: Checksum
    path: str
    offset: int


class Piece(NamedTuple):
    """Bytes [start, stop) of a file and their checksum."""

    start: int
    stop: int
    value: int


class SeenBytes:
    """Sums blocks as they are read, from any thread, and answers for ranges of files afterwards.

    tensors: those that are read, in the order of their numbers. zips: paths of the zip files among
    the files of the model, whose bytes get a CRC-32; bundles of TensorFlow get a CRC-32C; nothing
    is summed elsewhere.
    """

    def __init__(self, tensors: Sequence[Tensor] = (), zips: Iterable[str] = ()) -> None:
        self._places = [_place(tensor, frozenset(zips)) for tensor in tensors]
        self._pieces: dict[tuple[str, str], list[Piece]] = {}
        self._sorted: set[tuple[str, str]] = set()

    def see(self, index: int, start: int, block: np.ndarray) -> None:
        """Sum one block: elements from `start` on of tensor number `index`."""
        place = self._places[index]
        if place is None or not block.nbytes:
            return
        first = place.offset + start * block.itemsize
        value = place.kind.extend(block.view("u1").data, 0)
        pieces = self._pieces.setdefault((place.kind.name, place.path), [])
        pieces.append(Piece(first, first + block.nbytes, value))

    def crc32(self, source: Source, offset: int, nbytes: int) -> int:
        """CRC-32 of `nbytes` bytes of `source` from `offset` on."""
        return self._sum(CRC32, source, offset, nbytes)

    def crc32c(self, source: Source, offset: int, nbytes: int) -> int:
        """CRC-32C of `nbytes` bytes of `source` from `offset` on."""
        return self._sum(CRC32C, source, offset, nbytes)

    def _sum(self, kind: Checksum, source: Source, offset: int, nbytes: int) -> int:
        root, at = absolute(source, offset)
        stop = at + nbytes
        pieces = self._known(kind, root)
        value = 0
        for number in range(bisect_left(pieces, (at,)), len(pieces)):
            piece = pieces[number]
            if piece.start >= stop:
                break
            if piece.start < at or piece.stop > stop:
                continue  # tensors that overlap, or reach out of the range
            value = kind.of_source(root, at, piece.start - at, value)
            value = kind.combine(value, piece.value, piece.stop - piece.start)
            at = piece.stop
        return kind.of_source(root, at, stop - at, value)

    def _known(self, kind: Checksum, root: Source) -> Sequence[Piece]:
        """The pieces of a file, rising; only files keep their place under their name."""
        key = kind.name, root.name
        if not isinstance(root, FileSource) or key not in self._pieces:
            return ()
        if key not in self._sorted:
            self._pieces[key].sort()
            self._sorted.add(key)
        return self._pieces[key]


def _place(tensor: Tensor, zips: frozenset[str]) -> Place | None:
    """Where the raw bytes of `tensor` are; None where they are not stored as they are read."""
    span = tensor.extent.raw_span()
    if span is None or tensor.dtype.bits != 8 * tensor.dtype.carrier.itemsize:
        return None
    root, offset = absolute(span[0], span[1])
    if not isinstance(root, FileSource):
        return None
    if isinstance(tensor.extent, BundleExtent):
        return Place(CRC32C, root.name, offset)
    return Place(CRC32, root.name, offset) if root.name in zips else None
