"""A TensorFlow V2 bundle: PREFIX.index and PREFIX.data-?????-of-????? as stored tensors.

The index is read whole, the data files are opened and measured but not read. TensorFlow notices a
missing or short data file when it reads a tensor; here it is an error of opening, as is each entry
that TensorFlow would stop the process for.

Source: TensorFlow 2.21 `core/util/tensor_bundle/tensor_bundle.h`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wtool.dialects.tf_entries import Entry, Header, read_entry, read_header
from wtool.dialects.tf_extents import BundleExtent, BundleOpaque, BundleStrings
from wtool.dialects.tf_slices import MAX_SLICES, read_slice, slice_box
from wtool.encodings.ordered_code import slice_key, slice_key_name
from wtool.encodings.sorted_table import open_table
from wtool.errors import MalformedInput, MissingInput, WtoolError, counted
from wtool.extents import Extent, Tiled
from wtool.sources import Descriptors, FileSource, Source

HEADER_KEY = b""
DATA_NAME = re.compile(r"\.data-(\d{5})-of-(\d{5})\Z")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. tensors: (key, extent) in key order. files: the index, then the data files.

    slices: keys of partitioned tensors, with their number of slices. notes: what a user should
    know.
    """

    prefix: str
    header: Header
    tensors: tuple[tuple[str, Extent], ...]
    slices: dict[str, int]
    files: tuple[str, ...]
    notes: tuple[str, ...]


class Shards:
    """The data files of a bundle, each opened when an entry first needs it."""

    def __init__(self, prefix: str, header: Header) -> None:
        self.prefix = prefix
        self.count = header.num_shards
        self._sources: dict[int, Source] = {}
        self._descriptors = Descriptors()

    def source(self, shard: int) -> Source:
        """The data file number `shard`; MissingInput, naming it, where it does not exist."""
        source = self._sources.get(shard)
        if source is None:
            if not 0 <= shard < self.count:
                raise MalformedInput(
                    "no such data file", expected=f"0 to {self.count - 1}", found=shard
                )
            path = self.path(shard)
            if not os.path.lexists(path):
                raise MissingInput(f"data file {shard + 1} of {self.count} is missing", path=path)
            source = FileSource(path, descriptors=self._descriptors)
            self._sources[shard] = source
        return source

    def path(self, shard: int) -> str:
        """Name of the data file number `shard`."""
        return data_path(self.prefix, shard, self.count)

    def unopened(self) -> Iterator[int]:
        """Numbers of the data files that no entry needed."""
        return (shard for shard in range(self.count) if shard not in self._sources)


def data_path(prefix: str, shard: int, count: int) -> str:
    """Name of a data file: PREFIX.data-00000-of-00001."""
    return f"{prefix}.data-{shard:05d}-of-{count:05d}"


def read_bundle(prefix: str) -> Bundle:
    """The bundle whose index is `prefix`.index. Raises an InputError that names file and tensor."""
    index = FileSource(prefix + ".index")
    entries = open_table(index).entries()
    key, value = next(entries, (None, b""))
    if key != HEADER_KEY:
        raise MalformedInput(
            "index without a header: the first key is not the empty one", path=index.name
        )
    try:
        header = read_header(value)
    except WtoolError as error:
        raise error.locate(path=index.name) from None
    shards = Shards(prefix, header)
    shapes: dict[bytes, tuple[int, ...]] = {}
    pieces: dict[bytes, bytes] = {}
    tensors: list[tuple[str, Extent]] = []
    slices: dict[str, int] = {}
    for key, value in entries:
        if key[:1] == b"\x00":
            # Slices sort before every tensor, so all of them are known when a tensor asks.
            pieces[key] = value
            continue
        name = key.decode("utf-8", "surrogateescape")
        try:
            entry = read_entry(value, shapes)
            extent: Extent
            if entry.slices:
                slices[name] = len(entry.slices)
                extent = _tiled(key, value, entry, pieces, shards, header, shapes)
            else:
                extent = _extent(entry, shards, header)
        except WtoolError as error:
            raise error.locate(path=index.name, tensor=name) from error.__cause__
        tensors.append((name, extent))
    files = [index.name]
    files += (path for path in map(shards.path, range(header.num_shards)) if os.path.exists(path))
    return Bundle(
        prefix, header, tuple(tensors), slices, tuple(files), tuple(_notes(pieces, shards))
    )


def _extent(entry: Entry, shards: Shards, header: Header) -> Extent:
    dtype, shape = entry.dtype, entry.shape
    source = shards.source(entry.shard)
    if dtype.bits:
        return BundleExtent(
            source,
            entry.offset,
            entry.size,
            dtype,
            shape,
            big_endian=header.big_endian,
            crc32c=entry.crc32c,
        )
    if dtype.kind == "string":
        return BundleStrings(
            source,
            entry.offset,
            entry.size,
            dtype,
            shape,
            big_endian=header.big_endian,
            crc32c=entry.crc32c,
        )
    return BundleOpaque(source, entry.offset, entry.size, dtype, shape, crc32c=entry.crc32c)


def _tiled(
    key: bytes,
    value: bytes,
    entry: Entry,
    pieces: dict[bytes, bytes],
    shards: Shards,
    header: Header,
    shapes: dict[bytes, tuple[int, ...]],
) -> Tiled:
    """A partitioned tensor. Its own entry has no data, and may name a meaningless shard."""
    if len(entry.slices) > MAX_SLICES:
        raise MalformedInput(
            "too many slices", expected=f"at most {MAX_SLICES}", found=len(entry.slices)
        )
    placed: list[tuple[tuple[int, ...], Extent]] = []
    sizes = entry.shape
    for start, stop in entry.slices:
        extents = read_slice(value, start, stop, sizes)
        starts, piece_sizes = slice_box(extents, sizes)
        stored = pieces.pop(slice_key(key, extents), None)
        where = f"slice {list(starts)} of {list(piece_sizes)}"
        if stored is None:
            raise MalformedInput(f"{where} is not in the index, or listed twice")
        piece = read_entry(stored, shapes)
        if piece.dtype is not entry.dtype or piece.shape != piece_sizes or piece.slices:
            raise MalformedInput(
                f"{where} differs from its entry",
                expected=f"{entry.dtype.name} {list(piece_sizes)}",
                found=f"{piece.dtype.name} {list(piece.shape)}",
            )
        placed.append((starts, _extent(piece, shards, header)))
    return Tiled(entry.dtype, sizes, placed)


def _notes(orphans: dict[bytes, bytes], shards: Shards) -> Iterator[str]:
    if orphans:
        first = slice_key_name(next(iter(orphans))).decode("utf-8", "backslashreplace")
        slices = counted(len(orphans), "slice belongs", "slices belong")
        yield f"{slices} to no tensor, the first to '{first}'; left out"
    missing = [shard for shard in shards.unopened() if not os.path.exists(shards.path(shard))]
    if missing:
        yield (
            f"{len(missing)} data files that no tensor needs are missing, the first "
            f"{os.path.basename(shards.path(missing[0]))}"
        )
