"""Rows of `wtool stats`: numbers of one tensor or one group, and the lines that close the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wtool.checkpoint import Tensor
from wtool.errors import counted
from wtool.report import Bins, Column, human_bytes

if TYPE_CHECKING:
    import numpy as np

    from wtool.kernels.measure import Measured
    from wtool.kernels.moments import Moments
    from wtool.kernels.quantiles import Counted

# Bins of the histogram of one row, of equal width from its min to its max.
BINS = 16
QUANTILE_NAMES = ("p01", "p05", "p25", "p50", "p75", "p95", "p99")
STATISTICS = (
    *("mean", "std", "min", "max", "abs_max", "l1", "l2", "zeros", "sparsity", "nan", "inf"),
    *("subnormal", "kurtosis", *QUANTILE_NAMES, "histogram"),
)
_SHOWN = frozenset(("mean", "std", "min", "p50", "max", "sparsity", "histogram"))
_SHOWN_IF_ANY = ("nan", "inf")
_UNITS = {"count": "elements", "histogram": "values per bin from min to max"} | dict.fromkeys(
    ("zeros", "nan", "inf", "subnormal"), "values"
)
# What deserves a look, the worst first: the end of a sentence on one tensor, on several.
_FINDINGS = (
    ("holds NaN", "hold NaN"),
    ("holds an infinity", "hold infinities"),
    ("holds a negative variance", "hold negative variances"),
    ("holds a zero", "hold a zero"),
    ("is constant", "are constant"),
)
# A footer line names so many tensors, then counts the rest.
_NAMED = 3


class Group:
    """What has been measured so far of one group of tensors."""

    # Counted values wait until there are so many parts, then become one.
    _WAITING = 16

    def __init__(self) -> None:
        from wtool.kernels.moments import EMPTY

        self.tensors: list[Tensor] = []
        self.count = 0
        self.moments: Moments = EMPTY
        self._parts: list[Counted] = []

    def add(self, tensor: Tensor, measured: Measured | None, *, counted: bool = True) -> None:
        """One more tensor; None where it holds no numbers. counted: keep its counted values too."""
        from wtool.kernels.moments import merge
        from wtool.kernels.quantiles import merge_counted

        self.tensors.append(tensor)
        self.count += tensor.count
        if measured is None:
            return
        self.moments = merge(self.moments, measured.moments)
        if counted and measured.values is not None:
            self._parts.append(measured.values)
            if len(self._parts) >= self._WAITING:
                self._parts = [merge_counted(self._parts)]

    @property
    def values(self) -> Counted | None:
        """All counted values, None where none were asked for."""
        from wtool.kernels.quantiles import merge_counted

        return merge_counted(self._parts) if self._parts else None


def statistics(
    moments: Moments, values: Counted | None, ordered: np.ndarray | None = None
) -> dict[str, Any]:
    """The columns STATISTICS of what was measured; a quantile is None where counts do not tell it.

    ordered: all finite values, where known; asked in place of `values`, which are counted.
    """
    from wtool.kernels.moments import summary
    from wtool.kernels.quantiles import QUANTILES, are_known, bins_of, quantiles_of
    from wtool.kernels.selection import bins_of_ordered, quantiles_of_ordered

    row = summary(moments)
    if not moments.finite:
        return row
    low, high = row["min"], row["max"]
    wanted = tuple(QUANTILES.values())
    answers: list[float | None]
    if ordered is not None:
        answers = [*quantiles_of_ordered(ordered, wanted)]
        bins = bins_of_ordered(ordered, low, high, BINS)
    elif values is not None:
        known = are_known(values, row["zeros"], wanted)
        found = quantiles_of(values, low, high, wanted)
        answers = [answer if sure else None for answer, sure in zip(found, known, strict=True)]
        bins = bins_of(values, low, high, BINS)
    else:
        return row
    row.update(zip(QUANTILES, answers, strict=True))
    row["histogram"] = Bins(bins)
    return row


def is_coarse(low: float | int, high: float | int) -> tuple[bool, bool]:
    """Whether values of wide types between `low` and `high` want better (quantiles, bins).

    What is counted is the upper half of a value as a float32. It says little where all is beyond
    the normal numbers of float32, and puts values into wrong bins where its steps, up to 2^-8 of
    the largest value, are more than half a bin.
    """
    largest = max(abs(low), abs(high))
    if low == high:
        return False, False
    if largest >= 2.0**128 or largest < 2.0**-110:
        return True, True
    return False, high / BINS - low / BINS < 2 * largest / 2**8


def columns(
    rows: Sequence[Mapping[str, Any]], *leading: Column, sort: str | None = None
) -> list[Column]:
    """The columns of the report; NaN and infinities show in tables only where there are any.

    sort: the column that rows are sorted by; it shows in tables.
    """
    shown = {name for name in _SHOWN_IF_ANY if any(row.get(name) for row in rows)}
    shown |= _SHOWN | {sort or ""}
    return [
        *leading,
        Column("count", _UNITS["count"]),
        *(Column(name, _UNITS.get(name, ""), hidden=name not in shown) for name in STATISTICS),
    ]


def totals(whole: Group, nbytes: int) -> dict[str, int]:
    """Numbers of the whole model that add up over models."""
    moments = whole.moments
    return {
        "tensors": len(whole.tensors),
        "count": whole.count,
        "nbytes": nbytes,
        "zeros": moments.zeros,
        "nan": moments.nan,
        "inf": moments.inf,
        "subnormal": moments.subnormal,
    }


def footer(
    whole: Group, nbytes: int, name_count: int, seen: Iterable[tuple[str, Iterable[int]]]
) -> list[str]:
    """What was measured, then what deserves a look, one line each.

    name_count: of the tensors of `whole`; tied ones have several. seen: name and `findings` of each
    tensor.
    """
    found: list[list[str]] = [[] for _ in _FINDINGS]
    for name, places in seen:
        for place in places:
            found[place].append(name)
    tensors, elements = counted(len(whole.tensors), "tensor"), counted(whole.count, "element")
    under = f" under {name_count:,} names" if name_count > len(whole.tensors) else ""
    lines = [f"{tensors}{under}, {elements}, {human_bytes(nbytes)}"]
    for (one, many), names in zip(_FINDINGS, found, strict=True):
        if not names:
            continue
        if len(names) == 1:
            lines.append(f"{names[0]} {one}")
            continue
        rest = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        lines.append(f"{len(names):,} tensors {many}: {', '.join(names[:_NAMED])}{rest}")
    return lines


def findings(tensor: Tensor, moments: Moments) -> Iterable[int]:
    """What deserves a look in one tensor, as places in _FINDINGS."""
    if moments.nan:
        yield 0
    if moments.inf:
        yield 1
    low, high = moments.minimum, moments.maximum
    if low is None or high is None:
        return
    if re.split(r"[./]", tensor.name)[-1] in ("running_var", "moving_variance"):
        if low < 0:
            yield 2
        elif moments.zeros:
            yield 3
    if tensor.role == "weight" and tensor.kind != "norm" and moments.finite > 1 and low == high:
        yield 4
