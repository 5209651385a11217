"""Quantiles and bins from counted values.

A quantile q of n values is NumPy's "linear" one: position (n - 1) q among the sorted values, and in
between two of them on the straight line. Values are exact for types up to 16 bits; of wider ones
only the upper half as a float32 is counted, so each of the two neighbours is known within 2^-8 of
itself (from 2^-126 to 2^128).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from wtool.kernels.blocks import BINS
from wtool.kernels.codes import count_each

QUANTILES = {
    "p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99,
}  # fmt: skip

# Smallest normal float32: from there on each bin is 2^-7 of a value wide.
_SMALLEST = 2.0**-126


@dataclass(frozen=True, eq=False)
class Counted:
    """How often each value occurs: values (n,) float64, rising, finite; counts (n,) int64, none 0.

    exact: whether the values are those of the tensor, not of bins.
    """

    values: np.ndarray
    counts: np.ndarray
    exact: bool

    @cached_property
    def ends(self) -> np.ndarray:
        """How many values there are up to each one: (n,) int64."""
        return np.cumsum(self.counts)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.ends[-1]) if len(self.ends) else 0


def count_bins(codes: np.ndarray, counts: np.ndarray, *, integral: bool) -> Counted:
    """Middles of the bins `codes` of `blocks.upper_codes`, and the count of each, (n,) int64."""
    values = _middles(integral)[codes]
    order = np.argsort(values, kind="stable")
    order = order[: len(order) - np.count_nonzero(np.isnan(values))]  # NaN is sorted last
    return Counted(*count_each(values[order], counts[order]), False)


def merge_counted(parts: Sequence[Counted]) -> Counted:
    """All parts together, whatever they count."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order = np.argsort(values, kind="stable")
    exact = all(part.exact for part in parts)
    return Counted(*count_each(values[order], counts[order]), exact)


def positions(total: int, quantiles: Sequence[float]) -> tuple[list[int], list[int], list[float]]:
    """Places of each quantile's two neighbours among `total` > 0 values; weight of the second."""
    virtual = [(total - 1) * q for q in quantiles]
    below = [math.floor(v) for v in virtual]
    above = [min(place + 1, total - 1) for place in below]
    return below, above, [v - place for v, place in zip(virtual, below, strict=True)]


def between(
    lower: Sequence[float], upper: Sequence[float], weights: Sequence[float]
) -> list[float]:
    """The straight line from each `lower` to `upper` at its weight, as NumPy computes it."""
    answers = []
    for first, last, weight in zip(lower, upper, weights, strict=True):
        step = last - first
        line = first + step * weight if weight < 0.5 else last - step * (1 - weight)
        # The distance itself may be beyond float64; halves of it are not.
        if not math.isfinite(line):
            line = first * (1 - weight) + last * weight
        answers.append(line)
    return answers


def quantiles_of(
    data: Counted, low: float | int, high: float | int, quantiles: Sequence[float]
) -> list[float]:
    """Quantiles of counted values that are known to lie between `low` and `high`; not empty."""
    below, above, weights = positions(data.total, quantiles)
    low, high = float(low), float(high)  # the middles of the outermost bins may lie outside
    found = data.values[np.searchsorted(data.ends, below + above, side="right")]
    values = [min(max(value, low), high) for value in found.tolist()]
    return between(values[: len(below)], values[len(below) :], weights)


def are_known(data: Counted, zeros: int, quantiles: Sequence[float]) -> list[bool]:
    """Whether each of the quantiles that `quantiles_of` gives is within its bound.

    zeros: how many values are zero. Between -2^-126 and 2^-126 bins say little of a value: where
    others lie there too, only places that are zero whatever the signs of these others are known.
    """
    if data.exact:
        return [True] * len(quantiles)
    first, last = np.searchsorted(data.values, [np.nextafter(-_SMALLEST, 0.0), _SMALLEST]).tolist()
    start = int(data.ends[first - 1]) if first else 0
    stop = int(data.ends[last - 1]) if last else 0
    others = stop - start - zeros
    below, above, _ = positions(data.total, quantiles)
    known = [
        not start <= place < stop or start + others <= place < start + zeros
        for place in (*below, *above)
    ]
    return [a and b for a, b in zip(known[: len(below)], known[len(below) :], strict=True)]


def bins_of(data: Counted, low: float | int, high: float | int, bins: int) -> list[int]:
    """Counts in equal intervals from `low` to `high`; where these are equal, all in the first."""
    if low == high:
        return [data.total] + [0] * (bins - 1)
    starts = np.array(bin_starts(float(low), float(high), bins), np.float64)
    behind = np.searchsorted(data.values, starts)
    cuts = np.where(behind > 0, data.ends[behind - 1], 0).tolist()
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, data.total], strict=True)]


def bin_starts(low: float | int, high: float | int, bins: int) -> list[float] | list[int]:
    """The least number that lies in the second, the third... of equal intervals, bins - 1 of them.

    An edge between two intervals is in the upper one. Edges are exact, for a difference from `low`
    would be rounded: -1e-30 is below the middle of -1 and 1. Two integers give what integers
    are compared with; low < high.
    """
    places = range(1, bins)
    if isinstance(low, int) and isinstance(high, int):
        return [low + -(-place * (high - low) // bins) for place in places]
    starts: list[float] = []
    if bins == 16 and _is_short(low) and _is_short(high):  # dividing by it is exact too
        for place in places:
            # Both products are exact; edge + rest is their sum (Knuth, TAOCP 2, 4.2.2).
            left, right = low * (bins - place), high * place
            edge = left + right
            part = edge - left
            rest = (left - (edge - part)) + (right - part)
            starts.append((math.nextafter(edge, math.inf) if rest > 0 else edge) / bins)
        return starts
    (first, scale), (last, other) = low.as_integer_ratio(), high.as_integer_ratio()
    common = max(scale, other)  # both are powers of two
    first, last, unit = first * (common // scale), last * (common // other), common * bins
    for place in places:
        edge = first * (bins - place) + last * place
        start = edge / unit  # rounded once
        numerator, denominator = start.as_integer_ratio()
        below = numerator * unit < edge * denominator
        starts.append(math.nextafter(start, math.inf) if below else start)
    return starts


def _is_short(value: float | int) -> bool:
    """Whether 0 or far from both ends of float64, and at most 48 bits long: times 16 is exact."""
    fraction, exponent = math.frexp(value)
    return abs(exponent) < 900 and (fraction * 2.0**48).is_integer()


@lru_cache(maxsize=2)
def _middles(integral: bool) -> np.ndarray:
    """Middle of each bin, (BINS,) float64.

    integral: the bins hold integers: the middle is the middle integer.
    """
    with np.errstate(invalid="ignore"):  # signalling NaNs
        lower = (np.arange(BINS, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    half = BINS // 2
    # Next edge away from zero; beyond the largest finite bin lies 2^128, which float64 holds.
    upper = np.concatenate([lower[1:half], [np.nan], lower[half + 1 :], [np.nan]])
    upper[half - 129], upper[BINS - 129] = 2.0**128, -(2.0**128)
    middle = (lower + upper) / 2
    if integral:
        # Integers in the bin run from the first edge to one before the second.
        whole = np.floor((np.ceil(np.abs(lower)) + np.ceil(np.abs(upper)) - 1) / 2)
        middle = np.copysign(whole, lower)
    # Bin 0 reaches to 2^-133: zero is nearest to what tensors hold there. Infinity stands for all
    # that float32 cannot hold.
    middle[[0, half]] = 0.0
    middle[half - 128], middle[BINS - 128] = np.inf, -np.inf
    return middle
