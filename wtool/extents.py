"""Where a tensor's values lie, and how they are read: in C order, in pieces, in bounded memory.

`Strided` covers raw bytes in any layout (contiguous, transposed, sliced, expanded, byte-swapped,
packed below a byte); `Tiled` pastes pieces together (TensorFlow slices, distributed shards);
`Decoded` holds values that must be computed whole (varints, strings); `Absent` has no data.
A format that stores values in another way (an HDF5 dataset) adds an Extent of its own.

NumPy is imported inside the functions: listing a file reads no values and must not pay for it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.errors import MalformedInput, TruncatedInput, UnsupportedError
from wtool.sources import Source

if TYPE_CHECKING:
    import numpy as np

# A strided box is read with one `pread` when its span is at most this many times the bytes it
# needs...
DENSE_FACTOR = 4
# ...or so small that one call beats several; and never a span larger than SCRATCH_BYTES at once.
SMALL_SPAN_BYTES = 64 << 10
SCRATCH_BYTES = 8 << 20
# A view may claim any number of elements over a few stored bytes (stride 0). Whole loads stop here.
MAX_EXPANSION_BYTES = 1 << 30
MAX_EXPANSION = 1024
MAX_RANK = 64
# Of all pieces of one tensor: 100,000 pieces along 3 axes, or a few along many.
MAX_CORNERS = 1 << 20
INT64_MAX = (1 << 63) - 1


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

    def raw_span(self) -> tuple[Source, int, int] | None:
        """(source, offset, nbytes) where the stored bytes are exactly the values, else None.

        Exactly: C order, little-endian, `dtype.bits` bits each, nothing to apply.
        """
        return None

    @cached_property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the values take in the file (a view's span; not the whole storage)."""
        return (self.count * self.dtype.bits + 7) // 8


class Strided(Extent):
    """Raw elements in one storage, `strides` apart.

    source, base, storage_nbytes: the storage's bytes within `source`.
    first: index of element (0, ..., 0) in the storage, in elements.
    strides: in elements, one per dimension, may be 0 or negative; default C order.
    bits: stored bits per element where they differ from `dtype.bits` (TensorFlow's int4 takes 8).
    big_endian: bytes of each component are swapped on read. conj, neg: applied on read.

    Raises MalformedInput where an element would lie outside the storage, TruncatedInput where the
    storage would lie outside the source. Elements below a byte are packed from the lowest bit up.
    """

    def __init__(
        self,
        source: Source,
        base: int,
        storage_nbytes: int,
        dtype: DType,
        shape: tuple[int, ...],
        *,
        first: int = 0,
        strides: tuple[int, ...] | None = None,
        bits: int | None = None,
        big_endian: bool = False,
        conj: bool = False,
        neg: bool = False,
        storage: Hashable = None,
    ) -> None:
        self.source = source
        self.base = base
        self.storage_nbytes = storage_nbytes
        self.dtype = dtype
        self.shape = check_shape(shape)
        self.count = math.prod(self.shape)
        self.first = first
        self.bits = dtype.bits if bits is None else bits
        self.strides = c_strides(self.shape) if strides is None else tuple(strides)
        self.big_endian = big_endian and dtype.itemsize > dtype.components
        self.conj = conj
        self.neg = neg
        self.storage = (source.name, base) if storage is None else storage
        if len(self.strides) != len(self.shape):
            raise MalformedInput(
                "strides and shape differ in rank",
                expected=len(self.shape),
                found=len(self.strides),
            )
        if strides is None:
            self.low, self.high = first, first + self.count
        else:
            self.low, self.high = element_span(self.shape, self.strides, first)
        if self.high > self.low and (self.low < 0 or self.high * self.bits > storage_nbytes * 8):
            raise MalformedInput(
                "storage too short",
                offset=base,
                expected=f"elements {self.low} to {self.high} of {self.bits} bits",
                found=f"{storage_nbytes} bytes",
            )
        if base < 0 or storage_nbytes < 0 or base + storage_nbytes > source.size:
            raise TruncatedInput(
                "storage ends outside the file",
                offset=base,
                expected=f"{storage_nbytes} bytes",
                found=f"{max(0, source.size - base)}",
            )

    @property
    def offset(self) -> int:
        """Offset in bytes, in `source`, of the byte that holds element (0, ..., 0)."""
        return self.base + self.first * self.bits // 8

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without holes."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1:
                if stride != expected:
                    return False
                expected *= size
        return True

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill their span, each place once, whatever the order of axes."""
        expected = 1
        for stride, size in sorted(
            (abs(t), s) for t, s in zip(self.strides, self.shape, strict=True) if s != 1
        ):
            if stride != expected:
                return False
            expected *= size
        return True

    def raw_span(self) -> tuple[Source, int, int] | None:
        """See Extent.raw_span. Booleans are left out: a stored byte may be neither 0 nor 1."""
        plain = not (self.big_endian or self.conj or self.neg) and self.bits == self.dtype.bits
        if not plain or self.dtype.kind == "bool" or self.first * self.bits % 8:
            return None
        if self.count == 0:
            return self.source, self.base, 0
        if self.count * self.bits % 8 or not self.is_contiguous:
            return None
        return self.source, self.offset, self.count * self.bits // 8

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read; a contiguous extent is read straight into `out`."""
        import numpy

        if self.is_contiguous and 0 <= start <= stop <= self.count:
            if out is None:
                out = numpy.empty(stop - start, self.dtype.carrier)
            if stop > start:
                self._fill_run(self.first + start, out)
            return out
        return super().read(start, stop, out)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box. Splits along the largest stride until a span is worth one read."""
        import numpy

        pending = [(tuple(starts), tuple(stops), out)]
        item = self.dtype.carrier.itemsize
        while pending:
            starts, stops, target = pending.pop()
            sizes = tuple(b - a for a, b in zip(starts, stops, strict=True))
            if 0 in sizes:
                continue
            first = self.first + sum(a * t for a, t in zip(starts, self.strides, strict=True))
            low, high = element_span(sizes, self.strides, first)
            span = (high - low) * item
            wanted = math.prod(sizes) * item
            if span <= SCRATCH_BYTES and span <= max(DENSE_FACTOR * wanted, SMALL_SPAN_BYTES):
                scratch = numpy.empty(high - low, self.dtype.carrier)
                self._fill_run(low, scratch)
                steps = [t * item for t in self.strides]
                # Not as_strided: it goes by a type's text, and `<f1` (float8_e5m2) names none.
                origin = (first - low) * item
                target[...] = numpy.ndarray(sizes, scratch.dtype, scratch, origin, steps)
                continue
            _, axis = max(
                (abs(t), i)
                for i, (t, s) in enumerate(zip(self.strides, sizes, strict=True))
                if s > 1
            )
            middle = starts[axis] + sizes[axis] // 2
            cut = (slice(None),) * axis
            half = sizes[axis] // 2
            lower = (*stops[:axis], middle, *stops[axis + 1 :])
            upper = (*starts[:axis], middle, *starts[axis + 1 :])
            pending.append((starts, lower, target[(*cut, slice(None, half))]))
            pending.append((upper, stops, target[(*cut, slice(half, None))]))

    def _fill_run(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (n,) with the stored elements first .. first + n, everything applied."""
        import numpy

        if self.bits != self.dtype.bits or self.bits < 8:
            _read_packed(self.source, self.base, first, self.bits, self.dtype, out)
        elif self.dtype.name == "complex32":
            halves = numpy.empty(2 * len(out), "<f2")
            self.source.read_into(self.base + first * 4, halves.view(numpy.uint8).data)
            pairs = halves.byteswap() if self.big_endian else halves
            out.view(numpy.float32)[:] = pairs
        else:
            raw = out.view(numpy.uint8)
            self.source.read_into(self.base + first * self.dtype.itemsize, raw.data)
            if self.dtype.kind == "bool":
                numpy.not_equal(raw, 0, out=out)
            elif self.big_endian:
                component = self.dtype.itemsize // self.dtype.components
                raw.view(f"u{component}").byteswap(inplace=True)
        if self.conj:
            numpy.conjugate(out, out=out)
        if self.neg:
            numpy.negative(out, out=out)


class Tiled(Extent):
    """One tensor pasted together from pieces that cover it exactly.

    pieces: (starts, extent) each; an extent's own shape says how far it reaches.

    Raises MalformedInput where the pieces overlap, leave a hole, reach outside, or differ in dtype.
    """

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], pieces: Sequence[tuple[tuple[int, ...], Extent]]
    ) -> None:
        self.dtype = dtype
        self.shape = check_shape(shape)
        self.pieces = tuple(pieces)
        covered = 0
        for starts, piece in self.pieces:
            stops = tuple(a + n for a, n in zip(starts, piece.shape, strict=False))
            inside = len(starts) == len(piece.shape) == len(self.shape) and all(
                0 <= a <= b <= n for a, b, n in zip(starts, stops, self.shape, strict=True)
            )
            if not inside:
                raise MalformedInput(
                    "slice outside its tensor",
                    expected=f"within {self.shape}",
                    found=f"{starts} to {stops}",
                )
            if piece.dtype is not dtype:
                raise MalformedInput(
                    "slice of another type", expected=dtype.name, found=piece.dtype.name
                )
            covered += piece.count
        if covered != self.count:
            raise MalformedInput(
                "slices do not cover the tensor", expected=self.count, found=f"{covered} elements"
            )
        if self._overlaps():
            raise MalformedInput("slices overlap")
        self.storage = tuple(piece.storage for _, piece in self.pieces)

    def _overlaps(self) -> bool:
        """Whether two pieces share an element, where their elements are as many as the tensor's.

        They share none exactly if their corners, counted with signs, cancel but for the tensor's
        own. That takes the same time for any arrangement; comparing pieces can be quadratic.
        """
        spans = [
            (starts, tuple(a + n for a, n in zip(starts, piece.shape, strict=True)))
            for starts, piece in self.pieces
            if piece.count
        ]
        if len(spans) < 2 or not self.shape:
            return len(spans) > 1
        axes = [
            i
            for i, size in enumerate(self.shape)
            if any(starts[i] != 0 or stops[i] != size for starts, stops in spans)
        ]
        if len(spans) << len(axes) > MAX_CORNERS:
            raise UnsupportedError(
                "tensor cut into too many pieces along too many dimensions",
                expected=f"at most {MAX_CORNERS} corners",
                found=len(spans) << len(axes),
            )
        whole = ((0,) * len(self.shape), self.shape)
        return _corners(spans, axes) != _corners([whole], axes)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        for origin, piece in self.pieces:
            low = [max(a, o) for a, o in zip(starts, origin, strict=True)]
            high = [min(b, o + n) for b, o, n in zip(stops, origin, piece.shape, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                window = tuple(
                    slice(a - s, b - s) for a, b, s in zip(low, high, starts, strict=True)
                )
                piece.read_box(
                    [a - o for a, o in zip(low, origin, strict=True)],
                    [b - o for b, o in zip(high, origin, strict=True)],
                    out[window] if window else out,
                )


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


def _corners(
    spans: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], axes: Sequence[int]
) -> dict[tuple[int, ...], int]:
    """Corners of boxes (starts, stops) over `axes`, with signs; those that cancel are left out.

    +1 or -1 by how many stops a corner is made of. Equal for two sets of boxes exactly if they
    cover each element equally often.
    """
    balance: dict[tuple[int, ...], int] = {}
    for starts, stops in spans:
        signed: list[tuple[tuple[int, ...], int]] = [((), 1)]
        for axis in axes:
            signed = [
                ((*corner, place), sign * side)
                for corner, sign in signed
                for place, side in ((starts[axis], 1), (stops[axis], -1))
            ]
        for corner, sign in signed:
            left = balance.pop(corner, 0) + sign
            if left:
                balance[corner] = left
    return balance


def check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` as a tuple; MalformedInput beyond 64 sizes or int64, or for a negative size."""
    if len(shape) > MAX_RANK:
        raise MalformedInput(
            "too many dimensions", expected=f"at most {MAX_RANK}", found=len(shape)
        )
    count = 1  # of the sizes that are not 0: what is left must not wrap round either
    for size in shape:
        if type(size) is not int or size < 0:
            raise MalformedInput("bad dimension", expected="integers from 0 on", found=shape)
        count *= size or 1
    if count > INT64_MAX:
        raise MalformedInput("too many elements", expected="at most 2^63 - 1", found=shape)
    return tuple(shape)


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous array in C order."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def element_span(shape: Sequence[int], strides: Sequence[int], first: int) -> tuple[int, int]:
    """(lowest, highest + 1) element index that a strided view touches; equal for none."""
    low = high = first
    for size, stride in zip(shape, strides, strict=True):
        if size == 0:
            return first, first
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + 1


def boxes(
    shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """Hyper-rectangles that cover elements [start, stop) of `shape` in C order.

    Yields (starts, stops, first, last): the box, and the flat range it holds. At most 2 * rank - 1.
    """
    if not shape:
        if stop > start:
            yield (), (), start, stop
        return
    inner = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    position = start
    while position < stop:
        # The outermost axis along which a whole step starts here and fits before `stop`.
        axis = next(
            i for i in range(len(shape)) if position % inner[i] == 0 and position + inner[i] <= stop
        )
        index = [position // inner[i] % shape[i] for i in range(axis + 1)]
        steps = min((stop - position) // inner[axis], shape[axis] - index[axis])
        starts = (*index, *(0 for _ in shape[axis + 1 :]))
        stops = (*(i + 1 for i in index[:-1]), index[-1] + steps, *shape[axis + 1 :])
        last = position + steps * inner[axis]
        yield starts, stops, position, last
        position = last


def _read_packed(
    source: Source, base: int, first: int, bits: int, dtype: DType, out: np.ndarray
) -> None:
    """Fill `out` with elements of `bits` bits from `first` on, lowest bits of a byte first."""
    import numpy

    low_bit, high_bit = first * bits, (first + len(out)) * bits
    packed = numpy.empty((high_bit + 7) // 8 - low_bit // 8, numpy.uint8)
    source.read_into(base + low_bit // 8, packed.data)
    if bits == 8:
        codes = packed & numpy.uint8((1 << dtype.bits) - 1)
    else:
        every_bit = numpy.unpackbits(packed, bitorder="little")
        wanted = every_bit[low_bit % 8 : low_bit % 8 + len(out) * bits]
        rows = wanted.reshape(len(out), bits)
        codes = numpy.packbits(rows, axis=1, bitorder="little")[:, 0]
    out[...] = from_codes(codes, dtype)


def from_codes(codes: np.ndarray, dtype: DType) -> np.ndarray:
    """Values of a type below 8 bits from its bit codes: (n,) uint8 -> (n,) carrier."""
    if dtype.kind == "int":
        sign = 1 << (dtype.bits - 1)
        return ((codes ^ sign).astype("int8") - sign).astype(dtype.carrier)
    if dtype.kind == "uint":
        return codes.astype(dtype.carrier)
    return codes.view(dtype.carrier)
