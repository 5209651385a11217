"""Exact quantiles, compared with NumPy's of the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import QUANTILES, tensor

from wtool.dtypes import DTYPES
from wtool.kernels.selection import select_from_tensors, select_quantiles

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("name", ["float32", "float64", "int32", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("n", [1, 2, 7, 1000, 50_003])
def test_quantiles_of_wide_types_are_numpys(name, n):
    carrier = DTYPES[name].carrier
    if carrier.kind == "f":
        values = (RANDOM.standard_normal(n) * 10.0 ** RANDOM.integers(-30, 30, n)).astype(carrier)
        stored = np.concatenate([values, np.array([np.nan, -np.inf, np.inf], carrier)])
    else:
        low = 0 if carrier.kind == "u" else -(2**31)
        stored = values = RANDOM.integers(low, 2**31 - 1, n).astype(carrier)
    found = select_quantiles(lambda: [stored[: n // 2], stored[n // 2 :]], n, QUANTILES)
    np.testing.assert_array_equal(found, np.quantile(values.astype(np.float64), QUANTILES))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
@settings(max_examples=100, deadline=None)
def test_any_float32_values_give_numpys_quantiles(values):
    array = np.array(values, np.float32)
    found = select_quantiles(lambda: [array], len(array), QUANTILES)
    np.testing.assert_array_equal(found, np.quantile(array.astype(np.float64), QUANTILES))


def test_tensors_of_several_types_give_the_quantiles_of_all_values():
    parts = [RANDOM.standard_normal(999).astype(t) for t in ("f4", "f8", "f2")]
    parts.append(RANDOM.integers(-5, 5, 100))
    names = ("float32", "float64", "float16", "int64")
    tensors = [tensor(part, name) for part, name in zip(parts, names, strict=True)]
    everything = np.concatenate([part.astype(np.float64) for part in parts])
    found = select_from_tensors(tensors, len(everything), QUANTILES)
    np.testing.assert_array_equal(found, np.quantile(everything, QUANTILES))


def test_both_parts_of_complex_numbers_are_ordered_together():
    values = RANDOM.standard_normal(100).astype(np.float32)
    found = select_from_tensors([tensor(values.view("c8"), "complex64")], 100, QUANTILES)
    np.testing.assert_array_equal(found, np.quantile(values.astype(np.float64), QUANTILES))
