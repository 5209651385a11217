"""Fields of protobuf messages as bytes: the inverse of `protobuf`.

proto3 leaves out numbers that are zero and texts that are empty; so do these functions. A message
is written even when it is empty: leaving it out would say that it is not there.

Source: protobuf.dev "Encoding".
"""

from __future__ import annotations

from wtool.encodings.protobuf import FIXED32, LENGTH, UINT64_MAX, VARINT


def varint(value: int) -> bytes:
    """`value` in groups of 7 bits, lowest first; a negative one as its 64-bit complement."""
    value &= UINT64_MAX
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """Field `number` as a varint; nothing where `value` is 0."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def fixed32(number: int, value: int) -> bytes:
    """Field `number` as four bytes; nothing where `value` is 0."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def message(number: int, content: bytes) -> bytes:
    """Field `number` as a message, empty or not."""
    return varint(number << 3 | LENGTH) + varint(len(content)) + content
