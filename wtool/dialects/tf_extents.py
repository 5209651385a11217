"""Tensors of a TensorFlow V2 bundle as extents: raw elements, strings, opaque values.

Each carries `crc32c`, the checksum that the bundle stores for the tensor's bytes. Reading does not
check it (a file of any size opens at once, parts are read alone); `check` reads all and compares.

String tensors: a varint length per element; the masked CRC of the lengths, which enter it as u32
(u64 from 2^32 on) in the writer's byte order; the strings. The tensor's CRC is that of the lengths,
continued over the four checksum bytes and the strings.

Source: TensorFlow 2.21 `core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Literal

from wtool.dtypes import DType
from wtool.encodings.checksums import CRC32C, crc32c, mask
from wtool.encodings.protobuf import read_varint
from wtool.errors import MalformedInput, TruncatedInput, UnsupportedError, WtoolError
from wtool.extents import Decoded, Extent, Strided, Tiled, geometry
from wtool.sources import Source, read_bytes

if TYPE_CHECKING:
    import numpy as np

CHECKSUM_BYTES = 4
# Strings are decoded whole; a tensor of them beyond this is no vocabulary.
MAX_STRINGS_BYTES = 1 << 30
SumBytes = Callable[[Source, int, int], int]


class BundleExtent(Strided):
    """Raw row-major elements in a data shard, whole bytes each (int4 takes one byte an element).

    Size and place are checked here: each must be exactly what the index says.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        nbytes: int,
        dtype: DType,
        shape: tuple[int, ...],
        *,
        big_endian: bool,
        crc32c: int,
    ) -> None:
        itemsize = dtype.itemsize
        held = geometry(dtype, shape, None, 0, itemsize * 8, big_endian)
        if held.count * itemsize != nbytes:
            raise MalformedInput(
                "size of the tensor is not that of its shape",
                expected=f"{held.count * itemsize} bytes for {dtype.name} {list(shape)}",
                found=nbytes,
            )
        check_place(source, offset, nbytes)
        self.source = source
        self.base = offset
        self.storage_nbytes = nbytes
        self.geometry = held
        self.storage: Hashable = (source.name, offset)
        self.crc32c = crc32c

    def check(self, sum_bytes: SumBytes = CRC32C.of_source) -> None:
        """Compare all bytes with the stored checksum; MalformedInput where they differ."""
        found = mask(sum_bytes(self.source, self.base, self.storage_nbytes))
        _compare(self.source, self.base, self.crc32c, found)


class BundleStrings(Decoded):
    """A string tensor: `bytes` objects in an object array."""

    def __init__(
        self,
        source: Source,
        offset: int,
        nbytes: int,
        dtype: DType,
        shape: tuple[int, ...],
        *,
        big_endian: bool,
        crc32c: int,
    ) -> None:
        super().__init__(dtype, shape, self._strings, (source.name, offset))
        self.source = source
        self.base = offset
        self.storage_nbytes = nbytes
        self.big_endian = big_endian
        self.crc32c = crc32c
        # Each element takes a byte of length at least.
        if self.count + CHECKSUM_BYTES > nbytes:
            raise MalformedInput(
                "string tensor too small for its shape",
                expected=f"at least {self.count + CHECKSUM_BYTES} bytes for {list(shape)}",
                found=nbytes,
            )
        check_place(source, offset, nbytes)

    @property
    def stored_nbytes(self) -> int:
        """Bytes stored: lengths, checksum, strings."""
        return self.storage_nbytes

    def strings(self) -> list[bytes]:
        """All elements in C order; MalformedInput where lengths or a checksum are wrong."""
        if self.storage_nbytes > MAX_STRINGS_BYTES:
            raise UnsupportedError(
                "string tensor too large to decode",
                expected=f"at most {MAX_STRINGS_BYTES} bytes",
                found=self.storage_nbytes,
            )
        data = bytes(read_bytes(self.source, self.base, self.storage_nbytes))
        try:
            return self._split(data)
        except WtoolError as error:
            raise error.locate(path=self.source.name, offset=self.base) from None

    def check(self) -> None:
        """Decode and compare with the stored checksums; MalformedInput where they differ."""
        self.strings()

    def _split(self, data: bytes) -> list[bytes]:
        order: Literal["big", "little"] = "big" if self.big_endian else "little"
        lengths: list[int] = []
        position = total = 0
        for _ in range(self.count):
            length, position = read_varint(data, position, len(data))
            total += length
            lengths.append(length)
        expected = position + CHECKSUM_BYTES + total
        if expected != len(data):
            raise MalformedInput(
                "lengths of the strings do not add up to the tensor's size",
                expected=f"{len(data)} bytes",
                found=expected,
            )
        sized = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, order) for n in lengths)
        crc = crc32c(sized)
        stored = data[position : position + CHECKSUM_BYTES]
        _compare(self.source, self.base + position, int.from_bytes(stored, order), mask(crc))
        _compare(self.source, self.base, self.crc32c, mask(crc32c(data[position:], crc)))
        position += CHECKSUM_BYTES
        out = []
        for length in lengths:
            out.append(data[position : position + length])
            position += length
        return out

    def _strings(self) -> np.ndarray:
        import numpy

        values = numpy.empty(self.count, object)
        values[:] = self.strings()
        return values.reshape(self.shape)


class BundleOpaque(Extent):
    """A value that only TensorFlow can make sense of (a dataset iterator): bytes, never decoded."""

    def __init__(
        self,
        source: Source,
        offset: int,
        nbytes: int,
        dtype: DType,
        shape: tuple[int, ...],
        *,
        crc32c: int,
    ) -> None:
        check_place(source, offset, nbytes)
        self.source = source
        self.base = offset
        self.storage_nbytes = nbytes
        self.dtype = dtype
        self.shape = shape
        self.storage = (source.name, offset)
        self.crc32c = crc32c

    @property
    def stored_nbytes(self) -> int:
        """Bytes stored."""
        return self.storage_nbytes

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """Always UnsupportedError: only TensorFlow knows what the bytes mean."""
        raise UnsupportedError(f"a {self.dtype.name} has no values to read")


def check_stored(extent: Extent, sum_bytes: SumBytes = CRC32C.of_source) -> bool:
    """Compare all bytes of `extent` with the checksums that its bundle stores.

    sum_bytes: (source, offset, nbytes) -> CRC-32C. Returns False where there is nothing to compare
    with (not a bundle's tensor, or a variant, whose checksum covers a rewritten form). Raises
    MalformedInput, saying where, where they differ.
    """
    if isinstance(extent, BundleExtent):
        extent.check(sum_bytes)
        return True
    if isinstance(extent, BundleStrings):
        extent.check()
        return True
    if isinstance(extent, Tiled):
        checked = [check_stored(piece, sum_bytes) for _, piece in extent.pieces]
        return all(checked)
    return False


def check_place(source: Source, offset: int, nbytes: int) -> None:
    """Raise where `nbytes` bytes from `offset` on do not lie inside `source`."""
    if offset < 0 or nbytes < 0:
        raise MalformedInput(
            "negative offset or size", found=f"{nbytes} bytes at byte {offset} of {source.name}"
        )
    if offset + nbytes > source.size:
        raise TruncatedInput(
            "data file ends before the tensor does",
            path=source.name,
            offset=offset,
            expected=f"{nbytes} bytes",
            found=max(0, source.size - offset),
            hint="cut short, or of another checkpoint",
        )


def _compare(source: Source, offset: int, stored: int, found: int) -> None:
    if stored != found:
        raise MalformedInput(
            "tensor damaged: its checksum does not match",
            path=source.name,
            offset=offset,
            expected=f"{stored:#010x}",
            found=f"{found:#010x}",
        )
