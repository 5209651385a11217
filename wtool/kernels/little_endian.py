"""Values as little-endian bytes in C order: what files store and what digests are taken of.

NumPy is imported inside the functions: a digest of stored bytes needs none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wtool.dtypes import DType

if TYPE_CHECKING:
    import numpy as np


def to_bytes(values: np.ndarray, dtype: DType, *, unpacked: bool = False) -> np.ndarray:
    """(n,) of the carrier type -> (bytes,) uint8, as a file stores them.

    A view of `values` where nothing must change.
    """
    import numpy

    if dtype.name == "complex32":
        # Carried as complex64; the halves are exact, the reader made them so.
        pairs = values.view(numpy.float32).astype("<f2")
        return pairs.view(numpy.uint8)
    if dtype.bits < 8:
        # ml_dtypes carries an element in a whole byte, whose other bits are none of its value.
        codes = values.view(numpy.uint8) & numpy.uint8((1 << dtype.bits) - 1)
        return codes if unpacked else pack(codes, dtype.bits)
    raw = numpy.ascontiguousarray(values)
    if sys.byteorder == "big" and dtype.itemsize > dtype.components:
        component = dtype.itemsize // dtype.components
        raw = raw.view(f"u{component}").byteswap()
    return raw.view(numpy.uint8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(n,) uint8 codes of `bits` bits -> (n * bits / 8 rounded up,) uint8, lowest bit first."""
    import numpy

    planes = numpy.unpackbits(codes[:, None], axis=1, bitorder="little", count=bits)
    return numpy.packbits(planes.reshape(-1), bitorder="little")
