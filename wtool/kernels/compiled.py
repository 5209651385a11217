"""`blocks.Loops` on compiled loops: the same numbers, bit for bit, many times as fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np

from wtool.kernels import blocks
from wtool.kernels.blocks import BINS, BLOCK, LANES, SPLIT, Sums, block_exponent, finish
from wtool.kernels.moments import EMPTY, Moments, merge
from wtool.kernels.native import Linked
from wtool.kernels.scan_loops import READ, TOTALS

# Bit patterns of infinity and of the smallest normal value, and the type of the patterns.
_PATTERNS: dict[np.dtype, tuple[np.dtype, int, int]] = {
    np.dtype(np.float32): (np.dtype(np.int32), 0x7F80_0000, 0x0080_0000),
    np.dtype(np.float64): (np.dtype(np.int64), 0x7FF0_0000_0000_0000, 0x0010_0000_0000_0000),
}
# Bytes that a loop reads at once: they stay in the second-level cache beside the tables.
SCAN_BYTES = 1 << 19
# So many values may be counted before the counts, of 32 bits, are taken from the table.
TABLE_LIMIT = 1 << 31
# Loops that read files themselves; there are some where the system has their function.
_SCANS = hasattr(os, READ)
NAMES_32: tuple[str, ...] = ("measure_values", "fold_lanes", "count_upper_halves", "take_table")
NAMES_64 = ("find_extremes", "scale_values", "add_powers", "fold_lanes")
NAMES_CODES: tuple[str, ...] = ("count_halves", "take_table")
if _SCANS:
    NAMES_32 += ("scan_floats",)
    NAMES_CODES += ("scan_codes",)


class Loops(blocks.Loops):
    """Loops over blocks with scratch memory of their own: one for each thread."""

    def __init__(self, linked: Linked) -> None:
        super().__init__()
        self._linked = linked
        self._lanes = np.empty((6, LANES))
        self._sums = np.empty((5, 2))
        self._centre = np.empty(1)
        self._found = np.empty(4, np.int64)
        self._table = np.zeros((4, BINS), np.uint32)
        self._in_table = 0  # values that the table has counted
        self._in_block = 0  # values of the pieces of a block
        self._taken: np.ndarray | None = None
        self._scaled: np.ndarray | None = None
        self._memory: np.ndarray | None = None
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
        counts, ends = _read_found(self._found.tolist(), n, values.dtype)
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
        self._linked["fold_lanes"](self._at_lanes, 5, self._at_sums)
        sums = [self._centre.item(), *self._sums.ravel().tolist()]
        return self._end_block(n, self._found.tolist(), sums, again)

    def scan_floats(
        self,
        file: int,
        offset: int,
        n: int,
        counting: bool,
        again: Callable[[int, int], np.ndarray],
    ) -> tuple[int, Moments]:
        """See blocks.Loops."""
        if not _SCANS:
            return super().scan_floats(file, offset, n, counting, again)
        if counting:
            self._make_room(n, BINS)
        starts = range(0, n, BLOCK)
        found = np.empty((len(starts), 4), np.int64)
        sums = np.empty((len(starts), TOTALS))
        end = np.empty(1, np.int64)
        self._linked["scan_floats"](
            *(file, offset, n, BLOCK, SCAN_BYTES // 4, int(counting)),
            *(*[self._at_memory()] * 4, self._at_table),
            *(self._at_found, self._at_lanes, self._at_centre, self._at_sums),
            *(found.ctypes.data, sums.ctypes.data, end.ctypes.data),
        )
        done = int(end[0])
        moments = EMPTY
        for first, keys, totals in zip(starts, found.tolist(), sums.tolist(), strict=True):
            last = min(n, first + BLOCK)
            if done < last:
                self._in_block = max(0, done - first)
                break
            block = self._end_block(last - first, keys, totals, partial(again, first, last))
            moments = merge(moments, block)
        return done, moments

    def scan_codes(self, file: int, offset: int, nbytes: int, bins: int) -> int:
        """See blocks.Loops."""
        whole = nbytes - nbytes % 8
        if not _SCANS or not whole:
            return 0
        self._make_room(whole, bins)
        memory = self._at_memory()
        self._linked["scan_codes"](
            file, offset, whole, SCAN_BYTES, memory, memory, self._at_table, self._at_found
        )
        return int(self._found[0])

    def _at_memory(self) -> int:
        """Where loops put what they read."""
        if self._memory is None:
            self._memory = np.empty(SCAN_BYTES, np.uint8)
        return self._memory.ctypes.data

    def _end_block(
        self, n: int, found: list[int], totals: list[float], again: Callable[[], np.ndarray]
    ) -> Moments:
        """The moments of n float32: their (low, high, zeros, small), centre and folded lanes."""
        low, high, _, _ = found
        dtype = np.dtype(np.float32)
        infinity = _PATTERNS[dtype][1]
        if high >= infinity or low <= ~infinity:
            return self._measure_around(again())
        centre, first, lost, absolute, _, square, _, cube, _, fourth, _ = totals
        sums = Sums(first, lost, centre, absolute, square, cube, fourth, 0)
        return finish(*_read_found(found, n, dtype), sums)

    def _measure_around(self, values: np.ndarray) -> Moments:
        """The moments of a block in which some values are not finite."""
        nan = int(np.count_nonzero(np.isnan(values)))
        kept = values[np.isfinite(values)]
        return blocks.with_specials(self.measure_floats(kept), nan, len(values) - nan - len(kept))

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
        if self._in_table and bins == BINS and self._counts is None:
            codes, counts = self._empty_table()
            return codes.copy(), counts.copy()
        self._add_table(bins)
        return super().take_counts(bins)

    def _make_room(self, values: int, bins: int) -> None:
        """See to it that the table can count so many values more, none of its counts overflows."""
        if self._in_table + values > TABLE_LIMIT:
            self._add_table(bins)
        self._in_table += values

    def _add_table(self, bins: int) -> None:
        """Add what the table has counted to the other counts, and empty it."""
        if not self._in_table:
            return
        codes, counts = self._empty_table()
        if bins < BINS:  # pairs were counted
            codes, counts = np.concatenate([codes % bins, codes // bins]), np.tile(counts, 2)
        dense = np.zeros(bins, np.int64)
        np.add.at(dense, codes, counts)
        self._add(dense)

    def _empty_table(self) -> tuple[np.ndarray, np.ndarray]:
        """The codes that the table has counted, rising, and how often; good until the next call."""
        if self._taken is None:
            self._taken = np.empty((2, BINS), np.int64)
        at = self._taken.ctypes.data
        self._linked["take_table"](self._at_table, at, at + self._taken.strides[0], self._at_found)
        self._in_table = 0
        codes, counts = self._taken[:, : int(self._found[0])]
        return codes, counts

    def _count_words(self, name: str, items: np.ndarray, per_word: int) -> None:
        """Count with a loop over words of 64 bits; what is behind the last word with NumPy."""
        words = len(items) // per_word
        if words:
            self._make_room(words * per_word, 1 << 8 if items.itemsize == 1 else BINS)
            self._linked[name](items.ctypes.data, words, self._at_table)
        rest = items[words * per_word :]
        if len(rest) and name == "count_halves":
            super().count_codes(rest)
        elif len(rest):
            super().count_upper(rest)


def _read_found(
    found: list[int], n: int, dtype: np.dtype
) -> tuple[tuple[int, int, int, int, int], tuple[float, float]]:
    """(counts, extremes) of n finite values, see blocks.finish, from what `find_extremes` found."""
    low, high, zeros, small = found
    mask = (1 << (8 * dtype.itemsize - 1)) - 1
    kind = _PATTERNS[dtype][0]
    ends = np.array([key if key >= 0 else key ^ mask for key in (low, high)], dtype=kind)
    # Adding 0.0 turns -0.0 into 0.0.
    first, last = (ends.view(dtype) + dtype.type(0)).tolist()
    return (n, 0, 0, zeros, small - zeros), (first, last)
