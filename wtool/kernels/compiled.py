"""`blocks.Loops` on compiled loops: the same numbers, bit for bit, many times as fast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wtool.kernels import blocks
from wtool.kernels.blocks import BINS, BLOCK, LANES, SPLIT, Sums, block_exponent, finish
from wtool.kernels.moments import EMPTY, Moments
from wtool.kernels.native import Linked

# Bit patterns of infinity and of the smallest normal value, and the type of the patterns.
_PATTERNS: dict[np.dtype, tuple[np.dtype, int, int]] = {
    np.dtype(np.float32): (np.dtype(np.int32), 0x7F80_0000, 0x0080_0000),
    np.dtype(np.float64): (np.dtype(np.int64), 0x7FF0_0000_0000_0000, 0x0010_0000_0000_0000),
}
NAMES_32 = ("measure_values", "fold_lanes", "count_upper_halves", "take_table")
NAMES_64 = ("find_extremes", "scale_values", "add_powers", "fold_lanes")
NAMES_CODES = ("count_halves", "take_table")


class Loops(blocks.Loops):
    """Loops over blocks with scratch memory of their own: one for each thread."""

    def __init__(self, linked: Linked) -> None:
        super().__init__()
        self._linked = linked
        self._lanes = np.empty((6, LANES))
        self._sums = np.empty((5, 2))
        self._centre = np.empty(1)
        self._found = np.empty(4, np.int64)
        self._table = np.zeros((2, BINS), np.uint32)
        self._used = False
        self._in_block = 0  # values of the pieces of a block
        self._taken: np.ndarray | None = None
        self._scaled: np.ndarray | None = None
        self._at_lanes = self._lanes.ctypes.data
        self._at_sums = self._sums.ctypes.data
        self._at_centre = self._centre.ctypes.data
        self._at_found = self._found.ctypes.data
        self._at_table = self._table.ctypes.data

    def measure_floats(self, values: np.ndarray) -> Moments:
        """See blocks.Loops."""
        if not len(values):
            return EMPTY
        if values.dtype == np.float32:
            self._in_block = 0
            self.add_piece(values)
            return self.end_block(lambda: values)
        bits = 8 * values.itemsize
        _, infinity, tiny = _PATTERNS[values.dtype]
        at, n = values.ctypes.data, len(values)
        mask = (1 << (bits - 1)) - 1
        self._linked["find_extremes"](at, n, bits - 1, mask, tiny, self._at_found)
        low, high, _, _ = self._found.tolist()
        if high >= infinity or low <= ~infinity:
            return self._measure_around(values)
        counts, ends = self._read_found(n, values.dtype)
        return finish(counts, ends, self._sum_float64(at, n, block_exponent(*ends)))

    def add_piece(self, values: np.ndarray) -> None:
        """See blocks.Loops."""
        at, n = values.ctypes.data, len(values)
        out = (self._at_found, self._at_lanes, self._at_centre)
        self._linked["measure_values"](at, at, n, int(self._in_block > 0), *out)
        self._in_block += n

    def end_block(self, again: Callable[[], np.ndarray]) -> Moments:
        """See blocks.Loops."""
        n, self._in_block = self._in_block, 0
        low, high, _, _ = self._found.tolist()
        dtype = np.dtype(np.float32)
        infinity = _PATTERNS[dtype][1]
        if high >= infinity or low <= ~infinity:
            return self._measure_around(again())
        counts, ends = self._read_found(n, dtype)
        return finish(counts, ends, self._sum_float32())

    def _measure_around(self, values: np.ndarray) -> Moments:
        """The moments of a block in which some values are not finite."""
        nan = int(np.count_nonzero(np.isnan(values)))
        kept = values[np.isfinite(values)]
        return blocks.with_specials(self.measure_floats(kept), nan, len(values) - nan - len(kept))

    def _read_found(
        self, n: int, dtype: np.dtype
    ) -> tuple[tuple[int, int, int, int, int], tuple[float, float]]:
        """(counts, extremes) of n finite values, see blocks.finish."""
        low, high, zeros, small = self._found.tolist()
        mask = (1 << (8 * dtype.itemsize - 1)) - 1
        kind = _PATTERNS[dtype][0]
        ends = np.array([key if key >= 0 else key ^ mask for key in (low, high)], dtype=kind)
        # Adding 0.0 turns -0.0 into 0.0.
        first, last = (ends.view(dtype) + dtype.type(0)).tolist()
        return (n, 0, 0, zeros, small - zeros), (first, last)

    def _sum_float32(self) -> Sums:
        """The sums of the block that was measured last: its lanes are still there."""
        self._linked["fold_lanes"](self._at_lanes, 5, self._at_sums)
        (high, low), *rest = self._sums.tolist()
        absolute, square, cube, fourth = (total for total, _ in rest)
        return Sums(high, low, self._centre.item(), absolute, square, cube, fourth, 0)

    def _sum_float64(self, at: int, n: int, exponent: int) -> Sums:
        scale = 2.0**-exponent
        if self._scaled is None:
            self._scaled = np.empty(BLOCK)
        scaled = self._scaled.ctypes.data
        self._linked["scale_values"](at, n, scale, SPLIT, scaled, self._at_lanes)
        self._linked["fold_lanes"](self._at_lanes, 3, self._at_sums)
        (high, error), (rest, _), (absolute, _), *_ = self._sums.tolist()
        low = rest + error
        centre = (high + low) / n
        self._linked["add_powers"](scaled, n, centre, self._at_lanes)
        self._linked["fold_lanes"](self._at_lanes, 3, self._at_sums)
        (square, _), (cube, _), (fourth, _), *_ = self._sums.tolist()
        return Sums(high, low, centre, absolute, square, cube, fourth, exponent)

    def count_codes(self, codes: np.ndarray) -> None:
        """See blocks.Loops; bytes are counted in pairs."""
        self._count_words("count_halves", codes, 8 // codes.itemsize)

    def count_upper(self, values: np.ndarray) -> None:
        """See blocks.Loops."""
        if values.dtype == np.float32:
            self._count_words("count_upper_halves", values, 2)
        else:
            super().count_upper(values)

    def take_counts(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """See blocks.Loops."""
        if not self._used:
            return super().take_counts(bins)
        if self._taken is None:
            self._taken = np.empty((2, BINS), np.int64)
        at = self._taken.ctypes.data
        self._linked["take_table"](self._at_table, at, at + self._taken.strides[0], self._at_found)
        self._used = False
        codes, counts = self._taken[:, : int(self._found[0])]
        if bins == BINS and self._counts is None:
            return codes.copy(), counts.copy()
        if bins < BINS:  # pairs were counted
            codes, counts = np.concatenate([codes % bins, codes // bins]), np.tile(counts, 2)
        dense = np.zeros(bins, np.int64)
        np.add.at(dense, codes, counts)
        self._add(dense)
        return super().take_counts(bins)

    def _count_words(self, name: str, items: np.ndarray, per_word: int) -> None:
        """Count with a loop over words of 64 bits; what is behind the last word with NumPy."""
        words = len(items) // per_word
        if words:
            self._linked[name](items.ctypes.data, words, self._at_table)
            self._used = True
        rest = items[words * per_word :]
        if len(rest) and name == "count_halves":
            super().count_codes(rest)
        elif len(rest):
            super().count_upper(rest)
