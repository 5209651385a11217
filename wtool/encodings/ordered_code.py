"""OrderedCode: byte strings that sort as the values do; TensorFlow's keys of tensor slices.

Key of a slice = NumIncreasing(0), String(name), NumIncreasing(rank), then per dimension
SignedNum(start), SignedNum(length); a whole dimension is (0, -1).

Source: TensorFlow `core/lib/strings/ordered_code.cc`, `core/util/saved_tensor_slice_util.cc`.
"""

from __future__ import annotations

from collections.abc import Sequence

from wtool.errors import MalformedInput, TruncatedInput

SEPARATOR = b"\x00\x01"
FULL_LENGTH = -1


def encode_number(value: int) -> bytes:
    """NumIncreasing: one byte that says how many follow, then big-endian without leading zeros."""
    body = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes((len(body),)) + body


def encode_string(value: bytes) -> bytes:
    """String: 00 becomes 00 ff, ff becomes ff 00, and 00 01 ends it."""
    if b"\x00" in value or b"\xff" in value:
        value = _escape(value)
    return value + SEPARATOR


def encode_signed(value: int) -> bytes:
    """SignedNum: n bytes cover [-2^(7n-1), 2^(7n-1)), n leading bits like the sign."""
    magnitude = value if value >= 0 else ~value
    size = magnitude.bit_length() // 7 + 1
    # n - 1 marker bits after the sign bit, then a zero where they fit into the value's own bits.
    total = 8 * size
    if value >= 0:
        marks = ((1 << size) - 1) << (total - size)
        return (marks | value).to_bytes(size, "big")
    marks = ((1 << (total - size)) - 1) & value
    return marks.to_bytes(size, "big")


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """Key of the slice of tensor `name` with (start, length) per dimension, exactly as stored.

    length: FULL_LENGTH for a dimension that was stored without one.
    """
    parts = [encode_number(0), encode_string(name), encode_number(len(extents))]
    for start, length in extents:
        parts += (encode_signed(start), encode_signed(length))
    return b"".join(parts)


def slice_key_name(key: bytes) -> bytes:
    """Name of the tensor whose slice `key` names. Raises where `key` is not the key of a slice."""
    if key[:1] != b"\x00":
        raise MalformedInput("not the key of a tensor slice", found=key[:32])
    position = 1
    out = bytearray()
    while True:
        pair = key[position : position + 2]
        if len(pair) < 2:
            raise TruncatedInput("key of a tensor slice ends within its name")
        if pair == SEPARATOR:
            return bytes(out)
        if pair == b"\x00\xff":
            out.append(0)
            position += 2
        elif pair == b"\xff\x00":
            out.append(0xFF)
            position += 2
        elif pair[0] in (0x00, 0xFF):
            raise MalformedInput("bad escape in the key of a tensor slice", found=pair)
        else:
            out.append(pair[0])
            position += 1


def _escape(value: bytes) -> bytes:
    """`value` with 00 and ff escaped, byte by byte: each escape holds the other's byte."""
    return b"".join(
        b"\x00\xff" if byte == 0 else b"\xff\x00" if byte == 0xFF else bytes((byte,))
        for byte in value
    )
