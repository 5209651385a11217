"""What the statistics of some values are, computed plainly: float64 NumPy and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from wtool.checkpoint import Tensor
from wtool.dtypes import DTYPES
from wtool.extents import Strided
from wtool.sources import BytesSource

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def tensor(values: np.ndarray, dtype: str, **layout: Any) -> Tensor:
    """A tensor over the bytes of `values`, or over another layout of them."""
    data = np.ascontiguousarray(values).tobytes()
    shape = layout.pop("shape", values.shape)
    source = BytesSource(data, "memory")
    return Tensor("t", "t", Strided(source, 0, len(data), DTYPES[dtype], shape, **layout))


def reference(values: np.ndarray, tiny: float = 0.0) -> dict[str, Any]:
    """Every statistic of `values`; sums are taken over whole numbers."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    if flat.dtype.kind in "iu" or flat.dtype.name in ("int4", "uint4", "int2", "uint2"):
        wide: list[Any] = [int(v) for v in flat]
        finite, nan, inf = wide, 0, 0
    else:
        floats = flat.astype(np.float64)
        finite = floats[np.isfinite(floats)].tolist()
        nan, inf = int(np.isnan(floats).sum()), int(np.isinf(floats).sum())
    answer = {
        "nan": nan,
        "inf": inf,
        "zeros": sum(v == 0 for v in finite),
        "subnormal": sum(0 < abs(v) < tiny for v in finite),
    }
    if not finite:
        return answer
    n = len(finite)
    ratios = [v.as_integer_ratio() for v in finite]
    unit = max(denominator for _, denominator in ratios)
    whole = [numerator * (unit // denominator) for numerator, denominator in ratios]
    # n times the distance from the mean, in units: whole numbers, so that nothing is rounded.
    total = sum(whole)
    apart = [n * v - total for v in whole]
    squares = sum(v * v for v in apart)
    fourth = sum(v * v * v * v for v in apart)
    answer |= {
        "mean": float(Fraction(total, unit * n)),
        "std": root(Fraction(squares, n * (n * unit) ** 2)),
        "min": min(finite),
        "max": max(finite),
        "abs_max": max(map(abs, finite)),
        "l1": float_of(Fraction(sum(map(abs, whole)), unit)),
        "l2": root(Fraction(sum(v * v for v in whole), unit * unit)),
        "kurtosis": float(Fraction(fourth * n, squares * squares)) if squares else None,
        "sparsity": answer["zeros"] / n,
        "quantiles": quantiles(finite, "linear"),
        "neighbours": (quantiles(finite, "lower"), quantiles(finite, "higher")),
    }
    return answer


def quantiles(values: list[Any], method: Any) -> np.ndarray:
    """NumPy's quantiles of `values`; halves keep the largest floats from overflowing."""
    return np.quantile(np.array(values, np.float64) / 2, QUANTILES, method=method) * 2


def float_of(value: Fraction) -> float:
    """The nearest float, infinite beyond them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def root(value: Fraction) -> float:
    """Square root of a fraction, infinite beyond the floats."""
    # The smallest float is 2**-1074: 1200 binary places leave enough of its square root's square.
    scaled = math.isqrt(value.numerator * 4**1200 // value.denominator)
    return float_of(Fraction(scaled, 2**1200))


def smallest_normal(dtype: str) -> float:
    """The smallest normal number of a float type, 0 for others."""
    if DTYPES[dtype].kind != "float":
        return 0.0
    return float(ml_dtypes.finfo(DTYPES[dtype].carrier).smallest_normal)


def same(found: dict[str, Any], expected: dict[str, Any], rel: float = 1e-12) -> None:
    """Assert that every statistic is as expected: counts and extremes exactly, sums in `rel`."""
    for name in ("nan", "inf", "zeros", "subnormal", "min", "max", "abs_max", "sparsity"):
        assert found[name] == expected.get(name), name
        assert type(found[name]) is type(expected.get(name)), name
    for name in ("mean", "std", "l1", "l2", "kurtosis"):
        if expected.get(name) is None:
            assert found[name] is None, name
        else:
            assert math.isclose(found[name], expected[name], rel_tol=rel), (
                name,
                found[name],
                expected[name],
            )
