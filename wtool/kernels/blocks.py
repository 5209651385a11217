"""Moments and bins of one block of wide values (32 bits and more), in NumPy.

The order of every float64 addition is fixed, and `compiled` keeps the same order: value i of a
block is added to lane i % LANES, lanes are then folded in halves. So both give the same bits.
"""

from __future__ import annotations

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
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            nan = int(np.count_nonzero(np.isnan(values)))
            kept = values[np.isfinite(values)]
            return with_specials(self.measure_floats(kept), nan, len(values) - nan - len(kept))
        zeros = len(values) - int(np.count_nonzero(values))
        small = int(np.count_nonzero(np.abs(values) < np.finfo(values.dtype).tiny))
        counts = (len(values), 0, 0, zeros, small - zeros)
        # Adding 0.0 turns -0.0 into 0.0.
        return finish(counts, (float(low) + 0.0, float(high) + 0.0), lane_sums(values, high, low))

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

    def scan_codes(self, file: int, offset: int, nbytes: int) -> int:
        """Count codes in `nbytes` of an open file; how many of these bytes, from the first on.

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
        exponent = block_exponent(float(low), float(high))
        wide *= 2.0**-exponent
        split = SPLIT
    n = len(wide)
    upper = (wide + split) - split if split else wide
    first, error = _fold_exactly(_lanes(upper))
    second = _fold(_lanes(wide - upper)) if split else 0.0
    if split:
        centre = (first + (second + error)) / n
    else:
        centre = _fold(_lanes(wide[:CHUNK])) / min(n, CHUNK)
    absolute = _fold(_lanes(np.abs(wide)))
    wide -= centre
    square = wide * wide
    return Sums(
        first,
        second + error,
        centre,
        absolute,
        _fold(_lanes(square)),
        _fold(_lanes(square * wide)),
        _fold(_lanes(square * square)),
        exponent,
    )


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
    return from_centred(
        (n, 0, 0, zeros, 0),
        (low, high),
        (first, 0),
        (absolute, 0),
        (centre, 0),
        (
            from_float(_fold(_lanes(square)), 2 * 64),
            from_float(_fold(_lanes(square * wide)), 3 * 64),
            from_float(_fold(_lanes(square * square)), 4 * 64),
        ),
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


def _lanes(terms: np.ndarray) -> np.ndarray:
    """(n,) float64 -> (LANES,): sums of every LANES-th term, first to last."""
    whole = len(terms) // LANES * LANES
    sums = np.zeros(LANES)
    for row in terms[:whole].reshape(-1, LANES):
        sums += row
    sums[: len(terms) - whole] += terms[whole:]
    return sums


def _fold(lanes: np.ndarray) -> float:
    """Sum of the lanes: the upper half is added to the lower one until one is left."""
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])


def _fold_exactly(lanes: np.ndarray) -> tuple[float, float]:
    """`_fold`, and beside it the sum of what each addition rounded away (Knuth's two-sum)."""
    error = np.zeros(len(lanes))
    while len(lanes) > 1:
        half = len(lanes) // 2
        a, b = lanes[:half], lanes[half:]
        lanes = a + b
        part = lanes - a
        error = (error[:half] + error[half:]) + ((a - (lanes - part)) + (b - part))
    return float(lanes[0]), float(error[0])
