"""Files that are no weights, or none that wtool reads: their first bytes, and what to do.

Source: the formats' own specifications; `file`'s magic database for those without one.
"""

from __future__ import annotations

from typing import NamedTuple


class Signature(NamedTuple):
    """Bytes at an offset, what a file with them is, and what its owner can do."""

    offset: int
    magic: bytes
    what: str
    hint: str


_UNPACK = "unpack it first: "
_LATER = "this format is not read yet"

SIGNATURES: tuple[Signature, ...] = (
    Signature(0, b"\x1f\x8b", "gzip data", f"{_UNPACK}gunzip, or tar xzf"),
    Signature(0, b"BZh", "bzip2 data", f"{_UNPACK}bunzip2, or tar xjf"),
    Signature(0, b"\xfd7zXZ\x00", "xz data", f"{_UNPACK}unxz, or tar xJf"),
    Signature(0, b"\x28\xb5\x2f\xfd", "Zstandard data", f"{_UNPACK}unzstd"),
    Signature(0, b"\x04\x22\x4d\x18", "LZ4 data", f"{_UNPACK}unlz4"),
    Signature(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", f"{_UNPACK}7z x"),
    Signature(0, b"Rar!\x1a\x07", "a RAR archive", f"{_UNPACK}unrar x"),
    Signature(0, b"\x1f\x9d", "compress data", f"{_UNPACK}uncompress"),
    Signature(0, b"GGUF", "a GGUF model", _LATER),
    Signature(0, b"lmgg", "an old GGML model", _LATER),
    Signature(0, b"tjgg", "an old GGML model (GGJT)", _LATER),
    Signature(0, b"fmgg", "an old GGML model (GGMF)", _LATER),
    Signature(4, b"TFL3", "a TensorFlow Lite model", _LATER),
    Signature(0, b"PYTORCH1", "a preview of PyTorch's zip format", "PyTorch itself refuses it"),
    Signature(0, b"\x89PNG\r\n\x1a\n", "a PNG image", ""),
    Signature(0, b"\xff\xd8\xff", "a JPEG image", ""),
    Signature(0, b"GIF8", "a GIF image", ""),
    Signature(0, b"%PDF-", "a PDF document", ""),
    Signature(8, b"WEBP", "a WebP image", ""),
    Signature(8, b"WAVE", "a WAV sound", ""),
    Signature(4, b"ftyp", "a video or image in an MP4 container", ""),
    Signature(0, b"PAR1", "a Parquet table", ""),
    Signature(0, b"ARROW1", "an Arrow table", ""),
    Signature(0, b"SQLite format 3\x00", "an SQLite database", ""),
    Signature(0, b"\x7fELF", "a program or library", ""),
    Signature(0, b"MZ", "a Windows program or library", ""),
)  # fmt: skip


def recognise(head: bytes) -> Signature | None:
    """The signature that the first bytes of a file carry; None where none is known."""
    for signature in SIGNATURES:
        start = signature.offset
        if head[start : start + len(signature.magic)] == signature.magic:
            return signature
    return None
