"""`blocks.Loops` on compiled loops: the same numbers, bit for bit, many times as fast."""

from __future__ import annotations

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
NAMES_32 = ("scan_values", "add_powers_32", "fold_lanes", "count_upper_halves")
NAMES_64 = ("find_extremes", "scale_values", "add_powers_64", "fold_lanes")
NAMES_CODES = ("count_halves",)


class Loops(blocks.Loops):
    """Loops over blocks with scratch memory of their own: one for each thread."""

    def __init__(self, linked: Linked) -> None:
        super().__init__()
        self._linked = linked
        self._lanes = np.empty((4, LANES))
        self._sums = np.empty(8)
        self._found = np.empty(4, np.int64)
        self._table = np.zeros((2, BINS), np.uint32)
        self._used = False
        self._scaled: np.ndarray | None = None
        self._at_lanes = self._lanes.ctypes.data
        self._at_sums = self._sums.ctypes.data
        self._at_found = self._found.ctypes.data
        self._at_table = self._table.ctypes.data

    def measure_floats(self, values: np.ndarray) -> Moments:
        """See blocks.Loops."""
        kind, infinity, tiny = _PATTERNS[values.dtype]
        bits = 8 * values.itemsize
        n = len(values)
        if not n:
            return EMPTY
        mask = (1 << (bits - 1)) - 1
        at = values.ctypes.data
        if bits == 32:
            self._linked["scan_values"](
                at, at, n, bits - 1, mask, tiny, self._at_found, self._at_lanes
            )
        else:
            self._linked["find_extremes"](at, n, bits - 1, mask, tiny, self._at_found)
        low, high, zeros, small = self._found.tolist()
        if high >= infinity or low <= ~infinity:
            nan = int(np.count_nonzero(np.isnan(values)))
            kept = values[np.isfinite(values)]
            finite = self.measure_floats(kept)
            return blocks.with_specials(finite, nan, n - nan - len(kept))
        ends = np.array([key if key >= 0 else key ^ mask for key in (low, high)], dtype=kind)
        # Adding 0.0 turns -0.0 into 0.0.
        first, last = (ends.view(values.dtype) + values.dtype.type(0)).tolist()
        if bits == 32:
            sums = self._sum_float32(at, n)
        else:
            sums = self._sum_float64(at, n, block_exponent(first, last))
        return finish((n, 0, 0, zeros, small - zeros), (first, last), sums)

    def _sum_float32(self, at: int, n: int) -> Sums:
        """The sums of the block that was scanned last: its lanes are still there."""
        self._linked["fold_lanes"](self._at_lanes, 2, self._at_sums)
        high, low, absolute, _ = self._sums[:4].tolist()
        centre = (high + low) / n
        self._linked["add_powers_32"](at, n, centre, self._at_lanes)
        self._linked["fold_lanes"](self._at_lanes, 3, self._at_sums)
        square, _, cube, _, fourth, _ = self._sums[:6].tolist()
        return Sums(high, low, centre, absolute, square, cube, fourth, 0)

    def _sum_float64(self, at: int, n: int, exponent: int) -> Sums:
        scale = 2.0**-exponent
        if self._scaled is None:
            self._scaled = np.empty(BLOCK)
        scaled = self._scaled.ctypes.data
        self._linked["scale_values"](at, n, scale, SPLIT, scaled, self._at_lanes)
        self._linked["fold_lanes"](self._at_lanes, 3, self._at_sums)
        high, error, rest, _, absolute, _ = self._sums[:6].tolist()
        low = rest + error
        centre = (high + low) / n
        self._linked["add_powers_64"](scaled, n, centre, self._at_lanes)
        self._linked["fold_lanes"](self._at_lanes, 3, self._at_sums)
        square, _, cube, _, fourth, _ = self._sums[:6].tolist()
        return Sums(high, low, centre, absolute, square, cube, fourth, exponent)

    def count_codes(self, codes: np.ndarray) -> None:
        """See blocks.Loops; bytes are counted in pairs."""
        self._count("count_halves", codes, 8 // codes.itemsize)

    def count_upper(self, values: np.ndarray) -> None:
        """See blocks.Loops."""
        if values.dtype == np.float32:
            self._count("count_upper_halves", values, 2)
        else:
            super().count_upper(values)

    def take_counts(self, bins: int) -> np.ndarray:
        """See blocks.Loops."""
        counts = super().take_counts(bins)
        if self._used:
            both = np.add(self._table[0], self._table[1], dtype=np.int64)
            self._table[:] = 0
            self._used = False
            if bins < BINS:
                pairs = both.reshape(BINS // bins, bins)
                both = pairs.sum(axis=0) + pairs.sum(axis=1)
            counts += both
        return counts

    def _count(self, name: str, items: np.ndarray, per_word: int) -> None:
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
