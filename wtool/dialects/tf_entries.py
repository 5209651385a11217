"""The messages of a TensorFlow V2 bundle's index: its header, and one entry per tensor.

Source: TensorFlow 2.21 `core/protobuf/tensor_bundle.proto`, `core/framework/tensor_shape.proto`,
`core/framework/versions.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass

from wtool.dtypes import BY_TENSORFLOW_ENUM, DType
from wtool.encodings.protobuf import (
    FIXED32,
    LENGTH,
    VARINT,
    expect,
    fields,
    signed,
    text,
    varints,
)
from wtool.errors import MalformedInput, UnknownFormat
from wtool.extents import MAX_RANK, check_shape

# The version of the bundle format that TensorFlow writes, and wtool reads.
BUNDLE_VERSION = 1
# Field of the header that holds a fact of wtool's, once for each: 1 its name, 2 its text. protobuf
# passes over the fields that its schema does not know; TensorFlow's has three. A tensor of text
# beside the weights would be no such place: loaders that walk all tensors stumble over it.
FACT_FIELD = 77_001
MAX_SHARDS = 100_000


@dataclass(frozen=True, slots=True)
class Header:
    """What the index says about the whole bundle. facts: texts that wtool wrote into it."""

    num_shards: int
    big_endian: bool
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Entry:
    """One tensor as the index has it. slices: spans of the value that hold TensorSliceProto."""

    dtype: DType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = 0
    slices: tuple[tuple[int, int], ...] = ()


def read_header(value: bytes) -> Header:
    """The header under the empty key; versions that forbid this reader are refused."""
    num_shards = endianness = 0
    facts = []
    for field in fields(value):
        if field[0] == 1:
            expect(field, VARINT, "number of shards")
            num_shards = signed(field[2])
        elif field[0] == 2:
            expect(field, VARINT, "byte order")
            endianness = field[2]
        elif field[0] == 3:
            expect(field, LENGTH, "version")
            _check_version(value, field[2], field[3])
        elif field[0] == FACT_FIELD and field[1] == LENGTH:
            facts.append(_read_fact(value, field[2], field[3]))
    if not 1 <= num_shards <= MAX_SHARDS:
        raise MalformedInput(
            "bad number of data files", expected=f"1 to {MAX_SHARDS}", found=num_shards
        )
    if endianness > 1:
        raise MalformedInput("bad byte order", expected="0 (little) or 1 (big)", found=endianness)
    return Header(num_shards, endianness == 1, tuple(facts))


def _read_fact(value: bytes, start: int, stop: int) -> tuple[str, str]:
    """Name and text of one fact."""
    parts = {1: "", 2: ""}
    for field in fields(value, start, stop):
        if field[0] in parts:
            expect(field, LENGTH, "fact")
            parts[field[0]] = text(value, field[2], field[3])
    return parts[1], parts[2]


def read_entry(value: bytes, shapes: dict[bytes, tuple[int, ...]]) -> Entry:
    """The entry of one tensor. `shapes` keeps the shapes seen: models repeat them."""
    return _read_usual(value, shapes) or _read_any(value, shapes)


def _read_usual(value: bytes, shapes: dict[bytes, tuple[int, ...]]) -> Entry | None:
    """The entry of a whole tensor as writers order its fields; None for any other, good or bad.

    A listing parses one per tensor, so this path takes no generator and no call per field.
    """
    end = len(value)
    if end < 6 or value[0] != 0x08 or value[2] != 0x12 or value[3] >= 0x80:
        return None
    dtype = BY_TENSORFLOW_ENUM.get(value[1])
    position = 4 + value[3]
    shape = shapes.get(value[4:position])
    if dtype is None or shape is None or position > end:
        return None
    shard = offset = size = 0
    last_tag = 0x12
    while position < end:
        tag = value[position]
        if tag <= last_tag:
            return None
        last_tag = tag
        position += 1
        if tag == 0x35:
            if end - position != 4:
                return None
            crc = int.from_bytes(value[position:end], "little")
            return Entry(dtype, shape, shard, offset, size, crc)
        number = shift = 0
        # At most 8 bytes: larger numbers, negative ones among them, are left to the other reader.
        for position in range(position, min(position + 8, end)):  # noqa: B020
            byte = value[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        else:
            return None
        position += 1
        if tag == 0x28:
            size = number
        elif tag == 0x20:
            offset = number
        elif tag == 0x18:
            shard = number
        else:
            return None
    return Entry(dtype, shape, shard, offset, size)


def _read_any(value: bytes, shapes: dict[bytes, tuple[int, ...]]) -> Entry:
    """The entry of one tensor, whatever the order of its fields and whatever else it holds."""
    dtype_number = shard = offset = size = crc = 0
    shape: tuple[int, ...] = ()
    slices: list[tuple[int, int]] | None = None
    for field in fields(value):
        number, wire, a, b = field
        if number == 2:
            expect(field, LENGTH, "shape")
            raw = value[a:b]
            known = shapes.get(raw)
            if known is None:
                known = shapes[raw] = read_shape(raw)
            shape = known
        elif number == 7:
            expect(field, LENGTH, "slice")
            slices = slices or []
            slices.append((a, b))
        elif number == 6:
            expect(field, FIXED32, "checksum")
            crc = a
        elif number in (1, 3, 4, 5):
            if wire != VARINT:
                expect(field, VARINT, "number of an entry")
            if number == 5:
                size = signed(a)
            elif number == 4:
                offset = signed(a)
            elif number == 1:
                dtype_number = a
            else:
                shard = signed(a)
    return Entry(
        element_type(dtype_number), shape, shard, offset, size, crc, tuple(slices) if slices else ()
    )


def element_type(number: int) -> DType:
    """The element type with that number in TensorFlow's DataType."""
    dtype = BY_TENSORFLOW_ENUM.get(number)
    if dtype is None:
        raise MalformedInput(
            "unknown element type", expected="a DataType of TensorFlow", found=number
        )
    return dtype


def read_shape(data: bytes) -> tuple[int, ...]:
    """A TensorShapeProto; at most 64 dimensions, none negative, all known."""
    sizes: list[int] = []
    for field in fields(data):
        if field[0] == 2:
            expect(field, LENGTH, "dimension")
            if len(sizes) == MAX_RANK:
                raise MalformedInput("too many dimensions", expected=f"at most {MAX_RANK}")
            size = 0
            for inner in fields(data, field[2], field[3]):
                if inner[0] == 1:
                    expect(inner, VARINT, "size of a dimension")
                    size = signed(inner[2])
            sizes.append(size)
        elif field[0] == 3 and field[2]:
            raise MalformedInput("shape of unknown rank")
    return check_shape(tuple(sizes))


def _check_version(value: bytes, start: int, stop: int) -> None:
    min_consumer = 0
    for field in fields(value, start, stop):
        if field[0] == 2:
            expect(field, VARINT, "oldest reader")
            min_consumer = signed(field[2])
        elif field[0] == 3 and BUNDLE_VERSION in varints(value, field):
            raise UnknownFormat(
                f"checkpoint forbids readers of version {BUNDLE_VERSION} (bad_consumers)"
            )
    if min_consumer > BUNDLE_VERSION:
        raise UnknownFormat(
            "checkpoint needs a newer reader (min_consumer)",
            expected=f"at most {BUNDLE_VERSION}",
            found=min_consumer,
        )
