"""Narrow types: a histogram of the bit patterns of up to 16 bits holds every statistic.

Law: the numbers are those of the values themselves; counts, extremes, mean and quantiles are exact.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wtool.dtypes import DTYPES, DType
from wtool.kernels.exact import ZERO, Exact, add, from_float
from wtool.kernels.moments import EMPTY, Moments, from_centred

# Finite values of all but two types are multiples of 2^-24 below 2^16; those of bfloat16 and
# float8_e8m0fnu have mantissas of at most so many bits.
_FIXED_BITS = 24
_LARGEST_FIXED = 2.0**16
_MANTISSA_BITS = 8
# Bits of the lower part of a fixed-point value; the upper part is no longer.
_LOWER_BITS = 20


@dataclass(frozen=True, slots=True)
class CodeTable:
    """What the codes of one type mean.

    values: (codes,) float64. tiny: the smallest normal value, 0 where all are normal. integral:
    whether minimum and maximum are integers. fixed: whether finite values are multiples of
    2^-_FIXED_BITS below _LARGEST_FIXED.
    """

    values: np.ndarray
    tiny: float
    integral: bool
    fixed: bool


@dataclass(frozen=True, slots=True)
class CodeCounts:
    """The finite values that occur, rising, (n,) float64, and how often, (n,) int64.

    nan, inf: how many values are these.
    """

    values: np.ndarray
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
    finite = values[np.isfinite(values)]
    steps = finite * 2.0**_FIXED_BITS
    fixed = bool(np.abs(finite).max() < _LARGEST_FIXED and (steps == np.rint(steps)).all())
    is_float = dtype.kind == "float"
    return CodeTable(values, _smallest_normal(dtype) if is_float else 0.0, not is_float, fixed)


def sort_codes(name: str, codes: np.ndarray, counts: np.ndarray) -> CodeCounts:
    """CodeCounts of type `name` from codes, (n,), rising, and the count of each, (n,) int64."""
    values = code_table(name).values[codes]
    kind, bits = DTYPES[name].kind, DTYPES[name].bits
    if bits == 16 and kind != "uint":
        # Codes with a sign stand behind the others; those of floats fall in value.
        first = int(np.searchsorted(codes, 1 << 15))
        turn = slice(None, None, -1) if kind == "float" else slice(None)
        values = np.concatenate([values[first:][turn], values[:first]])
        counts = np.concatenate([counts[first:][turn], counts[:first]])
    else:
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
    nan = inf = 0
    finite = np.isfinite(values)
    if not finite.all():
        nan, inf = int(counts[np.isnan(values)].sum()), int(counts[np.isinf(values)].sum())
        values, counts = values[finite], counts[finite]
    return CodeCounts(*count_each(values, counts), nan, inf)


def count_each(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of (n,) rising values once, and the sum of its counts, (n,) int64."""
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    if not new.all():
        starts = np.flatnonzero(new)
        values, counts = values[starts], np.add.reduceat(counts, starts)
    return values, counts


def measure_codes(name: str, found: CodeCounts) -> Moments:
    """Moments of a tensor of type `name` that holds these codes."""
    table = code_table(name)
    values, counts = found.values, found.counts
    if not len(values):
        return Moments(nan=found.nan, inf=found.inf) if found.nan or found.inf else EMPTY
    n = int(counts.sum())
    first = _first_power(table, values, counts)
    weights = counts.astype(np.float64)
    # bfloat16 reaches 2^127: its fourth power stays inside float64.
    terms = weights * values
    centre = float(terms.sum()) / n
    absolute = float(np.abs(terms, out=terms).sum())
    offsets = values - centre
    powers = np.multiply(offsets, offsets, out=terms)
    powers *= weights
    sums = [float(powers.sum())]
    for _ in range(2):
        powers *= offsets
        sums.append(float(powers.sum()))
    square, cube, fourth = map(from_float, sums)
    convert = int if table.integral else float
    # Zero stands once; those closer to it than `tiny` are around it.
    zero, behind = np.searchsorted(values, [0.0, np.nextafter(0.0, 1.0)]).tolist()
    low, high = np.searchsorted(values, [np.nextafter(-table.tiny, 0.0), table.tiny]).tolist()
    zeros = int(counts[zero:behind].sum())
    subnormal = int(counts[low:high].sum()) - zeros if table.tiny else 0
    return from_centred(
        (n, found.nan, found.inf, zeros, subnormal),
        (convert(values[0] + 0.0), convert(values[-1] + 0.0)),
        first,
        from_float(absolute),
        from_float(centre),
        (square, cube, fourth),
    )


def _first_power(table: CodeTable, values: np.ndarray, counts: np.ndarray) -> Exact:
    """The exact sum of counts * values."""
    if table.fixed:
        whole = (values * 2.0**_FIXED_BITS).astype(np.int64)
        upper = whole >> _LOWER_BITS
        whole &= (1 << _LOWER_BITS) - 1
        return (int(upper.dot(counts)) << _LOWER_BITS) + int(whole.dot(counts)), -_FIXED_BITS
    fractions, exponents = np.frexp(values)
    terms = counts * (fractions * (1 << _MANTISSA_BITS)).astype(np.int64)
    # From the lowest value up, equal exponents stand together: twice, below and above zero.
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    sums = np.add.reduceat(terms, starts)
    total = ZERO
    for mantissa, exponent in zip(sums.tolist(), exponents[starts].tolist(), strict=True):
        total = add(total, (mantissa, exponent - _MANTISSA_BITS))
    return total


def _smallest_normal(dtype: DType) -> float:
    if dtype.carrier_name == "float16":
        return float(np.finfo(np.float16).smallest_normal)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.carrier).smallest_normal)
