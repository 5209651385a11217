"""Permuted copies equal NumPy's own, compiled or not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from ml_dtypes import bfloat16

from wtool.kernels import native, transpose
from wtool.kernels.transpose import copy_permuted

SHAPES = [(300, 130), (7, 9, 11, 31), (64, 3, 3, 96), (1, 200, 1, 101), (129, 2, 257)]
TYPES = ["u1", "<u2", "<f4", "<f8", "<c16", bfloat16]


def values(shape, dtype):
    count = int(np.prod(shape))
    raw = np.random.default_rng(count).integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


def check(shape, dtype, total):
    array = values(shape, dtype)
    for order in permutations(range(array.ndim)):
        view = array.transpose(order)
        out = np.full(view.shape, 0, dtype)
        copy_permuted(view, out, total=total)
        expected = np.ascontiguousarray(view)
        assert out.view(np.uint8).tobytes() == expected.view(np.uint8).tobytes(), order


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_permuted_copy_equals_numpys_in_plain_tiles(shape, dtype):
    check(shape, dtype, None)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_permuted_copy_equals_numpys_when_compiled(shape, dtype):
    check(shape, dtype, native.COMPILE_ALWAYS_FROM)
    if np.dtype(dtype).itemsize in (2, 4, 8):
        name = transpose._LOOPS[np.dtype(dtype).itemsize]
        assert transpose._linked(name, native.COMPILE_ALWAYS_FROM) is not None


def test_slices_of_a_matrix_are_copied_from_their_own_places():
    array = values((400, 300), "<f4")
    view = array[17:350, 40:290].T
    out = np.zeros(view.shape, "<f4")
    copy_permuted(view, out, total=native.COMPILE_ALWAYS_FROM)
    assert np.array_equal(out, view, equal_nan=True)


# Rows and columns around a register, a panel and a panel with one more line; with room before them.
SIDES = (1, 15, 16, 17, 31, 33, 47, 49, 64, 80, 81, 200)


@pytest.mark.parametrize("code", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("rows", SIDES)
def test_every_size_at_every_place_in_a_line(code, rows, monkeypatch):
    monkeypatch.setattr(transpose, "SMALL", 0)
    item = np.dtype(code).itemsize
    for columns in SIDES:
        source = values((rows, columns), code)
        for offset in (0, 1, 64 // item - 1):
            room = np.zeros(rows * columns + 2 * 64 // item, code)
            start = -room.ctypes.data % 64 // item + offset
            out = room[start : start + rows * columns].reshape(columns, rows)
            copy_permuted(source.T, out, total=native.COMPILE_ALWAYS_FROM)
            assert np.array_equal(out, source.T), (columns, offset)
            out[:] = 0
            assert not room.any(), "written beside the matrix"


@pytest.mark.parametrize("code", ["<f4", "<c8"])
def test_elements_between_their_places_are_copied_too(code):
    raw = np.zeros(300 * 200 * 8 + 64, np.uint8)
    at = -raw.ctypes.data % 64 + np.dtype(code).itemsize // 2
    size = 300 * 200 * np.dtype(code).itemsize
    odd = raw[at : at + size].view(code).reshape(300, 200)
    source = values((200, 300), code)
    copy_permuted(source.T, odd, total=native.COMPILE_ALWAYS_FROM)
    assert odd.tobytes() == np.ascontiguousarray(source.T).tobytes()
    back = np.zeros((200, 300), code)
    copy_permuted(odd.T, back, total=native.COMPILE_ALWAYS_FROM)
    assert back.tobytes() == source.tobytes()
