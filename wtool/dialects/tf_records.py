"""What a writer of TensorFlow V2 bundles puts into them: header, entries, strings, state file.

The inverse of `tf_entries`, `tf_extents` and `tf_state`. Checked against TensorFlow 2.21: the same
bytes as SaveV2 writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from wtool.dialects.tf_entries import BUNDLE_VERSION, FACT_FIELD
from wtool.dialects.tf_state import ALL_FIELD, MODEL_FIELD
from wtool.dtypes import DType
from wtool.encodings.checksums import crc32c, mask
from wtool.encodings.protobuf_writer import fixed32, integer, message, varint
from wtool.errors import UnsupportedError


def header_record(num_shards: int, facts: Mapping[str, str]) -> bytes:
    """The value under the empty key: a little-endian bundle of that many data files.

    facts: texts by name, which TensorFlow passes over.
    """
    header = integer(1, num_shards) + message(3, integer(1, BUNDLE_VERSION))
    for name, text in facts.items():
        header += message(FACT_FIELD, message(1, _utf8(name)) + message(2, _utf8(text)))
    return header


def entry_record(
    dtype: DType, shape: Sequence[int], *, shard: int, offset: int, nbytes: int, masked_crc: int
) -> bytes:
    """The value under a tensor's key. masked_crc: of the stored bytes, as `mask` gives it."""
    if dtype.tensorflow_enum is None:
        raise UnsupportedError(f"TensorFlow has no type {dtype.name}")
    sizes = b"".join(message(2, integer(1, size)) for size in shape)
    return (
        integer(1, dtype.tensorflow_enum)
        + message(2, sizes)
        + integer(3, shard)
        + integer(4, offset)
        + integer(5, nbytes)
        + fixed32(6, masked_crc)
    )


def strings_record(values: Iterable[bytes]) -> tuple[bytes, int]:
    """(stored bytes, masked CRC) of a string tensor's elements in C order; see `tf_extents`."""
    elements = list(values)
    lengths = b"".join(varint(len(element)) for element in elements)
    sized = b"".join(
        struct.pack("<I" if len(element) < 1 << 32 else "<Q", len(element)) for element in elements
    )
    crc = crc32c(sized)
    rest = struct.pack("<I", mask(crc)) + b"".join(elements)
    return lengths + rest, mask(crc32c(rest, crc))


def state_text(prefix: str) -> bytes:
    """The `checkpoint` file of a folder whose newest and only checkpoint has that base name."""
    name = _quoted(prefix)
    lines = (f'{label}: "{name}"\n' for label in (MODEL_FIELD, ALL_FIELD))
    return "".join(lines).encode("ascii")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    """Text with the escapes of C, as protobuf's text format has them."""
    simple = {0x22: '\\"', 0x27: "\\'", 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
    return "".join(
        simple.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}")
        for byte in _utf8(text)
    )
