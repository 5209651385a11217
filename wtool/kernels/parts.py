"""What a piece of a tensor gave, the sum of pieces, and the finished measure of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from wtool.dtypes import DType
from wtool.kernels.blocks import BINS, BLOCK
from wtool.kernels.codes import is_coded, measure_codes, sort_codes
from wtool.kernels.exact import ratio
from wtool.kernels.exact_sums import sum_exactly
from wtool.kernels.moments import EMPTY, Moments, merge
from wtool.kernels.quantiles import Counted, count_bins

# A sum smaller than this part of the sum of magnitudes is taken once more, exactly: blocks add up
# in float64, right to about 2^-53 of the latter. Freshly drawn weights stay above 2^-20.
CANCELLATION = 2.0**-30


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


@dataclass(frozen=True, slots=True)
class Measured:
    """One tensor's moments and, where asked for, its counted values.

    ordered: all finite values, rising, of a tensor of few whose counted values are not exact.
    """

    moments: Moments
    values: Counted | None
    ordered: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What a piece gave: moments (of wide types), and how often which codes were found, rising.

    ordered: see Measured.
    """

    moments: Moments
    codes: np.ndarray
    counts: np.ndarray
    ordered: np.ndarray | None = None

    @property
    def numbers(self) -> int:
        """How many numbers it keeps in memory."""
        few = 0 if self.ordered is None else len(self.ordered)
        return 2 * len(self.codes) + few


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
    counted = count_bins(part.codes, part.counts, integral=integral)
    return Measured(moments, counted, part.ordered)


def _cancels(moments: Moments) -> bool:
    """Whether values cancel so far that the rounding of float64 would be seen in their sum."""
    if not moments.absolute[0]:
        return False
    return abs(ratio(moments.powers[0], moments.absolute)) < CANCELLATION


def block_bytes(tensor: Values) -> int:
    """Bytes of a block of BLOCK elements in memory."""
    return BLOCK * tensor.dtype.carrier.itemsize
