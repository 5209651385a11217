"""Exact numbers: integers times powers of two, so that sums merge without rounding, in any order.

A finite float is such a number; sums and products of them stay such numbers. One `Exact` is a pair
(mantissa, exponent) that stands for mantissa * 2**exponent. Only the last step, to a float, rounds.
"""

from __future__ import annotations

import math

Exact = tuple[int, int]
ZERO: Exact = (0, 0)
# Bits kept under a square root: the 53 of the result, and so many more that it is rounded once.
_ROOT_BITS = 140


def from_float(value: float, exponent: int = 0) -> Exact:
    """value * 2**exponent, exactly; ValueError or OverflowError where `value` is not finite."""
    numerator, denominator = value.as_integer_ratio()
    return numerator, exponent - denominator.bit_length() + 1


def add(a: Exact, b: Exact) -> Exact:
    """a + b."""
    if not a[0]:
        return b
    if not b[0]:
        return a
    if a[1] >= b[1]:
        return (a[0] << (a[1] - b[1])) + b[0], b[1]
    return a[0] + (b[0] << (b[1] - a[1])), a[1]


def times(a: Exact, b: Exact) -> Exact:
    """a * b."""
    return a[0] * b[0], a[1] + b[1]


def scale(a: Exact, factor: int) -> Exact:
    """factor * a."""
    return a[0] * factor, a[1]


def ratio(a: Exact, b: Exact) -> float:
    """a / b, rounded once; infinite where it is too large for a float."""
    shift = a[1] - b[1]
    try:
        return (a[0] << shift) / b[0] if shift >= 0 else a[0] / (b[0] << -shift)
    except OverflowError:
        return math.inf if a[0] > 0 else -math.inf


def root_of_ratio(a: Exact, b: Exact) -> float:
    """Square root of a / b >= 0, right to the last bit or next to it; no overflow on the way."""
    if a[0] <= 0:
        return 0.0
    # a / b = quotient * 2**shift with an even shift and enough bits in the quotient.
    shift = a[0].bit_length() - b[0].bit_length() - 2 * _ROOT_BITS
    shift += (shift + a[1] - b[1]) % 2
    quotient = (a[0] << -shift) // b[0] if shift <= 0 else a[0] // (b[0] << shift)
    return ratio((math.isqrt(quotient), (shift + a[1] - b[1]) // 2), (1, 0))
