"""Broken safetensors files, one a line: content, error class, a part of the message.

The reference rejects each of them too; test_safetensors.py asks it.
"""

# ruff: noqa: E501 (a table reads best with one case a line)

from __future__ import annotations

import struct

from wtool.errors import InputError, MalformedInput, TruncatedInput, UnsafeInput


def file_of(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with exactly this header text."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


A = '"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


def tensor(dtype: str = '"F32"', shape: str = "[4]", offsets: str = "[0,16]") -> str:
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'


# What the reference rejects too: content, error class, a part of the message.
REJECTED: dict[str, tuple[bytes, type[InputError], str]] = {
    "length 0": (bytes(8), MalformedInput, "JSON is malformed"),
    "length above 100 MB": (file_of("{}", length=100_000_001), UnsafeInput, "found 100000001"),
    "length with high bytes": (file_of("{}", length=0xFF << 56), UnsafeInput, "header too large"),
    "length past the end": (file_of("{}", length=0x3C), TruncatedInput, "expected 60 bytes of header, found 2"),
    "8 bytes only": (struct.pack("<Q", 0x3C), TruncatedInput, "the file ends within its header"),
    "7 bytes": (bytes(7), TruncatedInput, "expected 8 bytes, found 7"),
    "empty": (b"", TruncatedInput, "expected 8 bytes, found 0"),
    "not UTF-8": (file_of(b"\xff"), MalformedInput, "at byte 8: JSON is not UTF-8"),
    "lone brace": (file_of("{"), MalformedInput, "JSON is malformed"),
    "trailing NUL": (file_of("{" + A + "}\0", b"abcd"), MalformedInput, "extra data"),
    "BOM": (file_of(b"\xef\xbb\xbf{}"), MalformedInput, "JSON is malformed"),
    "two values": (file_of("{}{}"), MalformedInput, "extra data"),
    "comment": (file_of("{}//x"), MalformedInput, "extra data"),
    "trailing comma": (file_of("{" + A + ",}", b"abcd"), MalformedInput, "JSON is malformed"),
    "NaN": (file_of(tensor(shape="[NaN]")), MalformedInput, "no such number: found NaN"),
    "single quotes": (file_of("{'a':1}"), MalformedInput, "JSON is malformed"),
    "array on top": (file_of("[]"), MalformedInput, "found a list"),
    "null on top": (file_of("null"), MalformedInput, "found null"),
    "number on top": (file_of("7"), MalformedInput, "found a number"),
    "metadata twice": (file_of('{"__metadata__":{},"__metadata__":{}}'), MalformedInput, "a key twice"),
    "dtype twice": (file_of('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "key twice: found 'dtype'"),
    "metadata number": (file_of('{"__metadata__":{"a":1}}'), MalformedInput, "value is not text: found a number for 'a'"),
    "metadata nested": (file_of('{"__metadata__":{"a":{}}}'), MalformedInput, "found an object"),
    "metadata list": (file_of('{"__metadata__":["a"]}'), MalformedInput, "not an object of texts: found a list"),
    "metadata like a tensor": (file_of('{"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "found a tensor"),
    "no dtype": (file_of('{"a":{"shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "tensor 'a': tensor has no dtype"),
    "no shape": (file_of('{"a":{"dtype":"U8","data_offsets":[0,1]}}', b"a"), MalformedInput, "tensor has no shape"),
    "no offsets": (file_of('{"a":{"dtype":"U8","shape":[1]}}', b"a"), MalformedInput, "tensor has no data_offsets"),
    "nested 128 deep": (file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":' + "[" * 126 + "]" * 126 + "}}", b"a"), MalformedInput, "nests too deeply"),
    "unknown dtype": (file_of(tensor('"F128"'), bytes(16)), MalformedInput, "unknown dtype"),
    "lower-case dtype": (file_of(tensor('"f32"'), bytes(16)), MalformedInput, "found 'f32'"),
    "numeric dtype": (file_of(tensor("7"), bytes(16)), MalformedInput, "unknown dtype"),
    "null dtype": (file_of(tensor("null"), bytes(16)), MalformedInput, "found null"),
    "C128": (file_of(tensor('"C128"', "[1]"), bytes(16)), MalformedInput, "found 'C128'"),
    "shape overflow before zero": (file_of(tensor(shape="[9223372036854775808,4,0]", offsets="[0,0]")), MalformedInput, "too many elements"),
    "shape overflow": (file_of(tensor(shape="[2,9223372036854775808]"), bytes(16)), MalformedInput, "too many elements"),
    "byte overflow": (file_of(tensor('"F64"', "[2,2,1152921504606846976]"), bytes(16)), MalformedInput, "too many elements"),
    "shape [2, 2^64 - 2]": (file_of(tensor(shape="[2,18446744073709551614]"), bytes(16)), MalformedInput, "too many elements"),
    "lone surrogate": (file_of('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "lone surrogate: found \\ud800"),
    "lone surrogate, upper case": (file_of('{"\\uDC00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "lone surrogate"),
    "lone surrogate in metadata": (file_of('{"__metadata__":{"a":"\\udbff"}}'), MalformedInput, "lone surrogate"),
    "raw control character": (file_of('{"a\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"), MalformedInput, "invalid control character"),
    "offset 16.0": (file_of(tensor(offsets="[0,16.0]"), bytes(16)), MalformedInput, "bad number in data_offsets"),
    "offset 1.6e1": (file_of(tensor(offsets="[0,1.6e1]"), bytes(16)), MalformedInput, "found 1.6e1"),
    "negative offset": (file_of(tensor(offsets="[-16,0]"), bytes(16)), MalformedInput, "found -16"),
    "offset as text": (file_of(tensor(offsets='["0",16]'), bytes(16)), MalformedInput, "bad number"),
    "offset -0": (file_of(tensor(offsets="[-0,16]"), bytes(16)), MalformedInput, "found -0"),
    "leading zero": (file_of(tensor(offsets="[00,16]"), bytes(16)), MalformedInput, "JSON is malformed"),
    "offset 2^64": (file_of(tensor(offsets="[0,18446744073709551616]"), bytes(16)), MalformedInput, "found 18446744073709551616"),
    "offset of 5,000 digits": (file_of(tensor(offsets="[0," + "9" * 5000 + "]"), bytes(16)), MalformedInput, "bad number"),
    "shape true": (file_of(tensor('"U8"', "[true]", "[0,1]"), b"a"), MalformedInput, "found True"),
    "shape null": (file_of(tensor(shape="null"), bytes(16)), MalformedInput, "shape is not a list: found null"),
    "3 offsets": (file_of(tensor(offsets="[0,16,16]"), bytes(16)), MalformedInput, "found 3 numbers"),
    "1 offset": (file_of(tensor(offsets="[16]"), bytes(16)), MalformedInput, "found 1 numbers"),
    "end before begin": (file_of(tensor(offsets="[16,0]"), bytes(16)), MalformedInput, "data ends before it begins"),
    "overlap": (file_of("{" + A + ',"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}', bytes(7)), MalformedInput, "tensor 'b': at byte 116: overlapping bytes in the tensor's data: expected data_offsets from 4 on, found 3"),
    "the same bytes twice": (file_of("{" + A + ',"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)), MalformedInput, "overlapping bytes"),
    "hole": (file_of("{" + A + ',"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}', bytes(9)), MalformedInput, "a hole before"),
    "hole in front": (file_of(tensor(offsets="[4,20]"), bytes(20)), MalformedInput, "a hole before"),
    "extra data": (file_of(tensor(), bytes(17)), MalformedInput, "bytes after the last tensor"),
    "missing data": (file_of(tensor(), bytes(14)), TruncatedInput, "tensor 'a': at byte 77: the file ends 14 bytes into the tensor's 16: expected a file of at least 79 bytes, found 77"),
    "wrong size": (file_of(tensor(shape="[5]"), bytes(16)), MalformedInput, "expected 20 bytes for F32 (5,), found 16"),
    "shape [2,2] without data": (file_of(tensor(shape="[2,2]", offsets="[0,4]"), bytes(4)), MalformedInput, "size differs"),
    "odd F4": (file_of(tensor('"F4"', "[3]", "[0,2]"), bytes(2)), MalformedInput, "12 bits for shape (3,)"),
    "F6 of three": (file_of(tensor('"F6_E2M3"', "[3]", "[0,3]"), bytes(3)), MalformedInput, "found 18 bits"),
    "number out of range": (file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e400}}', b"a"), MalformedInput, "JSON number out of range: found 1e400"),
    "object nesting bomb": (file_of('{"a":' * 20_000), MalformedInput, "J"),
    "list nesting bomb": (file_of('{"a":' + "[" * 100_000), MalformedInput, "nests too deeply"),
}  # fmt: skip
