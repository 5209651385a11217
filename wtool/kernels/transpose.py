"""Copying an array whose axes are permuted into C order, without missing the cache at each element.

Large arrays go through a compiled loop, small ones through NumPy: the values are the same.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from wtool.kernels import native
from wtool.kernels.transpose_loops import LINE_BYTES, SCRATCH_BYTES

# Below this many elements NumPy is as fast.
SMALL = 1 << 14
# Rows and columns of the tiles that NumPy copies where no loop is compiled.
TILE = (256, 64)
# Bytes of an element -> the loop for it.
_LOOPS = {2: "transpose_16", 4: "transpose_32", 8: "transpose_64"}


def copy_permuted(view: np.ndarray, out: np.ndarray, *, total: int | None = None) -> None:
    """Copy `view`, any strides, to `out`, C order, of the same shape and type.

    total: elements of the whole work that this is a part of, which decides whether compiling pays.
    """
    axes = _merged(view)
    unit = next((axis for axis in axes if axis[1] == view.itemsize), None)
    plain = unit is None or len(axes) < 2 or axes[-1][1] == view.itemsize
    if plain or view.size < SMALL or view.dtype.hasobject:
        np.copyto(out, view)
        return
    linked = _linked(_LOOPS.get(view.itemsize, ""), _tier(total or view.size))
    if linked is None or not _whole_elements(view, out):
        _copy_in_tiles(view, out)
        return
    loop = linked[_LOOPS[view.itemsize]]
    item = view.itemsize
    at_view, at_out = view.ctypes.data, out.ctypes.data
    scratch = np.empty(SCRATCH_BYTES + LINE_BYTES, np.uint8)
    at_scratch = scratch.ctypes.data + -scratch.ctypes.data % LINE_BYTES
    columns, _, out_step = unit if unit is not None else axes[0]
    rows, source_step, _ = axes[-1]
    batch = [axis for axis in axes[:-1] if axis is not unit]
    for index in product(*(range(size) for size, _, _ in batch)):
        source = at_view + sum(i * axis[1] for i, axis in zip(index, batch, strict=True))
        target = at_out + sum(i * axis[2] for i, axis in zip(index, batch, strict=True))
        steps = (source_step // item, out_step // item)
        offset = target % LINE_BYTES // item
        loop(source, target, rows, columns, *steps, offset, at_scratch)


def _whole_elements(view: np.ndarray, out: np.ndarray) -> bool:
    """Whether both begin, and step, at multiples of an element: the loop counts in elements."""
    places = (view.ctypes.data, out.ctypes.data, *view.strides)
    return not any(place % view.itemsize for place in places)


def _merged(view: np.ndarray) -> list[tuple[int, int, int]]:
    """(size, stride in `view`, stride in C order) in bytes, of axes that cannot be merged further.

    Axes of one element are left out.
    """
    merged: list[tuple[int, int, int]] = []
    step = view.itemsize
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size == 1:
            continue
        if merged and stride == merged[-1][0] * merged[-1][1]:
            inner = merged[-1]
            merged[-1] = (inner[0] * size, inner[1], inner[2])
        else:
            merged.append((size, stride, step))
        step *= size
    return merged[::-1]


def _copy_in_tiles(view: np.ndarray, out: np.ndarray) -> None:
    """NumPy's own copy, on pieces of the last two axes that fit the cache."""
    if view.ndim < 2:
        np.copyto(out, view)
        return
    rows, columns = view.shape[-2:]
    for row in range(0, rows, TILE[0]):
        for column in range(0, columns, TILE[1]):
            tile = (..., slice(row, row + TILE[0]), slice(column, column + TILE[1]))
            np.copyto(out[tile], view[tile])


def _tier(elements: int) -> int:
    """The largest of `native`'s limits that so many elements reach; 0 for none."""
    limits = (native.LINK_FROM, native.COMPILE_FROM, native.COMPILE_ALWAYS_FROM)
    return max((limit for limit in limits if elements >= limit), default=0)


@cache
def _linked(name: str, tier: int) -> native.Linked | None:
    """The loop, linked once a process: a model has many tensors."""
    return native.load((name,), tier) if name and tier else None
