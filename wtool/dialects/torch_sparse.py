"""Sparse tensors of torch: which component tensors belong together, and the rules between them.

A sparse tensor is shown as its components, under torch's own names:

    layout       components                            sparse dimensions
    sparse_coo   indices (dims, n), values (n, ...)    the first `dims`
    sparse_csr   crow_indices, col_indices, values     rows compressed
    sparse_csc   ccol_indices, row_indices, values     columns compressed
    sparse_bsr   as csr, values (n, r, c, ...)         blocks of (r, c)
    sparse_bsc   as csc, values (n, r, c, ...)         blocks of (r, c)

Source: torch 2.13 `torch/_utils.py` `_rebuild_sparse_tensor`; `SparseTensor.cpp` and
`SparseCsrTensor.cpp` for the invariants. Shapes are checked when a file is opened, index values
before they are first read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wtool.dialects.checked_extent import checked
from wtool.errors import MalformedInput
from wtool.extents import Extent, Strided, check_shape

if TYPE_CHECKING:
    import numpy as np

# Index values are proven in pieces of this many elements.
BLOCK_ELEMENTS = 1 << 16

# layout -> names of the compressed and the plain indices
COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}
BLOCKED = ("sparse_bsr", "sparse_bsc")


def coo_parts(
    indices: Extent, values: Extent, shape: Sequence[int], *, coalesced: bool
) -> dict[str, Extent]:
    """Components of a COO tensor of `shape`: {"indices": (dims, n) int64, "values": (n, *dense)}.

    Raises MalformedInput where their shapes contradict each other or `shape`; reading the indices
    raises it where one lies outside `shape`, or `coalesced` is claimed of unsorted indices.
    """
    shape = check_shape(tuple(shape))
    if len(indices.shape) != 2 or indices.dtype.name != "int64":
        raise _bad("sparse indices", "2 dimensions of int64", _describe(indices))
    _refuse_repeats("sparse indices", indices)
    dims, count = indices.shape
    if dims > len(shape):
        raise _bad("sparse indices", f"at most {len(shape)} rows", dims)
    if values.shape != (count, *shape[dims:]):
        raise _bad("sparse values", f"shape {(count, *shape[dims:])}", values.shape)

    def prove() -> None:
        _prove_coo(indices, shape[:dims], coalesced=coalesced)

    return {"indices": checked(indices, prove), "values": values}


def compressed_parts(
    layout: str, compressed: Extent, plain: Extent, values: Extent, shape: Sequence[int]
) -> dict[str, Extent]:
    """Components of a CSR, CSC, BSR or BSC tensor of `shape`, under torch's names.

    Raises MalformedInput as `coo_parts` does.
    """
    shape = check_shape(tuple(shape))
    compressed_name, plain_name = COMPRESSED[layout]
    for name, extent in ((compressed_name, compressed), (plain_name, plain)):
        if extent.dtype.name not in ("int32", "int64") or extent.dtype is not compressed.dtype:
            raise _bad(name, "two times int32 or int64", extent.dtype.name)
        if not extent.shape:
            raise _bad(name, "at least 1 dimension", "a scalar")
        _refuse_repeats(name, extent)
    *batch, count = plain.shape
    rank = len(batch) + 2
    if len(shape) < rank or list(shape[: len(batch)]) != batch:
        raise _bad("sparse shape", f"{rank} dimensions or more, first {tuple(batch)}", shape)
    block = values.shape[rank - 1 :][:2] if layout in BLOCKED else ()
    wanted = (*batch, count, *block, *shape[rank:])
    if values.shape != wanted or (layout in BLOCKED and len(block) != 2):
        raise _bad("sparse values", f"shape {wanted}", values.shape)
    rows, columns = shape[rank - 2], shape[rank - 1]
    if block:
        if 0 in block or rows % block[0] or columns % block[1]:
            raise _bad("sparse block", f"a divisor of {(rows, columns)}", block)
        rows, columns = rows // block[0], columns // block[1]
    lines, width = (rows, columns) if compressed_name == "crow_indices" else (columns, rows)
    if compressed.shape != (*batch, lines + 1):
        raise _bad(compressed_name, f"shape {(*batch, lines + 1)}", compressed.shape)

    def prove() -> None:
        for index in range(math.prod(batch)):
            _prove_lines(compressed, plain, index, width)

    return {
        compressed_name: checked(compressed, prove),
        plain_name: checked(plain, prove),
        "values": values,
    }


def _prove_coo(indices: Extent, shape: tuple[int, ...], *, coalesced: bool) -> None:
    """Rows of (dims, n) indices lie within their dimension; coalesced columns strictly ascend."""
    import numpy as np

    dims, count = indices.shape
    if dims == 0:
        if coalesced and count > 1:
            raise _bad("sparse indices", "at most 1 value of a scalar", count)
        return
    step = max(1, BLOCK_ELEMENTS // dims)
    last = None
    for start in range(0, count, step):
        stop = min(count, start + step)
        block = np.empty((dims, stop - start), indices.dtype.carrier)
        indices.read_box((0, start), (dims, stop), block)
        for row, size in zip(block, shape, strict=True):
            _expect_within("sparse indices", row, size)
        if coalesced:
            whole = block if last is None else np.concatenate([last, block], axis=1)
            if not _columns_ascend(whole):
                raise MalformedInput(
                    "sparse indices are not in order",
                    expected="a coalesced tensor",
                    found="not one",
                )
            last = block[:, -1:].copy()


def _columns_ascend(block: np.ndarray) -> bool:
    """Whether each column of (dims, n) is lexicographically above the one before."""
    import numpy as np

    above = np.zeros(block.shape[1] - 1, bool)
    equal = ~above
    for row in block:
        above |= equal & (row[1:] > row[:-1])
        equal &= row[1:] == row[:-1]
    return bool(above.all())


def _prove_lines(compressed: Extent, plain: Extent, index: int, width: int) -> None:
    """One batch entry: line starts ascend from 0 to n; within a line, indices strictly ascend."""
    import numpy as np

    lines, count = compressed.shape[-1], plain.shape[-1]
    step = BLOCK_ELEMENTS
    last_start = 0
    for low in range(0, lines, step):
        high = min(lines, low + step)
        starts = compressed.read(index * lines + low, index * lines + high).astype("int64")
        if low == 0 and starts[0] != 0:
            raise MalformedInput("sparse line starts", expected="0 at first", found=int(starts[0]))
        _expect_within("sparse line starts", starts, count + 1)
        starts = np.concatenate([[last_start], starts])
        if (starts[1:] < starts[:-1]).any():
            raise MalformedInput("sparse line starts descend")
        if (starts[1:] - starts[:-1] > width).any():
            raise MalformedInput("sparse line too long", expected=f"at most {width} values")
        _prove_plain(plain, index * count, starts, width)
        last_start = int(starts[-1])
    if last_start != count:
        raise MalformedInput("sparse line starts", expected=f"{count} at last", found=last_start)


def _prove_plain(plain: Extent, base: int, starts: np.ndarray, width: int) -> None:
    """Indices from starts[0] to starts[-1] lie below `width` and ascend but at a start."""
    import numpy as np

    for low in range(int(starts[0]), int(starts[-1]), BLOCK_ELEMENTS):
        high = min(int(starts[-1]), low + BLOCK_ELEMENTS)
        first = max(low - 1, int(starts[0]))
        values = plain.read(base + first, base + high).astype("int64")
        _expect_within("sparse indices", values, width)
        places = np.flatnonzero(values[1:] <= values[:-1]) + first + 1
        found = np.searchsorted(starts, places)
        if (starts[np.minimum(found, len(starts) - 1)] != places).any():
            raise MalformedInput("sparse indices of a line are not in ascending order")


def _expect_within(what: str, values: np.ndarray, size: int) -> None:
    if len(values) and (values.min() < 0 or values.max() >= size):
        worst = values.min() if values.min() < 0 else values.max()
        raise MalformedInput(f"{what} out of range", expected=f"0 to {size - 1}", found=int(worst))


def _refuse_repeats(what: str, extent: Extent) -> None:
    """Indices that repeat a few stored elements claim work without end; no writer makes them."""
    if isinstance(extent, Strided) and extent.count > extent.high - extent.low:
        raise _bad(what, "each element stored once", f"strides {extent.strides}")


def _bad(what: str, expected: str, found: object) -> MalformedInput:
    return MalformedInput(f"bad {what}", expected=expected, found=found)


def _describe(extent: Extent) -> str:
    return f"{len(extent.shape)} of {extent.dtype.name}"
