"""Moments and bins of one block of wide values (32 bits and more), in NumPy.

The order of every float64 addition is fixed, and `compiled` keeps the same order: value i of a
block is added to lane i % LANES, lanes are then folded in halves. So both give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wtool.kernels.exact import add, from_float
from wtool.kernels.moments import EMPTY, Moments, from_centred, merge

# Elements of one block; blocks are counted from a tensor's first element. 4 MiB of float32.
BLOCK = 1 << 20
LANES = 512
# Values of a float32 block whose mean is the centre of its powers. They belong to the block: where
# their mean is far from the block's, its spread is large too, and hardly a digit is lost.
CHUNK = 8 * LANES
# Bins of the histogram of wide values: the upper half of the value as a float32.
BINS = 1 << 16
# Largest power of two by which a float64 block is scaled before it is squared; 2**-1000 is normal.
_MAX_SHIFT = 1000
# The smallest normal value of a float of so many bytes.
_TINY = {4: np.float32(2.0**-126), 8: 2.0**-1022}


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the finite values of a block, divided by 2**exponent first.

    high + low: sum of x. absolute: sum of |x|. The rest: sums of (x - centre)^2, ^3, ^4.
    """

    high: float
    low: float
    centre: float
    absolute: float
    square: float
    cube: float
    fourth: float
    exponent: int


class Loops:
    """Measures blocks one after the other, and counts codes until they are taken; not shared."""

    def __init__(self) -> None:
        self._counts: np.ndarray | None = None
        self._pieces: list[np.ndarray] = []

    def measure_floats(self, values: np.ndarray) -> Moments:
        """Moments of at most BLOCK values, (n,) float32 or float64, contiguous."""
        if not len(values):
            return EMPTY
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            nan = int(np.count_nonzero(np.isnan(values)))
            kept = values[np.isfinite(values)]
            return with_specials(self.measure_floats(kept), nan, len(values) - nan - len(kept))
        zeros = len(values) - int(np.count_nonzero(values))
        small = int(np.count_nonzero(np.abs(values) < _TINY[values.dtype.itemsize]))
        counts = (len(values), 0, 0, zeros, small - zeros)
        # Adding 0.0 turns -0.0 into 0.0.
        return finish(counts, (low + 0.0, high + 0.0), lane_sums(values, high, low))

    def add_piece(self, values: np.ndarray) -> None:
        """Measure (n,) float32, n > 0, that follow the pieces before; all but the last of a block
        have a length that CHUNK divides.
        """
        self._pieces.append(values.copy())

    def end_block(self, again: Callable[[], np.ndarray]) -> Moments:
        """The moments of the pieces that were added. again: reads the whole block once more, which
        is asked for where a value is not finite.
        """
        values = np.concatenate(self._pieces)
        self._pieces = []
        return self.measure_floats(values)

    def scan_codes(self, file: int, offset: int, nbytes: int, bins: int) -> int:
        """Count codes below `bins` in `nbytes` of an open file; how many of these bytes, from the
        first on.

        What is left, all of it where no loop reads files, is to be read and counted.
        """
        return 0

    def scan_floats(
        self,
        file: int,
        offset: int,
        n: int,
        counting: bool,
        again: Callable[[int, int], np.ndarray],
    ) -> tuple[int, Moments]:
        """`add_piece` of the blocks of (n,) float32 in an open file; how many values, from the
        first on, and the moments of all blocks that ended.

        counting: whether to `count_upper` too. What is left, all where no loop reads files, is to
        be read and added. again(start, stop): reads a block once more, see `end_block`.
        """
        return 0, EMPTY

    def count_codes(self, codes: np.ndarray) -> None:
        """Count (n,) uint8 or uint16 codes, contiguous."""
        self._add(np.bincount(codes, minlength=1 << (8 * codes.itemsize)))

    def count_upper(self, values: np.ndarray) -> None:
        """Count `upper_codes` of (n,) values, contiguous."""
        self._add(np.bincount(upper_codes(values), minlength=BINS))

    def take_counts(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """The codes below `bins` counted since the last call, rising, and how often: (n,) int64."""
        counts = self._counts
        self._counts = None
        if counts is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        codes = np.flatnonzero(counts)
        return codes, counts[codes]

    def _add(self, counts: np.ndarray) -> None:
        self._counts = counts if self._counts is None else self._counts + counts


def with_specials(finite: Moments, nan: int, inf: int) -> Moments:
    """The moments of finite values with these counts of others beside them."""
    return merge(finite, Moments(nan=nan, inf=inf))


def finish(
    counts: tuple[int, int, int, int, int], extremes: tuple[float, float], sums: Sums
) -> Moments:
    """Moments from the sums of a block."""
    e = sums.exponent
    return from_centred(
        counts,
        extremes,
        add(from_float(sums.high, e), from_float(sums.low, e)),
        from_float(sums.absolute, e),
        from_float(sums.centre, e),
        (
            from_float(sums.square, 2 * e),
            from_float(sums.cube, 3 * e),
            from_float(sums.fourth, 4 * e),
        ),
    )


def lane_sums(values: np.ndarray, high: float, low: float) -> Sums:
    """The sums of finite values, (n,) float32 or float64, whose extremes are `high` and `low`."""
    wide = values.astype(np.float64)
    exponent = 0
    split = 0.0
    if values.dtype == np.float64:
        exponent = block_exponent(low, high)
        wide *= 2.0**-exponent
        split = SPLIT
    n = len(wide)
    magnitudes = np.abs(wide)
    if split:
        upper = (wide + split) - split
        (first, second, absolute), error = _sums(upper, wide - upper, magnitudes)
        centre = (first + (second + error)) / n
    else:
        (first, absolute), error = _sums(wide, magnitudes)
        second = 0.0
        beginning = first if n <= CHUNK else _sums(wide[:CHUNK])[0][0]
        centre = beginning / min(n, CHUNK)
    wide -= centre
    square = wide * wide
    (second_power, third, fourth), _ = _sums(square, square * wide, square * square)
    return Sums(first, second + error, centre, absolute, second_power, third, fourth, exponent)


# Adding and taking away this cuts |x| < 2 to a multiple of 2^-32: a block of those adds up exactly.
SPLIT = 1.5 * 2.0**20


def block_exponent(low: float, high: float) -> int:
    """e with |x| / 2**e < 1 for all x between `low` and `high`; within +-_MAX_SHIFT."""
    exponent = int(np.frexp(max(abs(low), abs(high)))[1])
    return max(-_MAX_SHIFT, min(exponent, _MAX_SHIFT + 24))


def measure_integers(values: np.ndarray) -> Moments:
    """Moments of at most BLOCK integers, (n,) of 32 or 64 bits; sums of x and |x| are exact."""
    if not len(values):
        return EMPTY
    low, high = int(values.min()), int(values.max())
    n = len(values)
    zeros = n - int(np.count_nonzero(values))
    first = exact_sum(values)
    absolute = first if low >= 0 else 2 * exact_sum(values[values > 0]) - first
    centre = round(first / n)
    # Differences from the centre are taken modulo 2^64, which is exact where they fit into 63 bits.
    if low - centre >= -(1 << 63) and high - centre < 1 << 63:
        offsets = values.astype(np.uint64) - np.uint64(centre % (1 << 64))
        wide = offsets.view(np.int64).astype(np.float64)
    else:
        wide = values.astype(np.float64) - float(centre)
    wide *= 2.0**-64
    square = wide * wide
    (second, third, fourth), _ = _sums(square, square * wide, square * square)
    return from_centred(
        (n, 0, 0, zeros, 0),
        (low, high),
        (first, 0),
        (absolute, 0),
        (centre, 0),
        (from_float(second, 2 * 64), from_float(third, 3 * 64), from_float(fourth, 4 * 64)),
    )


def exact_sum(values: np.ndarray) -> int:
    """Sum of at most 2^31 integers, (n,) of up to 64 bits."""
    wide = values.astype(np.int64) if values.dtype.itemsize < 8 else values
    upper = (wide >> 32).astype(np.int64)
    lower = (wide & 0xFFFFFFFF).astype(np.int64)
    return (int(upper.sum()) << 32) + int(lower.sum())


def upper_codes(values: np.ndarray) -> np.ndarray:
    """Bin of each value: the upper 16 bits of it as a float32, (n,) uint16.

    Truncation is towards zero, so a bin holds values within a factor of 1 + 2^-7 (from 2^-126 on);
    what float32 cannot hold falls into the bins of zero and infinity.
    """
    if values.dtype != np.float32:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    return values.view(np.uint16)[1::2]


def _sums(*terms: np.ndarray) -> tuple[list[float], float]:
    """Sum of each of some (n,) float64, n > 0; and what additions in the first one rounded away.

    Every LANES-th term is added to one lane, first to last, and the upper half of the lanes to the
    lower one until one is left. The error is that of the second step (Knuth's two-sum).
    """
    # Lanes that would get nothing change nothing.
    width = min(LANES, 1 << (len(terms[0]) - 1).bit_length())
    lanes = np.zeros((len(terms), width))
    for sums, one in zip(lanes, terms, strict=True):
        whole = len(one) // width * width
        for row in one[:whole].reshape(-1, width):
            sums += row
        sums[: len(one) - whole] += one[whole:]
    error = np.zeros(lanes.shape[1])
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        both = lanes[:, :half] + lanes[:, half:]
        a, b, added = lanes[0, :half], lanes[0, half:], both[0]
        part = added - a
        error = (error[:half] + error[half:]) + ((a - (added - part)) + (b - part))
        lanes = both
    return lanes[:, 0].tolist(), float(error[0])
