"""Extent, what all values have in common; and the two that hold no stored elements of their own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.errors import MalformedInput, UnsupportedError
from wtool.extents.shapes import boxes, check_shape
from wtool.sources import FileSource, Source, absolute

if TYPE_CHECKING:
    import numpy as np

# A view may claim any number of elements over a few stored bytes (stride 0). Whole loads stop here.
MAX_EXPANSION_BYTES = 1 << 30
MAX_EXPANSION = 1024


class Extent(ABC):
    """Values of one tensor: `shape`, `dtype`, and reads.

    storage: equal for two extents that lie on the same stored bytes (tied weights, views).
    """

    dtype: DType
    shape: tuple[int, ...]
    storage: Hashable

    @abstractmethod
    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """Fill `out`, shape `stops - starts`, carrier dtype, with the values of that box."""

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Elements [start, stop) in C order: (stop - start,) of the carrier dtype.

        `out`, where given, is a contiguous 1-D array of that length and dtype; it is filled and
        returned.
        """
        import numpy

        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"range {start}:{stop} outside 0:{self.count}")
        if out is None:
            out = numpy.empty(stop - start, self.dtype.carrier)
        if stop > start:
            for box_starts, box_stops, first, last in boxes(self.shape, start, stop):
                sizes = [b - a for a, b in zip(box_starts, box_stops, strict=True)]
                self.read_box(
                    box_starts, box_stops, out[first - start : last - start].reshape(sizes)
                )
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """All values in C order as 1-D arrays of at most `max_bytes` (one element at least).

        The arrays share one buffer: each is valid until the next is asked for.
        """
        import numpy

        carrier = self.dtype.carrier
        step = max(1, max_bytes // carrier.itemsize)
        buffer = numpy.empty(min(step, self.count), carrier)
        for start in range(0, self.count, step):
            stop = min(self.count, start + step)
            yield self.read(start, stop, buffer[: stop - start])

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that hold the values, each once; none where nothing is stored."""
        own: Source | None = getattr(self, "source", None)
        return () if own is None else (absolute(own, 0)[0],)

    def raw_span(self) -> tuple[Source, int, int] | None:
        """(source, offset, nbytes) where the stored bytes are exactly the values, else None.

        Exactly: C order, little-endian, `dtype.bits` bits each, nothing to apply.
        """
        return None

    def file_span(self) -> tuple[FileSource, int] | None:
        """(file, offset) of the stored bytes where `raw_span` says so, in a local file; else None.

        For loops that read the file themselves.
        """
        span = self.raw_span()
        if span is None:
            return None
        source, offset = absolute(*span[:2])
        return (source, offset) if isinstance(source, FileSource) else None

    @cached_property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the values take in the file (a view's span; not the whole storage)."""
        return (self.count * self.dtype.bits + 7) // 8


class Decoded(Extent):
    """Values that are computed whole by `decode()`, which returns an array of shape `shape`.

    For encodings without random access. `blocks` decodes once; nothing is kept afterwards.
    """

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        decode: Callable[[], np.ndarray],
        storage: Hashable = None,
    ) -> None:
        self.dtype = dtype
        self.shape = check_shape(shape)
        self._decode = decode
        self.storage = id(self) if storage is None else storage

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        out[...] = self.decode()[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"range {start}:{stop} outside 0:{self.count}")
        values = self.decode().reshape(-1)[start:stop]
        if out is None:
            return values
        out[...] = values
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks."""
        values = self.decode().reshape(-1)
        step = max(1, max_bytes // self.dtype.carrier.itemsize)
        for start in range(0, len(values), step):
            yield values[start : start + step]

    def decode(self) -> np.ndarray:
        """The whole array; MalformedInput where its shape is not the one that was announced."""
        values = self._decode()
        if values.shape != self.shape:
            raise MalformedInput(
                "decoded values have another shape", expected=self.shape, found=values.shape
            )
        return values


class Absent(Extent):
    """A tensor that has a shape and a type but no values in the file (torch's meta device)."""

    def __init__(self, dtype: DType, shape: tuple[int, ...], reason: str) -> None:
        self.dtype = dtype
        self.shape = check_shape(shape)
        self.reason = reason
        self.storage = id(self)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """Always UnsupportedError: there is nothing to read."""
        raise UnsupportedError(f"tensor has no values: {self.reason}")

    @property
    def stored_nbytes(self) -> int:
        """Nothing is stored."""
        return 0
