"""Raw elements in one storage, at any strides: read straight, or piece by piece and sorted out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from wtool.dtypes import DType
from wtool.errors import MalformedInput, TruncatedInput
from wtool.extents.extent import Extent
from wtool.extents.shapes import c_strides, check_shape, element_span
from wtool.sources import Source

if TYPE_CHECKING:
    import numpy as np

# A strided box is read with one `pread` when its span is at most this many times the bytes it
# needs...
DENSE_FACTOR = 4
# ...or so small that one call beats several; and never a span larger than SCRATCH_BYTES at once.
SMALL_SPAN_BYTES = 64 << 10
SCRATCH_BYTES = 8 << 20


_INTEGERS = frozenset((int,))


def _of_geometry(name: str, text: str) -> Any:
    """A property that the Geometry states."""
    return property(attrgetter(f"geometry.{name}"), doc=text)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Which elements of a storage a tensor holds, and how they are read; see `geometry`.

    first, strides, low, high: in elements; those touched are low to high - 1. count: how many
    elements the tensor has. bits: of a stored element.
    """

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    count: int
    low: int
    high: int
    bits: int
    big_endian: bool = False
    conj: bool = False
    neg: bool = False


def geometry(
    dtype: DType,
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
    first: int = 0,
    bits: int | None = None,
    big_endian: bool = False,
    conj: bool = False,
    neg: bool = False,
) -> Geometry:
    """The checked Geometry of a tensor; the arguments are those of Strided.

    A model of many tensors repeats a few: each is worked out once. Raises MalformedInput for what
    is no shape, or strides of another rank.
    """
    shape = tuple(shape)
    numbers = (first, *shape)
    if strides is not None:
        strides = tuple(strides)
        numbers += strides
    # True equals 1, and is no size: only what holds integers is looked up.
    make = _known_geometry if _INTEGERS.issuperset(map(type, numbers)) else _geometry
    return make(dtype, shape, strides, first, bits, big_endian, conj, neg)


def _geometry(
    dtype: DType,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    first: int,
    bits: int | None,
    big_endian: bool,
    conj: bool,
    neg: bool,
) -> Geometry:
    check_shape(shape)
    count = math.prod(shape)
    low, high = first, first + count
    if strides is None:
        strides = c_strides(shape)
    elif len(strides) != len(shape):
        raise MalformedInput(
            "strides and shape differ in rank", expected=len(shape), found=len(strides)
        )
    else:
        low, high = element_span(shape, strides, first)
    bits = dtype.bits if bits is None else bits
    swapped = big_endian and dtype.itemsize > dtype.components
    return Geometry(dtype, shape, strides, first, count, low, high, bits, swapped, conj, neg)


_known_geometry = lru_cache(maxsize=1024)(_geometry)


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
        held = geometry(dtype, shape, strides, first, bits, big_endian, conj, neg)
        self.place(source, base, storage_nbytes, held, storage)

    @classmethod
    def of_geometry(
        cls,
        geometry: Geometry,
        source: Source,
        base: int,
        storage_nbytes: int,
        storage: Hashable = None,
    ) -> Strided:
        """The extent of a Geometry that was made before, in one storage."""
        extent = cls.__new__(cls)
        extent.place(source, base, storage_nbytes, geometry, storage)
        return extent

    def place(
        self,
        source: Source,
        base: int,
        storage_nbytes: int,
        geometry: Geometry,
        storage: Hashable,
    ) -> None:
        low, high, bits = geometry.low, geometry.high, geometry.bits
        if high > low and (low < 0 or high * bits > storage_nbytes * 8):
            raise MalformedInput(
                "storage too short",
                offset=base,
                expected=f"elements {low} to {high} of {bits} bits",
                found=f"{storage_nbytes} bytes",
            )
        if base < 0 or storage_nbytes < 0 or base + storage_nbytes > source.size:
            raise TruncatedInput(
                "storage ends outside the file",
                offset=base,
                expected=f"{storage_nbytes} bytes",
                found=f"{max(0, source.size - base)}",
            )
        self.source = source
        self.base = base
        self.storage_nbytes = storage_nbytes
        self.geometry = geometry
        self.storage = (source.name, base) if storage is None else storage

    dtype = _of_geometry("dtype", "Element type.")
    shape = _of_geometry("shape", "Extent of each dimension.")
    strides = _of_geometry("strides", "Elements from one to the next, of each dimension.")
    first = _of_geometry("first", "Index of element (0, ..., 0) in the storage.")
    count = _of_geometry("count", "Number of elements.")
    low = _of_geometry("low", "Index of the first element of the storage that is touched.")
    high = _of_geometry("high", "Index behind the last element of the storage that is touched.")
    bits = _of_geometry("bits", "Bits of a stored element.")
    big_endian = _of_geometry("big_endian", "Whether bytes of each component are swapped on read.")
    conj = _of_geometry("conj", "Whether values are conjugated on read.")
    neg = _of_geometry("neg", "Whether values are negated on read.")

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
