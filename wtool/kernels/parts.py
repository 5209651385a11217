"""What a piece of a tensor gave, the sum of pieces, and the finished measure of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from wtool.dtypes import DType
from wtool.kernels.blocks import BINS, BLOCK, upper_codes
from wtool.kernels.codes import count_each, is_coded, measure_codes, sort_codes
from wtool.kernels.exact import ratio
from wtool.kernels.exact_sums import sum_exactly
from wtool.kernels.moments import EMPTY, Moments, merge
from wtool.kernels.quantiles import Counted, count_bins

# A sum smaller than this part of the sum of magnitudes is taken once more, exactly: blocks add up
# in float64, right to about 2^-53 of the latter. Freshly drawn weights stay above 2^-20.
CANCELLATION = 2.0**-30
# Numbers that take as much memory as the moments and the other objects of a part.
_OVERHEAD = 256


class Values(Protocol):
    """What is measured: a wtool Tensor, or anything that reads like one."""

    name: str
    extent: Any

    @property
    def dtype(self) -> DType: ...

    @property
    def count(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def blocks(self, max_bytes: int = ...) -> Iterator[np.ndarray]: ...


def _nothing() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Measured:
    """One tensor's moments and, where asked for, its counted values.

    counted: those of a tensor of many. ordered: all finite values of one of few of a wide type,
    rising; they are counted when asked for.
    """

    moments: Moments
    counted: Counted | None
    ordered: np.ndarray | None = None

    @cached_property
    def values(self) -> Counted | None:
        """The counted values."""
        if self.ordered is None:
            return self.counted
        codes = np.sort(upper_codes(self.ordered))
        integral = self.ordered.dtype.kind in "iu"
        return count_bins(*count_each(codes, np.ones(len(codes), np.int64)), integral=integral)


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece gave: moments (of wide types), and how often which codes were found, rising.

    ordered: see Measured; its values are not counted.
    """

    moments: Moments
    codes: np.ndarray = field(default_factory=_nothing)
    counts: np.ndarray = field(default_factory=_nothing)
    ordered: np.ndarray | None = None

    @property
    def numbers(self) -> int:
        """How much it keeps in memory, as so many numbers."""
        few = 0 if self.ordered is None else len(self.ordered)
        return _OVERHEAD + 2 * len(self.codes) + few


class Sum:
    """The parts of one tensor that have come so far."""

    def __init__(self) -> None:
        self._moments = EMPTY
        self._counts = np.zeros(BINS, np.int64)

    def add(self, part: Part) -> None:
        """One more part."""
        self._moments = merge(self._moments, part.moments)
        self._counts[part.codes] += part.counts

    def total(self) -> Part:
        """All parts as one."""
        codes = np.flatnonzero(self._counts)
        return Part(self._moments, codes, self._counts[codes])


def finish(tensor: Values, part: Part, quantiles: bool) -> Measured:
    """The whole tensor from the sum of its parts."""
    dtype = tensor.dtype
    if is_coded(dtype):
        found = sort_codes(dtype.name, part.codes, part.counts)
        return Measured(
            measure_codes(dtype.name, found),
            Counted(found.values, found.counts, True) if quantiles else None,
        )
    moments = part.moments
    if dtype.kind in ("float", "complex") and _cancels(moments):
        exact = sum_exactly(tensor.blocks(block_bytes(tensor)))
        moments = replace(moments, powers=(exact, *moments.powers[1:]))
    if not quantiles:
        return Measured(moments, None)
    integral = dtype.kind in ("int", "uint")
    if part.ordered is not None:
        return Measured(moments, None, part.ordered)
    return Measured(moments, count_bins(part.codes, part.counts, integral=integral))


def _cancels(moments: Moments) -> bool:
    """Whether values cancel so far that the rounding of float64 would be seen in their sum."""
    if not moments.absolute[0]:
        return False
    return abs(ratio(moments.powers[0], moments.absolute)) < CANCELLATION


def block_bytes(tensor: Values) -> int:
    """Bytes of a block of BLOCK elements in memory."""
    return BLOCK * tensor.dtype.carrier.itemsize
