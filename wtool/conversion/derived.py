"""Extents over other extents: values permuted, sliced, joined or computed as they are streamed.

Nothing is read until asked for, nothing is kept. A tensor is in memory once while it is streamed;
what comes out of a permutation is copied in slabs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.errors import UnsupportedError
from wtool.extents import (
    MAX_EXPANSION,
    MAX_EXPANSION_BYTES,
    Extent,
    Strided,
    boxes,
    check_shape,
)

if TYPE_CHECKING:
    import numpy as np

# Output that is permuted at once: enough columns of the source to use each line of the cache.
SLAB_BYTES = 8 << 20
SLAB_ROWS = 16
MAX_SLAB_BYTES = 32 << 20
COMPARE_BYTES = 1 << 20


class Derived(Extent):
    """Values that `compute` makes of the whole `inputs`: a view of their arrays where it can be.

    label: what is done, the same for the same work: tied inputs give tied outputs.
    """

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        inputs: Sequence[Extent],
        compute: Callable[..., np.ndarray],
        label: Hashable,
    ) -> None:
        self.dtype = dtype
        self.shape = check_shape(shape)
        self.inputs = tuple(inputs)
        self._compute = compute
        self.storage = (label, tuple(identity(extent) for extent in inputs))

    def view(self) -> np.ndarray:
        """All values, shape `shape`, in whatever order of strides; read only."""
        return self._compute(*(load(extent) for extent in self.inputs)).reshape(self.shape)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        out[...] = self.view()[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read; the values are computed once for the whole range."""
        import numpy

        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"range {start}:{stop} outside 0:{self.count}")
        if out is None:
            out = numpy.empty(stop - start, self.dtype.carrier)
        if stop > start:
            view = self.view()
            for starts, stops, first, last in boxes(self.shape, start, stop):
                piece = view[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
                _copy(piece, out[first - start : last - start])
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks; the values are computed once."""
        step = max(1, max_bytes // self.dtype.carrier.itemsize)
        for slab in _slabs(self.view()):
            for first in range(0, len(slab), step):
                yield slab[first : first + step]


class Sliced(Extent):
    """A box of another extent, from `starts` on."""

    def __init__(self, base: Extent, starts: Sequence[int], shape: tuple[int, ...]) -> None:
        self.base = base
        self.starts = tuple(starts)
        self.dtype = base.dtype
        self.shape = check_shape(shape)
        self.storage = ("slice", self.starts, self.shape, identity(base))

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        self.base.read_box(
            [a + o for a, o in zip(starts, self.starts, strict=True)],
            [b + o for b, o in zip(stops, self.starts, strict=True)],
            out,
        )

    def view(self) -> np.ndarray:
        """All values; a view of the base's array where that is computed whole anyway."""
        import numpy

        if isinstance(self.base, Derived | Sliced | Joined):
            ends = [a + n for a, n in zip(self.starts, self.shape, strict=True)]
            return load(self.base)[
                tuple(slice(a, b) for a, b in zip(self.starts, ends, strict=True))
            ]
        out = numpy.empty(self.shape, self.dtype.carrier)
        self.read_box([0] * len(self.shape), self.shape, out)
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks; a base that is computed whole is computed once."""
        if not isinstance(self.base, Derived | Sliced | Joined):
            yield from super().blocks(max_bytes)
            return
        step = max(1, max_bytes // self.dtype.carrier.itemsize)
        for slab in _slabs(self.view()):
            for first in range(0, len(slab), step):
                yield slab[first : first + step]


class Joined(Extent):
    """Extents one after another along `axis`; their other dimensions are equal."""

    def __init__(self, parts: Sequence[Extent], axis: int) -> None:
        first = parts[0]
        self.parts = tuple(parts)
        self.axis = axis
        self.dtype = first.dtype
        size = sum(part.shape[axis] for part in parts)
        self.shape = check_shape((*first.shape[:axis], size, *first.shape[axis + 1 :]))
        self.storage = ("join", axis, tuple(identity(part) for part in parts))

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        axis, origin = self.axis, 0
        for part in self.parts:
            low = max(starts[axis], origin)
            high = min(stops[axis], origin + part.shape[axis])
            if low < high:
                window = (
                    *(slice(None),) * axis,
                    slice(low - starts[axis], high - starts[axis]),
                )
                part.read_box(
                    [*starts[:axis], low - origin, *starts[axis + 1 :]],
                    [*stops[:axis], high - origin, *stops[axis + 1 :]],
                    out[window],
                )
            origin += part.shape[axis]

    def view(self) -> np.ndarray:
        """All values, contiguous; one part more is in memory at a time."""
        import numpy

        out = numpy.empty(self.shape, self.dtype.carrier)
        origin = 0
        for part in self.parts:
            end = origin + part.shape[self.axis]
            out[(*(slice(None),) * self.axis, slice(origin, end))] = load(part)
            origin = end
        return out

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks; along the first axis the parts are streamed one after another."""
        if self.axis == 0:
            for part in self.parts:
                yield from part.blocks(max_bytes)
            return
        flat = self.view().reshape(-1)
        step = max(1, max_bytes // self.dtype.carrier.itemsize)
        for first in range(0, len(flat), step):
            yield flat[first : first + step]


def load(extent: Extent) -> np.ndarray:
    """The whole extent as an array of its shape, in whatever order of strides.

    UnsupportedError where a view claims far more elements than the file stores.
    """
    if isinstance(extent, Derived | Sliced | Joined):
        return extent.view()
    size = extent.count * extent.dtype.carrier.itemsize
    stored = extent.storage_nbytes if isinstance(extent, Strided) else size
    if size > MAX_EXPANSION_BYTES and size > MAX_EXPANSION * max(stored, 1):
        raise UnsupportedError("tensor repeats a few stored bytes; it is not loaded whole")
    return extent.read(0, extent.count).reshape(extent.shape)


def identity(extent: Extent) -> Hashable:
    """Equal for two extents that give the same values because they are the same bytes."""
    if isinstance(extent, Strided):
        applied = (extent.bits, extent.big_endian, extent.conj, extent.neg, extent.dtype.name)
        return extent.storage, extent.first, extent.shape, extent.strides, applied
    return extent.storage, extent.shape


def is_constant(extent: Extent) -> bool:
    """Whether the values come from no file."""
    return isinstance(extent, Derived) and not extent.inputs


def same_bits(one: Extent, other: Extent) -> bool:
    """Whether two extents have one type and shape and hold the same bits, in C order."""
    import numpy

    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    if identity(one) == identity(other):
        return True
    for mine, theirs in _paired(one.blocks(COMPARE_BYTES), other.blocks(COMPARE_BYTES)):
        if mine.dtype == object:
            if list(mine) != list(theirs):
                return False
        elif not numpy.array_equal(mine.view(numpy.uint8), theirs.view(numpy.uint8)):
            return False
    return True


def _paired(
    one: Iterator[np.ndarray], other: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two streams of as many values cut at the same places."""
    mine = theirs = None
    while True:
        if mine is None or not len(mine):
            mine = next(one, None)
        if theirs is None or not len(theirs):
            theirs = next(other, None)
        if mine is None or theirs is None:
            return
        size = min(len(mine), len(theirs))
        yield mine[:size], theirs[:size]
        mine, theirs = mine[size:], theirs[size:]


def _slabs(view: np.ndarray, total: int | None = None) -> Iterator[np.ndarray]:
    """The values of `view` in C order as 1-D arrays, each valid until the next is asked for."""
    import numpy

    if view.flags.c_contiguous:
        yield view.reshape(-1)
        return
    row_bytes = max(1, view[:1].nbytes)
    if row_bytes > MAX_SLAB_BYTES and view.ndim > 1:
        for index in range(view.shape[0]):
            yield from _slabs(view[index], total or view.size)
        return
    rows = max(SLAB_BYTES // row_bytes, min(SLAB_ROWS, MAX_SLAB_BYTES // row_bytes), 1)
    rows = min(rows, view.shape[0])
    buffer = numpy.empty(rows * (row_bytes // view.itemsize), view.dtype)
    for first in range(0, view.shape[0], rows):
        piece = view[first : first + rows]
        out = buffer[: piece.size]
        _copy(piece, out, total or view.size)
        yield out


def _copy(view: np.ndarray, out: np.ndarray, total: int | None = None) -> None:
    """Copy `view` of any strides to the contiguous (n,) `out` in C order."""
    from wtool.kernels.transpose import copy_permuted

    copy_permuted(view, out.reshape(view.shape), total=total)


def constant(dtype: DType, shape: tuple[int, ...], *values: float) -> Extent:
    """An extent of one value everywhere, or of as many values as it has elements."""
    count = math.prod(shape)

    def compute() -> np.ndarray:
        import numpy

        flat = numpy.asarray(values, numpy.float64).astype(dtype.carrier)
        return flat if len(flat) == count else numpy.broadcast_to(flat, (count,))

    # Two vectors of zeros are no tied weights: each constant is a storage of its own.
    return Derived(dtype, shape, (), compute, object())
