"""A TensorFlow V1 checkpoint: one sorted table with a list of tensors, and their values in slices.

The list stands under the empty key; every tensor has at least one slice under a key made of its
name and place. Saved in shards, each file is such a table with the slices that it holds. Opening
reads the lists; a slice is looked up when it is read, and its block's checksum is verified then.

Source: TensorFlow 2.21 `core/util/saved_tensor_slice.proto`, `core/util/tensor_slice_writer.cc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wtool.dialects.tf_entries import element_type, read_shape
from wtool.dialects.tf_slices import MAX_SLICES, Extents, read_slice, slice_box
from wtool.dialects.tf_v1_values import RAW, VALUE_FIELDS, decode_values
from wtool.dtypes import DType
from wtool.encodings.ordered_code import slice_key
from wtool.encodings.protobuf import LENGTH, VARINT, Field, expect, fields
from wtool.encodings.sorted_table import open_table
from wtool.encodings.table_lookup import Lookup
from wtool.errors import MalformedInput, TruncatedInput, UnsupportedError, WtoolError
from wtool.extents import Decoded, Extent, Strided, Tiled
from wtool.sources import Descriptors, FileSource, Source, read_bytes

if TYPE_CHECKING:
    import numpy as np

# What comes before the values of a slice: its name, its extents, lengths.
PREAMBLE_BYTES = 128 << 10
HEAD_END_BYTES = 32
# Varints and strings are decoded whole.
MAX_DECODED_BYTES = 256 << 20


@dataclass
class Listed:
    """A tensor as the list has it, with the slices that were found so far, in any file."""

    name: bytes
    dtype: DType
    shape: tuple[int, ...]
    pieces: list[tuple[tuple[int, ...], Extent]] = field(default_factory=list)


class V1Slice(Extent):
    """The values of one slice: looked up under `key` in its file each time they are read."""

    def __init__(
        self, lookup: Lookup, key: bytes, name: bytes, dtype: DType, shape: tuple[int, ...]
    ) -> None:
        self.lookup = lookup
        self.source = lookup.table.source
        self.key = key
        self.tensor_name = name
        self.dtype = dtype
        self.shape = shape
        self.storage = (lookup.table.source.name, key)
        # A value takes a byte at least, packed floats all of theirs; a string may be empty.
        least = self.count * (dtype.itemsize if dtype.name in RAW else 1)
        if least > lookup.table.source.size:
            raise TruncatedInput(
                "file too small for the tensor",
                expected=f"at least {least} bytes for {dtype.name} {list(shape)}",
                found=lookup.table.source.size,
            )

    def locate(self) -> Extent:
        """The values where they lie: raw bytes in place for floats, else decoded when read."""
        value = self.lookup.value(self.key)
        try:
            return _locate(value, self.tensor_name, self.dtype, self.shape)
        except WtoolError as error:
            raise error.locate(path=value.name) from None

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        self.locate().read_box(starts, stops, out)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read."""
        return self.locate().read(start, stop, out)

    def blocks(self, max_bytes: int) -> Iterator[np.ndarray]:
        """See Extent.blocks; what must be decoded is decoded once."""
        return self.locate().blocks(max_bytes)

    def raw_span(self) -> tuple[Source, int, int] | None:
        """See Extent.raw_span."""
        return self.locate().raw_span()

    @property
    def stored_nbytes(self) -> int:
        """Bytes of the values; for strings those of the whole entry, the only size there is."""
        return super().stored_nbytes if self.dtype.bits else self.lookup.value(self.key).size


def read_v1(paths: Sequence[str]) -> list[tuple[str, Extent]]:
    """(name, extent) of all tensors in the files of one V1 checkpoint, sorted by name.

    Raises an InputError that names file and tensor where a list is broken, slices do not cover
    their tensor, or two files disagree about one.
    """
    listed: dict[bytes, Listed] = {}
    descriptors = Descriptors()
    for path in paths:
        _read_list(FileSource(path, descriptors=descriptors), listed)
    tensors: list[tuple[str, Extent]] = []
    for name, item in sorted(listed.items()):
        shown = name.decode("utf-8", "surrogateescape")
        whole = len(item.pieces) == 1 and item.pieces[0][1].shape == item.shape
        try:
            extent = item.pieces[0][1] if whole else Tiled(item.dtype, item.shape, item.pieces)
        except WtoolError as error:
            raise error.locate(path=paths[0], tensor=shown) from None
        tensors.append((shown, extent))
    return tensors


def _read_list(source: FileSource, listed: dict[bytes, Listed]) -> None:
    table = open_table(source)
    if not table.handles:
        raise MalformedInput("empty table", path=source.name)
    key, value = table.block(table.handles[0])[0]
    if key != b"":
        raise MalformedInput("no list of tensors under the empty key", path=source.name)
    lookup = Lookup(table)
    tensors = 0
    try:
        for outer in fields(value):
            if outer[0] != 1:
                continue
            expect(outer, LENGTH, "list of tensors")
            for item in fields(value, outer[2], outer[3]):
                if item[0] == 1:
                    expect(item, LENGTH, "tensor of the list")
                    _read_tensor(value, item, lookup, listed)
                    tensors += 1
    except WtoolError as error:
        raise error.locate(path=source.name) from None
    if not tensors and value[:1] != b"\x0a":
        raise MalformedInput("no list of tensors under the empty key", path=source.name)


def _read_tensor(value: bytes, item: Field, lookup: Lookup, listed: dict[bytes, Listed]) -> None:
    """Add a SavedSliceMeta to `listed`."""
    name, number = b"", 0
    shape: tuple[int, ...] = ()
    spans: list[tuple[int, int]] = []
    for part in fields(value, item[2], item[3]):
        if part[0] == 3:
            expect(part, VARINT, "type of a tensor")
            number = part[2]
        elif part[0] in (1, 2, 4):
            expect(part, LENGTH, "part of a tensor's meta")
            if part[0] == 1:
                name = value[part[2] : part[3]]
            elif part[0] == 2:
                shape = read_shape(value[part[2] : part[3]])
            else:
                spans.append((part[2], part[3]))
    try:
        dtype = element_type(number)
        if dtype.name not in VALUE_FIELDS:
            raise MalformedInput("type that a V1 checkpoint cannot hold", found=dtype.name)
        known = listed.setdefault(name, Listed(name, dtype, shape))
        if known.dtype is not dtype or known.shape != shape:
            raise MalformedInput(
                "tensor listed twice, differently",
                expected=f"{known.dtype.name} {list(known.shape)}",
                found=f"{dtype.name} {list(shape)}",
            )
        if len(known.pieces) + len(spans) > MAX_SLICES:
            raise MalformedInput("too many slices", expected=f"at most {MAX_SLICES}")
        for start, stop in spans:
            extents = read_slice(value, start, stop, shape)
            known.pieces.append(_piece(lookup, known, extents))
    except WtoolError as error:
        raise error.locate(tensor=name.decode("utf-8", "surrogateescape")) from None


def _piece(lookup: Lookup, tensor: Listed, extents: Extents) -> tuple[tuple[int, ...], Extent]:
    starts, sizes = slice_box(extents, tensor.shape)
    key = slice_key(tensor.name, extents)
    if lookup.table.find_block(key) is None:
        raise MalformedInput(f"slice {list(starts)} of {list(sizes)} is not in the file")
    return starts, V1Slice(lookup, key, tensor.name, tensor.dtype, sizes)


def _locate(value: Source, name: bytes, dtype: DType, shape: tuple[int, ...]) -> Extent:
    """The values of the SavedTensorSlices in `value`: in place where they are packed floats."""
    head = bytes(read_bytes(value, 0, min(value.size, PREAMBLE_BYTES)))
    if len(head) < value.size:
        # A field number of 0 stops the parser where the head does.
        head += bytes(HEAD_END_BYTES)
    start, stop = _tensor_span(head, value.size, name)
    if dtype.name in RAW:
        nbytes = math.prod(shape) * dtype.itemsize
        parts = [part for part in _parts(head, start, stop) if part[0] == VALUE_FIELDS[dtype.name]]
        if len(parts) == 1 and parts[0][1] == LENGTH and parts[0][3] - parts[0][2] == nbytes:
            return Strided(value, parts[0][2], nbytes, dtype, shape)
    if value.size > MAX_DECODED_BYTES:
        raise UnsupportedError(
            "slice too large to decode",
            expected=f"at most {MAX_DECODED_BYTES} bytes",
            found=value.size,
        )

    def decode() -> np.ndarray:
        data = bytes(read_bytes(value, 0, value.size))
        return decode_values(data, start, stop, dtype, shape)

    return Decoded(dtype, shape, decode)


def _tensor_span(head: bytes, size: int, name: bytes) -> tuple[int, int]:
    """Where the TensorProto of a SavedTensorSlices lies: in field 2, name 1 and values 3."""
    for outer in _parts(head, 0, size):
        if outer[0] != 2:
            continue
        expect(outer, LENGTH, "slice")
        for part in _parts(head, outer[2], outer[3]):
            if part[0] == 1 and (part[1] != LENGTH or head[part[2] : part[3]] != name):
                raise MalformedInput("slice of another tensor", expected=repr(name))
            if part[0] == 3:
                expect(part, LENGTH, "values of a slice")
                return part[2], part[3]
    raise MalformedInput("slice without values")


def _parts(head: bytes, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message whose last one may reach beyond `head`."""
    for part in fields(head, start, stop):
        if part[1] == LENGTH and len(head) < part[3] != stop:
            raise MalformedInput("values of a slice are not its last part")
        yield part
