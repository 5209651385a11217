"""The digests of a manifest as README specifies them, without wtool: NumPy, hashlib and struct."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np


def header(dtype: str, shape: tuple[int, ...]) -> bytes:
    return f"wtool tensor 1\n{dtype}\n{','.join(str(size) for size in shape)}\n".encode()


def tensor(array: np.ndarray, dtype: str | None = None) -> str:
    """The digest of an array of whole-byte elements."""
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    text = header(dtype or array.dtype.name, array.shape)
    return hashlib.sha256(text + plain.tobytes()).hexdigest()


def strings(texts: list[bytes], shape: tuple[int, ...]) -> str:
    body = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    return hashlib.sha256(header("string", shape) + body).hexdigest()


def over_all(title: bytes, parts: Mapping[str, bytes]) -> str:
    """The structure digest (parts: headers) or the root digest (parts: digests)."""
    body = title + b"\n"
    for name in sorted(parts, key=lambda name: name.encode()):
        for piece in (name.encode(), parts[name]):
            body += struct.pack("<Q", len(piece)) + piece
    return hashlib.sha256(body).hexdigest()
