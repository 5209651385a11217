"""Exact numbers: what leaves them is rounded once, and what no float holds is infinite."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from wtool.kernels.exact import add, from_float, ratio, root_of_ratio, times

LARGE, TINY = from_float(1.7e308), from_float(5e-324)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ratio_beyond_every_float_is_infinite(sign):
    fourth = times(times(LARGE, LARGE), times(LARGE, (sign * LARGE[0], LARGE[1])))
    assert ratio(fourth, TINY) == sign * math.inf
    assert ratio(fourth, times(TINY, TINY)) == sign * math.inf


def test_ratios_are_those_of_fractions():
    values = [1.0, -0.1, 3e-310, 1.7e308, 2.0**-1074, 12345.678]
    for a in values:
        for b in filter(lambda value: value > 0, values):
            total = add(from_float(a), from_float(b))
            exact = (Fraction(a) + Fraction(b)) / Fraction(b)
            try:
                expected = float(exact)
            except OverflowError:
                expected = math.inf if exact > 0 else -math.inf
            assert ratio(total, from_float(b)) == expected


def test_a_root_of_numbers_whose_square_is_no_float_is_right():
    assert root_of_ratio(times(LARGE, LARGE), from_float(1.0)) == 1.7e308
