"""Layout operations against NumPy, lazily and back again."""

from __future__ import annotations

import numpy as np
import pytest

from wtool.conversion.derived import same_bits
from wtool.conversion.operation_text import parse_operations
from wtool.conversion.operations import apply_all, invert_all
from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput, UnsupportedError
from wtool.extents import Strided
from wtool.sources import BytesSource


def extent(array: np.ndarray) -> Strided:
    data = array.tobytes()
    return Strided(BytesSource(data, "t"), 0, len(data), DTYPES[str(array.dtype)], array.shape)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


X = numbers(6, 4, 3, 2)
M = numbers(12, 5)
CASES = [
    (["transpose"], [M], [M.T]),
    (["permute 2 3 1 0"], [X], [X.transpose(2, 3, 1, 0)]),
    (["permute ... 1 0"], [X], [X.transpose(2, 3, 1, 0)]),
    (["permute ... 0 1"], [X], [X.transpose(2, 3, 0, 1)]),
    (["unflatten 0 3 -1"], [M], [M.reshape(3, 4, 5)]),
    (["flatten 1 2 of 4 3"], [X], [X.reshape(6, 12, 2)]),
    (["reshape -1 to 1 1 -1"], [numbers(7)], [numbers(7).reshape(1, 1, 7)]),
    (["vector 1 -1 1"], [numbers(7)], [numbers(7).reshape(1, 7, 1)]),
    (["split 0 3"], [M], list(np.split(M, 3))),
    (["split 0 2:1"], [M], [M[:8], M[8:]]),
    (["concat 1 2"], [M, M + 1], [np.concatenate([M, M + 1], 1)]),
    (["stack 0 2"], [M, M + 1], [np.stack([M, M + 1])]),
    (["stack 2 2"], [M, M + 1], [np.stack([M, M + 1], 2)]),
    (["unstack 1 4"], [X], [X[:, i] for i in range(4)]),
    (["gates 0 1 0 2"], [M], [np.concatenate([M[4:8], M[:4], M[8:]])]),
    (["gates 0 2 0 1", "transpose"], [M], [np.concatenate([M[8:], M[:4], M[4:8]]).T]),
    (
        ["unflatten 1 2 3 2", "permute 2 3 1 0", "flatten 0 2"],
        [numbers(5, 12)],
        [numbers(5, 12).reshape(5, 2, 3, 2).transpose(2, 3, 1, 0).reshape(12, 5)],
    ),
    (
        ["join-cell 3 1", "transpose"],
        [numbers(12, 7), numbers(12, 4, seed=1)],
        [np.concatenate([numbers(12, 7), numbers(12, 4, seed=1)], 1).T],
    ),
]


@pytest.mark.parametrize(("texts", "inputs", "expected"), CASES, ids=[str(c[0]) for c in CASES])
def test_an_operation_equals_numpy_and_its_inverse_gives_the_bits_back(texts, inputs, expected):
    operations = parse_operations(texts, {})
    sources = tuple(extent(array) for array in inputs)
    outputs = apply_all(operations, sources)
    assert len(outputs) == len(expected)
    for found, wanted in zip(outputs, expected, strict=True):
        assert found.shape == wanted.shape
        flat = np.ascontiguousarray(wanted).reshape(-1)
        assert np.array_equal(found.read(0, found.count), flat)
        assert np.array_equal(found.read(3, found.count - 2), flat[3:-2])
        assert np.array_equal(np.concatenate([b.copy() for b in found.blocks(64)]), flat)
        starts = [n // 2 for n in found.shape]
        box = np.empty([n - s for n, s in zip(found.shape, starts, strict=True)], "float32")
        found.read_box(starts, found.shape, box)
        assert np.array_equal(box, wanted[tuple(slice(s, None) for s in starts)])
    inverse = invert_all(operations)
    assert inverse is not None
    back = apply_all(inverse, outputs)
    assert len(back) == len(sources)
    assert all(map(same_bits, back, sources))


def test_summed_biases_come_back_as_the_sum_and_zeros():
    one, two = numbers(8), numbers(8, seed=1)
    one[0], two[0] = -0.0, 0.0
    (summed,) = apply_all(parse_operations(["sum"], {}), (extent(one), extent(two)))
    assert np.array_equal(summed.read(0, 8), one + two)
    # -0.0 + 0.0 would be 0.0: a bias that went one way and back keeps its sign.
    assert np.signbit(summed.read(0, 1))[0]
    inverse = invert_all(parse_operations(["sum"], {}))
    again, zeros = apply_all(inverse, (summed,))
    assert same_bits(again, summed)
    assert not zeros.read(0, 8).any()


def test_weight_norm_folds_as_torch_does():
    import torch

    v, g = torch.randn(6, 4, 3), torch.rand(6, 1, 1)
    (folded,) = apply_all(
        parse_operations(["fold-weight-norm"], {}), (extent(g.numpy()), extent(v.numpy()))
    )
    expected = torch._weight_norm(v, g, 0).numpy()
    assert np.allclose(folded.read(0, 72).reshape(6, 4, 3), expected, rtol=1e-6)
    assert invert_all(parse_operations(["fold-weight-norm"], {})) is None


@pytest.mark.parametrize(
    ("texts", "shapes"),
    [
        (["transpose"], [(2, 3, 4)]),
        (["permute 0 1"], [(2,)]),
        (["unflatten 0 5 -1"], [(12, 5)]),
        (["unflatten 0 5 2"], [(12, 5)]),
        (["flatten 0 1 of 3 3"], [(12, 5)]),
        (["reshape 2 -1 to -1 2"], [(3, 4)]),
        (["vector 2 3"], [(6,)]),
        (["split 0 5"], [(12, 5)]),
        (["concat 0 2"], [(12, 5)]),
        (["concat 0 2"], [(12, 5), (12, 4)]),
        (["concat 0 2"], [(12, 5), (11, 5)]),
        (["stack 0 2"], [(2, 3), (3, 2)]),
        (["sum"], [(3,), (4,)]),
        (["shift 0 4 1.0"], [(6,)]),
        (["join-cell 4 1"], [(8, 3), (8, 3)]),
    ],
    ids=str,
)
def test_a_tensor_of_another_form_is_refused_never_reshaped_to_fit(texts, shapes):
    inputs = tuple(extent(numbers(*shape)) for shape in shapes)
    with pytest.raises(UnsupportedError):
        apply_all(parse_operations(texts, {}), inputs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate 1", "no operation 'rotate 1'"),
        ("permute 0 0", "cannot read"),
        ("permute 0 2", "cannot read"),
        ("unflatten 0 heads -1", "uses 'heads', which is no number and no constant"),
        ("unflatten 0 -1 -1", "cannot read"),
        ("reshape 2 3 to 5", "cannot read"),
        ("gates 0 1 1", "cannot read"),
        ("split 0 0", "cannot read"),
        ("split 0 99999999999", "cannot read"),
        ("shift 4 4 1", "cannot read"),
    ],
)
def test_an_operation_that_cannot_be_meant_is_refused_when_it_is_read(text, message):
    with pytest.raises(MalformedInput) as caught:
        parse_operations([text], {})
    assert message in str(caught.value)


def test_a_flatten_whose_sizes_nothing_tells_has_no_inverse():
    assert invert_all(parse_operations(["flatten 0 2"], {})) is None


def test_constants_give_one_number_or_several():
    texts = ["unflatten 1 chw", "unflatten 0 -1 heads"]
    operations = parse_operations(texts, {"chw": [2, 3], "heads": 2})
    (found,) = apply_all(operations, (extent(numbers(4, 6)),))
    assert found.shape == (2, 2, 2, 3)
