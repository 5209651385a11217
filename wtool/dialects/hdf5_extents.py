"""Values of HDF5 datasets: raw bytes where they lie in one piece, chunks where they are split.

Chunks are decompressed one at a time; filters that h5py offers by default (deflate, shuffle,
fletcher32) are undone, all others refused by name. Chunks that were never written hold the fill
value.
"""

from __future__ import annotations

import itertools
import math
import threading
import zlib
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from wtool.dtypes import DTYPES, DType
from wtool.encodings.hdf5_file import Dataset
from wtool.encodings.hdf5_image import Image
from wtool.encodings.hdf5_messages import Filter, Layout
from wtool.errors import MalformedInput, UnsafeInput, UnsupportedError
from wtool.extents import Absent, Extent, Strided, check_shape
from wtool.sources import Source, read_bytes

if TYPE_CHECKING:
    import numpy as np

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
_FILTER_NAMES = {
    4: "szip", 5: "nbit", 6: "scaleoffset", 307: "bzip2", 32000: "lzf", 32001: "blosc",
    32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
# Deflate cannot expand further; a dataset that claims more than this times the file is a bomb.
MAX_RATIO = 1032
FREE_NBYTES = 64 << 20
MAX_CHUNKS = 1_000_000


def make_extent(source: Source, dataset: Dataset, storage: Hashable, dtype_name: str) -> Extent:
    """The values of `dataset`, as elements of `dtype_name`; reads none of them.

    MalformedInput where sizes contradict, UnsafeInput for claims out of all proportion to the file.
    """
    dtype = DTYPES[dtype_name]
    shape = check_shape(dataset.shape if dataset.shape is not None else (0,))
    nbytes = math.prod(shape) * dataset.type.size
    layout = dataset.layout
    big_endian = dataset.type.big_endian
    if layout.kind == "chunked":
        _check_filters(dataset.filters)
        if nbytes > max(FREE_NBYTES, MAX_RATIO * source.size):
            raise UnsafeInput(
                "dataset claims far more than its file can hold",
                expected=f"at most {MAX_RATIO} x {source.size} bytes",
                found=nbytes,
            )
        grid = math.prod(-(-size // step) for size, step in zip(shape, layout.chunk, strict=True))
        if grid > MAX_CHUNKS:
            raise UnsafeInput("too many chunks", expected=f"at most {MAX_CHUNKS}", found=grid)
        return Chunked(source, dataset, dtype, shape, storage)
    if dataset.filters:
        raise MalformedInput("dataset in one piece has filters, which only chunks can have")
    if layout.address is None:
        if nbytes:
            return Absent(dtype, shape, "the dataset was never written")
        return Strided(source, 0, 0, dtype, shape, storage=storage)
    if layout.nbytes < nbytes:
        raise MalformedInput(
            "dataset is shorter than its shape",
            offset=layout.address,
            expected=f"{nbytes} bytes for {dtype_name} {shape}",
            found=layout.nbytes,
        )
    return Strided(
        source, layout.address, nbytes, dtype, shape, big_endian=big_endian, storage=storage
    )


def _check_filters(filters: Sequence[Filter]) -> None:
    for step in filters:
        if step.number not in (DEFLATE, SHUFFLE, FLETCHER32):
            name = _FILTER_NAMES.get(step.number, f"number {step.number}")
            raise UnsupportedError(
                f"dataset compressed with {name} is not read",
                expected="deflate, shuffle or fletcher32",
                hint="save it without compression",
            )


class Chunked(Extent):
    """A dataset cut into chunks of one shape, each filtered by itself.

    The index is read when the first value is; the chunk that was read last is kept. Threads wait
    for each other.
    """

    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        dtype: DType,
        shape: tuple[int, ...],
        storage: Hashable,
    ) -> None:
        self.source = source
        self.layout = dataset.layout
        self.filters = dataset.filters
        self.big_endian = dataset.type.big_endian
        self.fill = dataset.fill
        self.dtype = dtype
        self.shape = shape
        self.storage = storage
        self._lock = threading.Lock()
        self._index: dict[tuple[int, ...], tuple[int, int, int]] | None = None
        self._last: tuple[tuple[int, ...], np.ndarray] | None = None

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        chunk = self.layout.chunk
        corners = [range(a // c * c, b, c) for a, b, c in zip(starts, stops, chunk, strict=True)]
        with self._lock:
            if self._index is None:
                self._index = read_chunk_index(self.source, self.layout, len(self.shape))
            for corner in itertools.product(*corners):
                low = [max(a, o) for a, o in zip(starts, corner, strict=True)]
                high = [min(b, o + n) for b, o, n in zip(stops, corner, chunk, strict=True)]
                target = out[_window(low, high, starts)]
                place = self._index.get(corner)
                if place is None:
                    target[...] = self._values(self.fill)[0] if self.fill else 0
                    continue
                target[...] = self._chunk(corner, place)[_window(low, high, corner)]

    def _chunk(self, corner: tuple[int, ...], place: tuple[int, int, int]) -> np.ndarray:
        """The values of one chunk, (chunk shape) of the carrier dtype."""
        if self._last is not None and self._last[0] == corner:
            return self._last[1]
        address, nbytes, mask = place
        data: bytes | bytearray = read_bytes(self.source, address, nbytes)
        for number, step in reversed(list(enumerate(self.filters))):
            if not mask >> number & 1:
                data = _undo(step, data, self.layout.nbytes, address)
        if len(data) != self.layout.nbytes:
            raise MalformedInput(
                "chunk of another size",
                offset=address,
                expected=self.layout.nbytes,
                found=len(data),
            )
        values = self._values(data).reshape(self.layout.chunk)
        self._last = (corner, values)
        return values

    def _values(self, data: bytes | bytearray) -> np.ndarray:
        """Stored bytes as elements, (n,) of the carrier dtype."""
        import numpy

        raw = numpy.frombuffer(bytearray(data), numpy.uint8)
        if self.dtype.kind == "bool":
            return raw != 0
        if self.big_endian and self.dtype.itemsize > self.dtype.components:
            raw.view(f"u{self.dtype.itemsize // self.dtype.components}").byteswap(inplace=True)
        return raw.view(self.dtype.carrier)


def _window(low: Sequence[int], high: Sequence[int], origin: Sequence[int]) -> tuple[slice, ...]:
    """The box from `low` to `high` as seen from `origin`."""
    return tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))


def _undo(step: Filter, data: bytes | bytearray, nbytes: int, address: int) -> bytes:
    """The bytes before one filter was applied; at most `nbytes` of them and a checksum."""
    if step.number == DEFLATE:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data, nbytes + 4)
        except zlib.error as error:
            raise MalformedInput(f"chunk is no deflate data: {error}", offset=address) from error
        if not stream.eof:
            raise MalformedInput(
                "chunk inflates to another size", offset=address, expected=f"{nbytes} bytes"
            )
        return plain
    if step.number == SHUFFLE:
        size = step.values[0] if step.values else 0
        if not 1 <= size <= len(data):
            raise MalformedInput("bad element size in the shuffle filter", found=size)
        return _unshuffle(bytes(data), size)
    return _verified(bytes(data), address)


def _unshuffle(data: bytes, size: int) -> bytes:
    """Bytes gathered by place within an element, back in elements; what is left over stays."""
    import numpy

    whole = len(data) // size * size
    planes = numpy.frombuffer(data, numpy.uint8, whole).reshape(size, -1)
    return planes.T.tobytes() + data[whole:]


def _verified(data: bytes, address: int) -> bytes:
    """The bytes before their Fletcher-32 checksum, which must be right."""
    import numpy

    if len(data) < 4:
        raise MalformedInput("chunk without room for its checksum", offset=address)
    body, stored = data[:-4], int.from_bytes(data[-4:], "little")
    # 16-bit big-endian words; an odd last byte is the high half of a word.
    words = numpy.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(numpy.uint64)
    low = int(words.sum()) % 65535
    weights = numpy.arange(len(words), 0, -1, dtype=numpy.uint64)
    # In pieces, so that the products of 16 and 26 bits add up within 64.
    pieces = range(0, len(words), 4096)
    high = sum(int(words[i : i + 4096] @ weights[i : i + 4096]) for i in pieces) % 65535
    # HDF5 keeps 65,535 where the sum is a multiple of it and not zero: compare modulo 65,535.
    if (stored & 0xFFFF) % 65535 != low or (stored >> 16) % 65535 != high:
        raise MalformedInput(
            "checksum of a chunk is wrong",
            offset=address,
            expected=f"0x{stored:08x}",
            found=f"0x{high << 16 | low:08x}",
        )
    return body


def read_chunk_index(
    source: Source, layout: Layout, rank: int
) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Where each written chunk is: corner -> (address, stored bytes, mask of skipped filters)."""
    index: dict[tuple[int, ...], tuple[int, int, int]] = {}
    image = Image(source)
    pending: list[tuple[int | None, int | None]] = [(layout.address, None)]
    seen = set()
    while pending:
        address, level = pending.pop()
        if address is None:
            continue
        if address in seen:
            raise MalformedInput("chunk index runs in a loop", offset=address)
        seen.add(address)
        head = image.fields(address, 8, "HDF5 chunk index", b"TREE")
        kind, found, count = head.numbers(1, 1, 2)
        if kind != 1 or (level is not None and found != level):
            raise MalformedInput("bad HDF5 chunk index", offset=address, found=f"type {kind}")
        width = image.address_size
        key = 8 + 8 * (rank + 1)
        nbytes = 8 + 2 * width + count * (key + width)
        fields = image.fields(address, nbytes, "HDF5 chunk index", b"TREE")
        fields.skip(4 + 2 * width)
        for _ in range(count):
            size, mask = fields.numbers(4, 4)
            corner = tuple(fields.number(8) for _ in range(rank))
            fields.skip(8)
            child = fields.address()
            if found:
                pending.append((child, found - 1))
                continue
            if child is None or size > 2 * layout.nbytes + 1024 or corner in index:
                raise MalformedInput("bad entry in an HDF5 chunk index", offset=address)
            if any(at % step for at, step in zip(corner, layout.chunk, strict=True)):
                raise MalformedInput("chunk off the grid", offset=address, found=corner)
            index[corner] = (child, size, mask)
        if len(index) > MAX_CHUNKS:
            raise UnsafeInput("too many chunks", expected=f"at most {MAX_CHUNKS}")
    return index
