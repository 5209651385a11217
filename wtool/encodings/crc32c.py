"""CRC-32C (Castagnoli), and LevelDB's mask over it, as TensorFlow's files store it.

Source: LevelDB `util/crc32c.h`; TensorFlow `tsl/lib/hash/crc32c.h`.
"""

from __future__ import annotations

from wtool.sources import Source

# A CRC stored beside the data it covers is masked, because a CRC of data that holds CRCs is weak.
MASK_DELTA = 0xA282EAD8
BLOCK_BYTES = 1 << 20


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC-32C of `data`, continuing from `crc`, the CRC of what comes before."""
    import google_crc32c

    # The C extension takes bytes only.
    return google_crc32c.extend(crc, data if isinstance(data, bytes) else bytes(data))


def mask(crc: int) -> int:
    """The stored form of a CRC: rotated right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """The CRC behind a stored form: the inverse of `mask`."""
    rotated = (masked - MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def source_crc32c(source: Source, offset: int, nbytes: int, crc: int = 0) -> int:
    """CRC-32C of `nbytes` bytes of `source` from `offset` on, read in blocks of 1 MiB."""
    buffer = bytearray(min(nbytes, BLOCK_BYTES))
    view = memoryview(buffer)
    for start in range(0, nbytes, BLOCK_BYTES):
        piece = view[: min(BLOCK_BYTES, nbytes - start)]
        source.read_into(offset + start, piece)
        crc = crc32c(piece, crc)
    return crc
