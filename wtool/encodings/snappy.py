"""Snappy's raw block format, decompressed: what LevelDB tables hold in compressed blocks.

Source: google/snappy `format_description.txt`.
"""

from __future__ import annotations

from wtool.encodings.protobuf import read_varint
from wtool.errors import MalformedInput, TruncatedInput, UnsafeInput

# The best a copy element can do: 64 bytes out of 3 stored ones.
MAX_RATIO = 22


def decompress(data: bytes, *, max_bytes: int) -> bytes:
    """The bytes behind the snappy block `data`.

    Raises UnsafeInput where it declares more than `max_bytes`, MalformedInput where it declares
    more than its size can hold, breaks a rule or gives another length than it declares.
    """
    length, position = read_varint(data, 0, min(len(data), 5))
    if length > max_bytes:
        raise UnsafeInput(
            "compressed block too large", expected=f"at most {max_bytes} bytes", found=length
        )
    if length > MAX_RATIO * len(data):
        raise MalformedInput(
            "compressed block declares an impossible size",
            expected=f"at most {MAX_RATIO * len(data)} bytes",
            found=length,
        )
    out = bytearray()
    end = len(data)
    while position < end:
        tag = data[position]
        position += 1
        if tag & 3 == 0:
            position = _literal(data, position, tag >> 2, out)
        else:
            position = _copy(data, position, tag, out)
        if len(out) > length:
            break
    if len(out) != length:
        found = f"more than {length}" if len(out) > length else len(out)
        raise MalformedInput(
            "compressed block has another size than it declares", expected=length, found=found
        )
    return bytes(out)


def _literal(data: bytes, position: int, code: int, out: bytearray) -> int:
    """Append the literal whose length code is `code`; returns the position after it."""
    if code < 60:
        size = code + 1
    else:
        width = code - 59
        if position + width > len(data):
            raise TruncatedInput("compressed block ends within a literal's length")
        size = int.from_bytes(data[position : position + width], "little") + 1
        position += width
    if size > len(data) - position:
        raise TruncatedInput(
            "compressed block ends within a literal",
            expected=f"{size} bytes",
            found=len(data) - position,
        )
    out += data[position : position + size]
    return position + size


def _copy(data: bytes, position: int, tag: int, out: bytearray) -> int:
    """Append the copy of `tag`; returns the position after it. A copy may overlap itself."""
    width = (0, 1, 2, 4)[tag & 3]
    if position + width > len(data):
        raise TruncatedInput("compressed block ends within a copy")
    back = int.from_bytes(data[position : position + width], "little")
    if width == 1:
        size = (tag >> 2 & 7) + 4
        back |= (tag >> 5) << 8
    else:
        size = (tag >> 2) + 1
    if not 0 < back <= len(out):
        raise MalformedInput(
            "compressed block copies from before its start",
            expected=f"an offset from 1 to {len(out)}",
            found=back,
        )
    start = len(out) - back
    if back >= size:
        out += out[start : start + size]
    else:
        repeated = bytes(out[start:])
        out += (repeated * (size // back + 1))[:size]
    return position + width
