"""What the values of a tensor, or of any group of tensors, add up to: counts, extremes, power sums.

Law: merging is exact, so a result depends neither on the order nor on the number of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wtool.kernels.exact import ZERO, Exact, add, ratio, root_of_ratio, scale, times


@dataclass(frozen=True, slots=True)
class Moments:
    """Counts, extremes and exact sums of powers over the finite values.

    finite: number of finite values; nan, inf: of the others. zeros counts -0.0 too.
    minimum, maximum: int for integer types, else float; None where nothing is finite.
    powers: sums of x, x^2, x^3, x^4. absolute: sum of |x|.
    """

    finite: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    subnormal: int = 0
    minimum: float | int | None = None
    maximum: float | int | None = None
    powers: tuple[Exact, Exact, Exact, Exact] = (ZERO, ZERO, ZERO, ZERO)
    absolute: Exact = ZERO


EMPTY = Moments()


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both together."""
    if b is EMPTY:
        return a
    if a is EMPTY:
        return b
    first, second, third, fourth = map(add, a.powers, b.powers)
    return Moments(
        a.finite + b.finite,
        a.nan + b.nan,
        a.inf + b.inf,
        a.zeros + b.zeros,
        a.subnormal + b.subnormal,
        _extreme(min, a.minimum, b.minimum),
        _extreme(max, a.maximum, b.maximum),
        (first, second, third, fourth),
        add(a.absolute, b.absolute),
    )


def from_centred(
    counts: tuple[int, int, int, int, int],
    extremes: tuple[float | int, float | int],
    first: Exact,
    absolute: Exact,
    centre: Exact,
    central: tuple[Exact, Exact, Exact],
) -> Moments:
    """Moments of one block from its sums about a centre.

    counts: finite (at least 1), nan, inf, zeros, subnormal. extremes: minimum, maximum.
    first, absolute: sums of x and |x|. central: sums of (x - centre)^2, ^3 and ^4.
    """
    n = counts[0]
    square, cube, fourth = central
    c1 = centre
    c2 = times(c1, c1)
    c3 = times(c2, c1)
    rest = add(first, scale(c1, -n))  # the sum of x - c
    second = add(add(square, scale(times(c1, rest), 2)), scale(c2, n))
    third = add(
        add(cube, scale(times(c1, square), 3)), add(scale(times(c2, rest), 3), scale(c3, n))
    )
    last = add(add(fourth, scale(times(c1, cube), 4)), scale(times(c2, square), 6))
    last = add(last, add(scale(times(c3, rest), 4), scale(times(c3, c1), n)))
    return Moments(*counts, *extremes, (first, second, third, last), absolute)


def summary(moments: Moments) -> dict[str, Any]:
    """The statistics as numbers under their column names; None where no finite value defines one.

    mean, std (population), min, max, abs_max, l1, l2, zeros, sparsity (zeros / finite), nan, inf,
    subnormal, kurtosis (fourth central moment / variance^2: 3 for a normal distribution; None where
    all are equal).
    """
    n = moments.finite
    counts = {"zeros": moments.zeros, "nan": moments.nan, "inf": moments.inf}
    low, high = moments.minimum, moments.maximum
    if low is None or high is None:
        keys = ("mean", "std", "min", "max", "abs_max", "l1", "l2", "sparsity", "kurtosis")
        return {**dict.fromkeys(keys), **counts, "subnormal": moments.subnormal}
    count = (n, 0)
    s1, s2, s3, s4 = moments.powers
    m = n * n
    # n^2 variance, and n^4 times the fourth central moment, both as exact numbers.
    spread = add(scale(s2, n), scale(times(s1, s1), -1))
    s1s1 = times(s1, s1)
    fourth = add(
        add(scale(s4, n * m), scale(times(s1, s3), -4 * m)),
        add(scale(times(s1s1, s2), 6 * n), scale(times(s1s1, s1s1), -3)),
    )
    flat = spread[0] <= 0 or moments.minimum == moments.maximum
    return {
        "mean": ratio(s1, count),
        "std": 0.0 if flat else root_of_ratio(spread, (m, 0)),
        "min": moments.minimum,
        "max": moments.maximum,
        "abs_max": max(abs(low), abs(high)),
        "l1": ratio(moments.absolute, (1, 0)),
        "l2": root_of_ratio(s2, (1, 0)),
        "sparsity": moments.zeros / n,
        "kurtosis": None if flat else ratio(fourth, times(spread, spread)),
        **counts,
        "subnormal": moments.subnormal,
    }


def _extreme(choose: Any, a: float | int | None, b: float | int | None) -> float | int | None:
    if a is None:
        return b
    return a if b is None else choose(a, b)
