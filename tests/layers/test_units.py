"""Output units: norms, dead and repeated ones, along any axis and in any block."""

from __future__ import annotations

import numpy as np
import pytest

from wtool.checkpoint import Tensor
from wtool.dtypes import DTYPES
from wtool.extents import Strided
from wtool.layers import units as module
from wtool.layers.units import measure_units
from wtool.sources import BytesSource

RANDOM = np.random.default_rng(5)


def tensor(values: np.ndarray) -> Tensor:
    data = values.tobytes()
    extent = Strided(
        BytesSource(data, "memory"), 0, len(data), DTYPES[values.dtype.name], values.shape
    )
    return Tensor("w", "w", extent)


@pytest.mark.parametrize("block", [1, 7, 40, 1 << 18])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_units_along_any_axis_are_those_of_numpy(axis, block, dtype, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    values = (RANDOM.standard_normal((6, 5, 7, 8)) * 9).astype(dtype)
    view = np.moveaxis(values, axis, 0)
    view[1] = 0
    view[3] = view[0]
    view[4] = view[0]
    found = measure_units(tensor(values), (axis,))
    rows = view.reshape(len(view), -1).astype(np.float64)
    np.testing.assert_allclose(found.norms, np.linalg.norm(rows, axis=1), rtol=1e-13)
    assert (found.dead, found.duplicate, found.constant) == (1, 2, False)


@pytest.mark.parametrize("block", [1, 7, 40, 1 << 18])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2, 3), (1, 2, 3)])
def test_units_along_several_axes_are_those_of_numpy(axes, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    values = RANDOM.standard_normal((6, 5, 7, 8)).astype(np.float32)
    rows = np.moveaxis(values, axes, range(len(axes)))
    view = rows.reshape(-1, *rows.shape[len(axes) :])
    view[1] = 0
    view[3] = view[9]
    values = np.ascontiguousarray(np.moveaxis(view.reshape(rows.shape), range(len(axes)), axes))
    found = measure_units(tensor(values), axes)
    flat = view.reshape(len(view), -1).astype(np.float64)
    np.testing.assert_allclose(found.norms, np.linalg.norm(flat, axis=1), rtol=1e-13)
    assert (found.dead, found.duplicate) == (1, 1)


def test_units_with_the_same_values_in_another_order_are_no_duplicates():
    values = np.array([[1, 2, 3], [3, 2, 1], [1, 2, 3], [2, 1, 3]], np.float32)
    assert measure_units(tensor(values), (0,)).duplicate == 1


def test_equal_fingerprints_alone_do_not_make_a_duplicate(monkeypatch):
    monkeypatch.setattr(module, "_multipliers", lambda places: np.zeros(places.shape, np.uint64))
    values = np.array([[1, 2], [3, 4], [1, 2]], np.float32)
    assert measure_units(tensor(values), (0,)).duplicate == 1


def test_negative_zero_is_zero_and_nan_repeats_nan():
    values = np.array([[0.0, -0.0], [1.0, -0.0], [1.0, 0.0], [np.nan, 1], [np.nan, 1]], np.float32)
    found = measure_units(tensor(values), (0,))
    assert (found.dead, found.duplicate) == (1, 2)
    assert found.norms.tolist() == [0, 1, 1, 1, 1]


def test_a_tensor_of_one_value_is_constant():
    assert measure_units(tensor(np.full((3, 4), 2.5, np.float32)), (0,)).constant
