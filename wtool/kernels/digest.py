"""Digests of tensors: of a canonical header and the values as little-endian bytes in C order.

    digest(tensor) = H(header || values)
    header = "wtool tensor 1\n" + dtype name + "\n" + sizes joined by "," + "\n", in ASCII

A digest depends on type, shape and values alone: not on container, name, order, sharding, byte
order, strides or metadata. Values: README, "What a digest is taken of".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from wtool.dtypes import DType
from wtool.errors import UnsupportedError, UsageError
from wtool.kernels.little_endian import to_bytes

if TYPE_CHECKING:
    import numpy as np

# Names the specification above in manifests; another specification gets another number.
METHOD = "wtool tensor 1"
ALGORITHMS = ("sha256", "blake3")


class Hasher(Protocol):
    """What hashlib's and blake3's objects have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Append `data`."""

    def digest(self) -> bytes:
        """The digest of all that was appended, 32 bytes."""

    def hexdigest(self) -> str:
        """`digest()` in 64 lower-case hexadecimal digits."""


def new_hasher(algorithm: str) -> Hasher:
    """A hasher of ALGORITHMS; UsageError for another name, UnsupportedError without the package."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm != "blake3":
        raise UsageError("unknown digest", expected=", ".join(ALGORITHMS), found=algorithm)
    try:
        import blake3
    except ImportError as error:
        raise UnsupportedError(
            "the digest blake3 needs the package blake3", hint="pip install blake3"
        ) from error
    hasher: Hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    return hasher


def header(dtype: DType, shape: Sequence[int]) -> bytes:
    """The canonical header of a tensor of that type and shape."""
    return f"{METHOD}\n{dtype.name}\n{','.join(map(str, shape))}\n".encode("ascii")


def update_values(hasher: Hasher, values: np.ndarray, dtype: DType) -> None:
    """Append values, (n,) of the carrier type, in their canonical form.

    Below 8 bits `n` must fill whole bytes, save for the last values of a tensor. A string is its
    length in bytes, 8 bytes little-endian, and the bytes.
    """
    if values.dtype == object:
        for text in values:
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
            hasher.update(len(data).to_bytes(8, "little") + data)
    else:
        hasher.update(to_bytes(values, dtype).data)
