"""Differences of blocks against plain float64 NumPy, and against exact integers."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wtool.kernels.compare import Difference, compare, merge

FLOATS = arrays(np.float32, 20, elements=st.floats(-1e6, 1e6, width=32))


@given(FLOATS, FLOATS)
@settings(deadline=None, max_examples=100)
def test_numbers_equal_those_of_numpy(a, b):
    got = compare(a, b)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    step = np.abs(wide_b - wide_a)
    assert (got.count, got.changed, got.broken) == (20, int((a != b).sum()), 0)
    assert got.max_abs == step.max()
    assert got.square == pytest.approx(float((step**2).sum()), rel=1e-12)
    norm = np.linalg.norm(wide_a)
    if norm:
        assert got.relative_l2 == pytest.approx(np.linalg.norm(step) / norm, rel=1e-12)
    if norm and np.linalg.norm(wide_b):
        cosine = wide_a @ wide_b / norm / np.linalg.norm(wide_b)
        assert got.cosine == pytest.approx(cosine, abs=1e-12)


@given(FLOATS, FLOATS, st.integers(0, 20))
@settings(deadline=None, max_examples=50)
def test_merging_two_parts_gives_the_whole(a, b, cut):
    whole, parts = compare(a, b), merge(compare(a[:cut], b[:cut]), compare(a[cut:], b[cut:]))
    exact = ("count", "changed", "broken", "max_abs", "max_rel", "worst")
    assert [getattr(parts, name) for name in exact] == [getattr(whole, name) for name in exact]
    assert parts.square == pytest.approx(whole.square, rel=1e-12)


def test_nan_equals_nan_and_differs_from_numbers():
    nan, inf = math.nan, math.inf
    a = np.array([nan, nan, 1, inf, inf, 2], np.float32)
    b = np.array([nan, 1, nan, inf, -inf, 2.5], np.float32)
    got = compare(a, b)
    assert (got.changed, got.broken, got.max_abs, got.worst) == (4, 3, 0.5, 5)


def test_neighbouring_large_integers_differ_exactly():
    a = np.array([2**53, 2**63 - 2], np.int64)
    got = compare(a, a + 1)
    assert (got.changed, got.max_abs) == (2, 1.0)
    assert compare(np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64)).changed == 1


def test_types_are_compared_by_value():
    a = np.array([1, 1.5, 257], np.float32)
    got = compare(a, a.astype(ml_dtypes.bfloat16))
    assert (got.changed, got.max_abs, got.worst) == (1, 1.0, 2)
    assert compare(a, a.astype(np.float64)).changed == 0
    assert compare(np.array([True, False]), np.array([1, 0], np.uint8)).changed == 0


def test_complex_numbers_change_as_one_element():
    a = np.array([1 + 1j, 2 + 2j], np.complex64)
    got = compare(a, a + np.array([0, 3 + 4j], np.complex64))
    assert (got.count, got.changed, got.worst) == (2, 1, 1)
    assert math.sqrt(got.square) == pytest.approx(5)


def test_signed_zeros_are_equal_and_zero_to_something_is_infinitely_relative():
    assert compare(np.array([0.0]), np.array([-0.0])).changed == 0
    got = compare(np.array([0.0]), np.array([1e-30]))
    assert (got.max_rel, got.relative_l2, got.cosine) == (math.inf, math.inf, None)


def test_strings_are_the_same_or_not():
    a = np.array([b"a", b"b"], object)
    assert compare(a, a).changed == 0
    assert compare(a, np.array([b"a", b"c"], object)).changed == 1


def test_nothing_is_compared_in_an_empty_block():
    empty = np.empty(0, np.float32)
    assert compare(empty, empty.astype(np.float64)) == Difference()
