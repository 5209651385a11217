"""Checksums against zlib and google-crc32c, whole and put together from pieces."""

from __future__ import annotations

import random
import zlib

import google_crc32c
import pytest

from wtool.encodings.checksums import CRC32, CRC32C, mask
from wtool.sources import BytesSource

REFERENCES = {"CRC-32": zlib.crc32, "CRC-32C": google_crc32c.value}
DRAW = random.Random(8)


@pytest.mark.parametrize("kind", [CRC32, CRC32C], ids=lambda kind: kind.name)
def test_a_checksum_is_that_of_the_reference_library(kind):
    for size in (0, 1, 7, 64, 4097, 3 << 20):
        data = DRAW.randbytes(size)
        expected = REFERENCES[kind.name](data)
        assert kind.extend(data, 0) == expected
        assert kind.extend(memoryview(bytearray(data)), 0) == expected
        assert kind.of_source(BytesSource(b"xy" + data, "memory"), 2, size) == expected


@pytest.mark.parametrize("kind", [CRC32, CRC32C], ids=lambda kind: kind.name)
def test_pieces_put_together_have_the_checksum_of_all_bytes(kind):
    for _ in range(200):
        first = DRAW.randbytes(DRAW.choice((0, 1, 3, 255, DRAW.randrange(5000))))
        second = DRAW.randbytes(DRAW.choice((0, 1, 3, 256, DRAW.randrange(5000))))
        parts = (kind.extend(first, 0), kind.extend(second, 0))
        expected = REFERENCES[kind.name](first + second)
        assert kind.combine(*parts, len(second)) == expected
        assert kind.extend(second, parts[0]) == expected


def test_the_test_vectors_of_the_standards():
    """RFC 3720 B.4, and the check values of both CRCs."""
    assert CRC32.extend(b"123456789", 0) == 0xCBF43926
    assert CRC32C.extend(b"123456789", 0) == 0xE3069283
    assert CRC32C.extend(bytes(32), 0) == 0x8A9136AA
    assert CRC32C.extend(b"\xff" * 32, 0) == 0x62A8AB43


def test_no_two_checksums_have_one_stored_form():
    """LevelDB's `Unmask` gives back what `mask` was given."""
    for value in (0, 1, 0xFFFFFFFF, *(DRAW.getrandbits(32) for _ in range(100))):
        rotated = (mask(value) - 0xA282EAD8) & 0xFFFFFFFF
        assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == value
