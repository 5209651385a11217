"""Exact quantiles of any number of values in flat memory: the values at given places, if sorted.

Each pass over the values settles 16 more bits of every value that is looked for: it counts the next
16 bits of the values that agree with what is settled so far. Wide types take two or four passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from wtool.kernels.quantiles import between, bin_starts, positions

_DIGIT = 16
_DIGITS = 1 << _DIGIT
_BLOCK_BYTES = 1 << 20
# Up to so many values are simply sorted, in less time than a table of 65,536 counts takes.
SORT_UP_TO = 1 << 14


def select_quantiles(
    passes: Callable[[], Iterable[np.ndarray]], total: int, quantiles: tuple[float, ...]
) -> list[float]:
    """NumPy's "linear" quantiles of `total` > 0 finite values.

    passes: gives the values anew, in arrays (n,) of one type: floats, or integers of at most
    64 bits; NaN and infinities among them are left out.
    """
    if total <= SORT_UP_TO:
        return quantiles_of_ordered(_sort(passes), quantiles)
    below, above, weights = positions(total, quantiles)
    places = sorted({*below, *above})
    values = dict(zip(places, select(passes, np.array(places)).tolist(), strict=True))
    return between([values[i] for i in below], [values[i] for i in above], weights)


def select_from_tensors(
    tensors: Sequence[Any],
    total: int,
    quantiles: tuple[float, ...],
    seen: Callable[[int], None] | None = None,
) -> list[float]:
    """`select_quantiles` of all values of wtool Tensors; those of several types go as float64.

    seen: told of the bytes of each block, in every pass.
    """
    return select_quantiles(lambda: _real_values(tensors, seen), total, quantiles)


def passes_to_select(tensors: Sequence[Any], total: int) -> int:
    """How often `select_from_tensors` reads the tensors."""
    if total <= SORT_UP_TO:
        return 1
    bits = 8 * tensors[0].dtype.carrier.itemsize if _of_one_type(tensors) else 64
    return max(1, bits // _DIGIT)


def bins_from_tensors(
    tensors: Sequence[Any],
    low: float | int,
    high: float | int,
    bins: int,
    seen: Callable[[int], None] | None = None,
) -> list[int]:
    """How many finite values of wtool Tensors lie in each of `bins` equal intervals.

    low, high: the least and the greatest of them; the greatest lies in the last interval. One pass.
    seen: told of the bytes of each block.
    """
    counts = np.zeros(bins, np.int64)
    for values in _real_values(tensors, seen):
        counts += count_into_bins(values, low, high, bins)
    return [int(count) for count in counts]


def count_into_bins(
    values: np.ndarray, low: float | int, high: float | int, bins: int
) -> np.ndarray:
    """`bins_from_tensors` of (n,) values: (bins,) int64."""
    if low == high:
        return np.array([np.count_nonzero(np.isfinite(values))] + [0] * (bins - 1))
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)].astype(np.float64)
    # A comparison takes all values at once; a search for each value is many times slower.
    starts = _starts(values, low, high, bins)
    above = [np.count_nonzero(values >= start) for start in starts]
    return -np.diff([len(values), *above, 0])


def bins_of_ordered(
    ordered: np.ndarray, low: float | int, high: float | int, bins: int
) -> list[int]:
    """`count_into_bins` of (n,) rising finite values."""
    if low == high:
        return [len(ordered)] + [0] * (bins - 1)
    cuts = np.searchsorted(ordered, _starts(ordered, low, high, bins)).tolist()
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, len(ordered)], strict=True)]


def _starts(values: np.ndarray, low: float | int, high: float | int, bins: int) -> np.ndarray:
    """`bin_starts` in a type that compares with the values exactly."""
    if values.dtype.kind in "iu":
        return np.array(bin_starts(int(low), int(high), bins), values.dtype)
    return np.array(bin_starts(float(low), float(high), bins), np.float64)


def _of_one_type(tensors: Sequence[Any]) -> bool:
    types = {tensor.dtype for tensor in tensors}
    return len(types) == 1 and next(iter(types)).kind in ("float", "int", "uint")


def _real_values(
    tensors: Sequence[Any], seen: Callable[[int], None] | None
) -> Iterator[np.ndarray]:
    """All values in blocks, complex ones as two reals; those of several types as float64."""
    plain = _of_one_type(tensors)
    for tensor in tensors:
        for block in tensor.blocks(_BLOCK_BYTES):
            if seen is not None:
                seen(block.nbytes)
            values = block.view(block.real.dtype) if block.dtype.kind == "c" else block
            yield values if plain else values.astype(np.float64)


def _sort(passes: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """All finite values in order, (n,)."""
    values = np.concatenate([np.array(block) for block in passes()])
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return np.sort(values)


def quantiles_of_ordered(ordered: np.ndarray, quantiles: Sequence[float]) -> list[float]:
    """NumPy's "linear" quantiles of (n,) rising finite values, n > 0."""
    below, above, weights = positions(len(ordered), quantiles)
    values = ordered[below + above].astype(np.float64).tolist()
    return between(values[: len(below)], values[len(below) :], weights)


def select(passes: Callable[[], Iterable[np.ndarray]], places: np.ndarray) -> np.ndarray:
    """The values at `places`, (k,) int64, of the sorted finite values: (k,) float64."""
    prefixes = np.zeros(len(places), np.uint64)
    ranks = places.copy()
    shift = None
    dtype = np.dtype(np.float64)
    while shift is None or shift > 0:
        wanted = np.array(sorted(set(prefixes.tolist())), np.uint64)
        counts = np.zeros((len(wanted), _DIGITS), np.int64)
        for values in passes():
            dtype = values.dtype
            keys = sortable(values)
            width = 8 * keys.itemsize
            level = width if shift is None else shift
            _count_digits(keys, width, level, wanted, counts)
        if shift is None:
            shift = 8 * dtype.itemsize
        shift -= _DIGIT
        rows = np.searchsorted(wanted, prefixes)
        ends = np.cumsum(counts, axis=1)
        for i, row in enumerate(rows):
            digit = int(np.searchsorted(ends[row], ranks[i], side="right"))
            ranks[i] -= ends[row, digit] - counts[row, digit]
            prefixes[i] = (int(prefixes[i]) << _DIGIT) | digit
    return unsort(prefixes, dtype)


def _count_digits(
    keys: np.ndarray, width: int, level: int, wanted: np.ndarray, counts: np.ndarray
) -> None:
    """Add to `counts` the digits below bit `level` of the keys whose upper bits are in `wanted`."""
    if level == width - _DIGIT:
        # Most values go here: a table answers sooner than a search.
        table = np.full(_DIGITS, -1, np.int8)
        table[wanted.astype(np.int64)] = np.arange(len(wanted))
        rows = table[keys >> keys.dtype.type(level)]
        found = np.flatnonzero(rows >= 0)
        keys, rows = keys[found], rows[found].astype(np.int64)
    elif level < width:
        upper = (keys >> keys.dtype.type(level)).astype(np.uint64)
        rows = np.minimum(np.searchsorted(wanted, upper), len(wanted) - 1)
        found = wanted[rows] == upper
        keys, rows = keys[found], rows[found]
    else:
        rows = np.zeros(len(keys), np.int64)
    digits = ((keys >> keys.dtype.type(level - _DIGIT)) & keys.dtype.type(_DIGITS - 1)).astype(
        np.int64
    )
    np.add(
        counts,
        np.bincount(rows * _DIGITS + digits, minlength=counts.size).reshape(counts.shape),
        out=counts,
    )


def sortable(values: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the finite values, (n,); -0.0 is as 0.0."""
    unsigned = np.dtype(f"u{values.itemsize}").type
    sign = unsigned(1 << (8 * values.itemsize - 1))
    if values.dtype.kind == "u":
        return values
    if values.dtype.kind == "i":
        return values.view(unsigned) ^ sign
    finite = np.isfinite(values)
    if not finite.all():
        values = values[finite]
    bits = (values + values.dtype.type(0)).view(unsigned)
    return np.where(bits & sign, ~bits, bits | sign)


def unsort(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values, as float64, behind keys of `sortable` that were made from values of `dtype`."""
    unsigned = np.dtype(f"u{dtype.itemsize}").type
    sign = unsigned(1 << (8 * dtype.itemsize - 1))
    bits = keys.astype(unsigned)
    if dtype.kind == "i":
        bits = bits ^ sign
    elif dtype.kind == "f":
        bits = np.where(bits & sign, bits ^ sign, ~bits)
    return bits.view(dtype).astype(np.float64)
