"""Tensors of float4_e2m1fn_x2, where torch's element is a byte of two values.

Shown with the last dimension doubled, the low half of each byte first, in whatever order torch's
strides walk the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wtool.dialects.torch_storages import Storage
from wtool.dtypes import DTYPES
from wtool.extents import Extent, Strided

if TYPE_CHECKING:
    import numpy as np

_FLOAT4 = DTYPES["float4_e2m1fn"]


def pairs_of_codes(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Extent:
    """The values of a view (offset, shape, strides; in bytes) of a storage of byte pairs.

    A tensor without dimensions becomes one of shape (2,).
    """
    steps = tuple(2 * step for step in strides)
    pairs = Strided(
        storage.source,
        storage.base,
        storage.nbytes,
        _FLOAT4,
        (*shape, 2),
        first=2 * (offset + storage.shift),
        strides=(*steps, 1),
        storage=storage.identity,
    )
    if not shape:
        return pairs
    doubled = (*shape[:-1], 2 * shape[-1])
    if shape[-1] <= 1 or strides[-1] == 1:
        return Strided(
            storage.source,
            storage.base,
            storage.nbytes,
            _FLOAT4,
            doubled,
            first=pairs.first,
            strides=(*steps[:-1], 1),
            storage=storage.identity,
        )
    return PairedExtent(pairs, doubled)


class PairedExtent(Extent):
    """`pairs` of shape (..., n, 2) seen as (..., 2 n): its last two axes are walked as one."""

    def __init__(self, pairs: Strided, shape: tuple[int, ...]) -> None:
        self.pairs = pairs
        self.source = pairs.source
        self.dtype = pairs.dtype
        self.shape = shape
        self.storage = pairs.storage

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """See Extent.read: both shapes have the same C order."""
        return self.pairs.read(start, stop, out)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box; reads whole pairs and cuts the halves that stick out."""
        import numpy

        first, last = starts[-1] // 2, (stops[-1] + 1) // 2
        sizes = [b - a for a, b in zip(starts[:-1], stops[:-1], strict=True)]
        whole = numpy.empty((*sizes, last - first, 2), self.dtype.carrier)
        self.pairs.read_box((*starts[:-1], first, 0), (*stops[:-1], last, 2), whole)
        flat = whole.reshape(*sizes, 2 * (last - first))
        out[...] = flat[..., starts[-1] - 2 * first : stops[-1] - 2 * first]
