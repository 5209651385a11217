"""Narrow types: a histogram of the bit patterns of up to 16 bits holds every statistic.

Law: the numbers are those of the values themselves; counts, extremes, mean and quantiles are exact.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wtool.dtypes import DTYPES, DType
from wtool.kernels.exact import ZERO, Exact, add, from_float
from wtool.kernels.moments import EMPTY, Moments, from_centred

# Mantissas are kept in this many bits: the widest magnitude here, 65,535, needs 16.
_MANTISSA_BITS = 17
# Up to so many different codes, adding their terms one by one beats a pass over all exponents.
_FEW_CODES = 512


@dataclass(frozen=True, slots=True)
class CodeTable:
    """What the codes of one type mean, one entry per code where not said otherwise.

    order: codes of finite values, from the lowest value up. nan, inf: codes of these.
    values: float64. mantissas, exponents: int64 with value = mantissa * 2**exponent where finite.
    zero, subnormal: bool. integral: whether minimum and maximum are integers.
    """

    values: np.ndarray
    order: np.ndarray
    nan: np.ndarray
    inf: np.ndarray
    mantissas: np.ndarray
    exponents: np.ndarray
    zero: np.ndarray
    subnormal: np.ndarray
    integral: bool


@dataclass(frozen=True, slots=True)
class CodeCounts:
    """The codes of finite values that occur, from the lowest value up, and how often: (n,) int64.

    nan, inf: how many values are these.
    """

    codes: np.ndarray
    counts: np.ndarray
    nan: int
    inf: int


def is_coded(dtype: DType) -> bool:
    """Whether a histogram of bit patterns measures the type: numbers of at most 16 bits."""
    return dtype.kind in ("float", "int", "uint", "bool") and 0 < dtype.bits <= 16


@lru_cache(maxsize=8)
def code_table(name: str) -> CodeTable:
    """The table of type `name`, a key of `DTYPES`; its codes are the bits of the type's carrier.

    Below 8 bits only the low bits of a code count.
    """
    dtype = DTYPES[name]
    width = dtype.carrier.itemsize
    codes = np.arange(1 << (8 * width), dtype=f"u{width}")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if dtype.kind == "bool":
            values = (codes != 0).astype(np.float64)
        else:
            low_bits = codes & ((1 << dtype.bits) - 1) if dtype.bits < 8 else codes
            values = low_bits.view(dtype.carrier).astype(np.float64)
    plain = np.where(np.isfinite(values), values, 0.0)
    fractions, exponents = np.frexp(plain)
    zero = values == 0
    subnormal = np.zeros(len(codes), bool)
    if dtype.kind == "float":
        subnormal = ~zero & (np.abs(values) < _smallest_normal(dtype))
    order = np.argsort(values, kind="stable")
    return CodeTable(
        values,
        order[np.isfinite(values[order])],
        np.flatnonzero(np.isnan(values)),
        np.flatnonzero(np.isinf(values)),
        (fractions * (1 << _MANTISSA_BITS)).astype(np.int64),
        exponents.astype(np.int64) - _MANTISSA_BITS,
        zero,
        subnormal,
        dtype.kind != "float",
    )


def sort_codes(name: str, codes: np.ndarray, counts: np.ndarray) -> CodeCounts:
    """CodeCounts of type `name` from some codes, (n,), and the count of each, (n,) int64."""
    values = code_table(name).values[codes]
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    nan = int(counts[np.isnan(values)].sum())
    return CodeCounts(codes[order], counts[order], nan, int(counts[np.isinf(values)].sum()))


def measure_codes(name: str, found: CodeCounts) -> Moments:
    """Moments of a tensor of type `name` that holds these codes."""
    table = code_table(name)
    codes, counts = found.codes, found.counts
    if not len(codes):
        return Moments(nan=found.nan, inf=found.inf) if found.nan or found.inf else EMPTY
    values = table.values[codes]
    n = int(counts.sum())
    first = _first_power(table, codes, counts)
    weights = counts.astype(np.float64)
    # bfloat16 reaches 2^127: its fourth power stays inside float64.
    centre = float((weights * values).sum()) / n
    offsets = values - centre
    squares = weights * (offsets * offsets)
    cubes = squares * offsets
    convert = int if table.integral else float
    return from_centred(
        (
            n,
            found.nan,
            found.inf,
            int(counts[table.zero[codes]].sum()),
            int(counts[table.subnormal[codes]].sum()),
        ),
        (convert(values[0] + 0.0), convert(values[-1] + 0.0)),
        first,
        from_float(float((weights * np.abs(values)).sum())),
        from_float(centre),
        (
            from_float(float(squares.sum())),
            from_float(float(cubes.sum())),
            from_float(float((cubes * offsets).sum())),
        ),
    )


def _first_power(table: CodeTable, codes: np.ndarray, counts: np.ndarray) -> Exact:
    """The exact sum of counts * values."""
    if len(codes) <= _FEW_CODES:
        # One rounding: products of a count below 2^36 and a value of at most 17 bits are exact.
        return from_float(math.fsum((counts * table.values[codes]).tolist()))
    exponents = table.exponents[codes]
    terms = counts * table.mantissas[codes]
    # From the lowest value up, equal exponents stand together: twice, below and above zero.
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    sums = np.add.reduceat(terms, starts)
    total = ZERO
    for mantissa, exponent in zip(sums.tolist(), exponents[starts].tolist(), strict=True):
        total = add(total, (mantissa, exponent))
    return total


def _smallest_normal(dtype: DType) -> float:
    if dtype.carrier_name == "float16":
        return float(np.finfo(np.float16).smallest_normal)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.carrier).smallest_normal)
