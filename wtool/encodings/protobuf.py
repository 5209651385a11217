"""The protobuf wire format: the fields of one message, without its schema.

`fields` gives what a message holds, one field at a time, as numbers and spans; nothing is copied
and nothing nests by itself, so a reader decides how deep it goes. Groups (wire types 3 and 4) were
removed from the language before any of the files that wtool reads existed; they are refused.

Source: protobuf.dev "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wtool.errors import MalformedInput, TruncatedInput

VARINT = 0
FIXED64 = 1
LENGTH = 2
FIXED32 = 5

# 64 bits in groups of 7.
MAX_VARINT_BYTES = 10
MAX_FIELD_NUMBER = (1 << 29) - 1
UINT64_MAX = (1 << 64) - 1

# (field number, wire type, value, 0), or for LENGTH (field number, wire type, start, stop).
Field = tuple[int, int, int, int]


def read_varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """(value, position after it) of the varint at `position`; value in 0 .. 2^64 - 1.

    Raises TruncatedInput where it does not end before `stop`, MalformedInput where it is longer
    than 10 bytes or its value does not fit in 64 bits.
    """
    value = shift = 0
    limit = min(stop, position + MAX_VARINT_BYTES)
    start = position
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > UINT64_MAX:
                raise MalformedInput("varint does not fit in 64 bits", found=f"{value}")
            return value, position
        shift += 7
    if position - start >= MAX_VARINT_BYTES:
        raise MalformedInput("varint too long", expected=f"at most {MAX_VARINT_BYTES} bytes")
    raise TruncatedInput("varint runs past its end", found=f"{max(0, stop - start)} bytes")


def fields(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message `data[start:stop]` in stored order.

    Yields (number, wire type, a, b): for LENGTH the payload is `data[a:b]`; else `a` is the
    unsigned value and `b` is 0. Raises MalformedInput or TruncatedInput where the bytes are not a
    message.
    """
    position = start
    end = len(data) if stop is None else stop
    while position < end:
        tag = data[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = read_varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= MAX_FIELD_NUMBER:
            raise MalformedInput("bad field number in a protobuf message", found=number)
        if wire == LENGTH:
            length, position = read_varint(data, position, end)
            if length > end - position:
                raise TruncatedInput(
                    f"field {number} of a protobuf message runs past its end",
                    expected=f"{length} bytes",
                    found=f"{end - position}",
                )
            yield number, LENGTH, position, position + length
            position += length
        elif wire == VARINT:
            value, position = read_varint(data, position, end)
            yield number, VARINT, value, 0
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            if size > end - position:
                raise TruncatedInput(
                    f"field {number} of a protobuf message runs past its end",
                    expected=f"{size} bytes",
                    found=f"{end - position}",
                )
            yield number, wire, int.from_bytes(data[position : position + size], "little"), 0
            position += size
        else:
            raise MalformedInput(
                "bad wire type in a protobuf message", expected="0, 1, 2 or 5", found=wire
            )


def expect(field: Field, wire: int, what: str) -> None:
    """MalformedInput where `field` has another wire type than `wire`; `what` names it."""
    if field[1] != wire:
        raise MalformedInput(f"{what} has a wrong wire type", expected=wire, found=field[1])


def signed(value: int) -> int:
    """The int64 or int32 behind an unsigned varint: negatives are stored as 2^64 + value."""
    return value - (1 << 64) if value >> 63 else value


def text(data: bytes, start: int, stop: int) -> str:
    """A string field; bytes that are not UTF-8 are kept as lone surrogates."""
    return data[start:stop].decode("utf-8", "surrogateescape")


def varints(data: bytes, field: Field) -> Iterator[int]:
    """The unsigned values of one occurrence of a repeated integer field, packed or not."""
    _, wire, start, stop = field
    if wire == VARINT:
        yield start
        return
    expect(field, LENGTH, "packed integers")
    while start < stop:
        value, start = read_varint(data, start, stop)
        yield value


def double(value: int) -> float:
    """The double behind the unsigned value of a FIXED64 field."""
    return struct.unpack("<d", value.to_bytes(8, "little"))[0]
