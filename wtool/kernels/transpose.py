"""Copying an array whose axes are permuted into C order, tile by tile."""

from __future__ import annotations

import numpy as np

# A tile of this many elements a side is read and written while it lies in the fastest cache.
TILE = 64
# Below this many elements tiles cost more than they save.
SMALL = 1 << 14


def copy_permuted(view: np.ndarray, out: np.ndarray) -> None:
    """Copy `view`, any strides, to `out`, C order, of the same shape and type."""
    np.copyto(out, view)
