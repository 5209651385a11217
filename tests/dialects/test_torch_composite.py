"""Composite tensors against torch: components, the rules between them, and what breaks them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wtool.dialects.torch_composite import jagged, nested, quantised, sparse
from wtool.dtypes import BY_TORCH, DTYPES
from wtool.errors import MalformedInput, UnsupportedError
from wtool.extents import Absent, Strided
from wtool.sources import BytesSource


def extent(tensor: torch.Tensor) -> Strided:
    """The bytes of a torch tensor, strides and all, as wtool's own view of them."""
    data = bytes(tensor.untyped_storage())
    dtype = BY_TORCH[str(tensor.dtype).removeprefix("torch.")]
    return Strided(
        BytesSource(data, "memory"),
        0,
        len(data),
        dtype,
        tuple(tensor.shape),
        first=tensor.storage_offset(),
        strides=tensor.stride(),
    )


def values_of(composite) -> dict[str, np.ndarray]:
    return {
        name: part.read(0, part.count).reshape(part.shape) for name, part in composite.parts.items()
    }


def assert_same(composite, expected: dict[str, torch.Tensor]) -> None:
    found = values_of(composite)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert composite.parts[name].dtype.torch == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)


def ints(*rows, dtype=torch.int64) -> Strided:
    return extent(torch.tensor(rows, dtype=dtype))


def floats(*shape) -> Strided:
    return extent(torch.arange(float(np.prod(shape))).reshape(shape))


DENSE = torch.arange(24.0).reshape(4, 6) * (torch.arange(24).reshape(4, 6) % 3 == 0)


@pytest.mark.parametrize("coalesced", [True, False])
@pytest.mark.parametrize("dense_dims", [0, 1])
def test_coo_components_are_torchs(coalesced, dense_dims):
    tensor = torch.stack([DENSE, 2 * DENSE], dim=2).to_sparse(3 - dense_dims)
    if not coalesced:
        tensor = torch.sparse_coo_tensor(
            tensor._indices().flip(1), tensor._values(), tensor.shape, is_coalesced=False
        )
    expected = {"indices": tensor._indices(), "values": tensor._values()}
    found = sparse(
        "sparse_coo", [extent(t) for t in expected.values()], tensor.shape, coalesced=coalesced
    )
    assert_same(found, expected)
    assert found.values == ("values",)
    assert found.summary == (
        f"sparse_coo tensor of shape (4, 6, 2), {tensor._values().numel()} stored values, "
        + ("coalesced" if coalesced else "not known to be coalesced")
    )


def compressed_components(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    names = {
        torch.sparse_csr: ("crow_indices", "col_indices"),
        torch.sparse_bsr: ("crow_indices", "col_indices"),
        torch.sparse_csc: ("ccol_indices", "row_indices"),
        torch.sparse_bsc: ("ccol_indices", "row_indices"),
    }[tensor.layout]
    return {name: getattr(tensor, name)() for name in (*names, "values")}


@pytest.mark.parametrize(
    "tensor",
    [
        DENSE.to_sparse_csr(),
        DENSE.to_sparse_csc(),
        DENSE.to_sparse_bsr((2, 3)),
        DENSE.to_sparse_bsc((2, 3)),
        torch.stack([DENSE, DENSE]).to_sparse_csr(),
        torch.stack([DENSE, DENSE]).to_sparse_bsc((2, 3)),
        torch.stack([DENSE, DENSE], dim=2).to_sparse_csr(dense_dim=1),
        torch.zeros(0, 3).to_sparse_csr(),
        torch.zeros(3, 0).to_sparse_csc(),
    ],
    ids=[
        "csr",
        "csc",
        "bsr",
        "bsc",
        "csr batch",
        "bsc batch",
        "csr dense",
        "no rows",
        "no columns",
    ],
)
def test_compressed_components_are_torchs(tensor):
    layout = str(tensor.layout).removeprefix("torch.")
    expected = compressed_components(tensor)
    parts = [extent(t) for t in expected.values()]
    assert_same(sparse(layout, parts, tensor.shape, coalesced=False), expected)


def test_long_index_lists_are_proven_across_blocks(monkeypatch):
    monkeypatch.setattr("wtool.dialects.torch_sparse.BLOCK_ELEMENTS", 3)
    dense = (torch.rand(9, 11, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    for tensor in (dense.to_sparse_csr(), dense.to_sparse_csc()):
        layout = str(tensor.layout).removeprefix("torch.")
        expected = compressed_components(tensor)
        parts = [extent(t) for t in expected.values()]
        assert_same(sparse(layout, parts, tensor.shape, coalesced=False), expected)
        swapped = expected[list(expected)[1]].clone()
        for place in range(len(swapped) - 1):
            # Two neighbours that stand in one line are put in the wrong order: found in any block.
            if swapped[place] < swapped[place + 1]:
                wrong = swapped.clone()
                wrong[place], wrong[place + 1] = swapped[place + 1], swapped[place]
                broken = sparse(
                    layout, [parts[0], extent(wrong), parts[2]], dense.shape, coalesced=False
                )
                with pytest.raises(MalformedInput, match="ascending"):
                    values_of(broken)
    coo = dense.to_sparse()
    parts = [extent(coo._indices()), extent(coo._values())]
    assert_same(
        sparse("sparse_coo", parts, coo.shape, coalesced=True),
        {"indices": coo._indices(), "values": coo._values()},
    )
    for place in range(coo._nnz() - 1):
        order = list(range(coo._nnz()))
        order[place], order[place + 1] = order[place + 1], order[place]
        wrong = extent(coo._indices()[:, order].contiguous())
        with pytest.raises(MalformedInput, match="not in order"):
            values_of(sparse("sparse_coo", [wrong, parts[1]], coo.shape, coalesced=True))


@pytest.mark.parametrize(
    ("indices", "values", "shape", "message"),
    [
        (ints(0, 1), floats(2), (3,), "bad sparse indices: expected 2 dimensions of int64"),
        (ints([0], dtype=torch.int32), floats(1), (3,), "2 dimensions of int64, found 2 of int32"),
        (ints([0, 1]), floats(3), (3,), r"bad sparse values: expected shape \(2,\), found \(3,\)"),
        (ints([0, 1]), floats(2), (3, 4), r"bad sparse values: expected shape \(2, 4\)"),
        (ints([0], [1], [0]), floats(1), (3, 4), "at most 2 rows, found 3"),
        (ints([0, 1]), floats(2), (-3,), "bad dimension"),
        (ints([0, 1]), floats(2), (True,), "bad dimension"),
        (extent(torch.zeros(1, 1, dtype=torch.int64).expand(1, 9)), floats(9), (3,), "stored once"),
    ],
)
def test_coo_parts_that_do_not_fit_are_errors_at_once(indices, values, shape, message):
    with pytest.raises(MalformedInput, match=message):
        sparse("sparse_coo", [indices, values], shape, coalesced=False)


@pytest.mark.parametrize(
    ("indices", "coalesced", "message"),
    [
        (ints([0, 3]), False, "sparse indices out of range: expected 0 to 2, found 3"),
        (ints([0, -1]), False, "sparse indices out of range: expected 0 to 2, found -1"),
        (ints([0, 1 << 62]), False, "found 4611686018427387904"),
        (ints([2, 1]), True, "not in order"),
        (ints([1, 1]), True, "not in order"),
    ],
)
def test_coo_indices_are_proven_when_first_read(indices, coalesced, message):
    found = sparse("sparse_coo", [indices, floats(2)], (3,), coalesced=coalesced)
    assert found.parts["values"].read(0, 2).tolist() == [0, 1]
    for ask in (
        lambda part: part.read(0, 1),
        lambda part: list(part.blocks(8)),
        lambda part: part.raw_span(),
        lambda part: part.read_box((0, 0), (1, 1), np.empty((1, 1), "int64")),
    ):
        with pytest.raises(MalformedInput, match=message):
            ask(found.parts["indices"])


def test_a_scalar_sparse_tensor_claims_no_endless_work():
    no_rows = Strided(BytesSource(b"", "m"), 0, 0, DTYPES["int64"], (0, 1 << 40))
    value = Strided(BytesSource(bytes(4), "m"), 0, 4, DTYPES["float32"], (1 << 40,), strides=(0,))
    part = sparse("sparse_coo", [no_rows, value], (), coalesced=False).parts["indices"]
    assert part.read(0, 0).shape == (0,)


CSR = (ints(0, 1, 2), ints(0, 1), floats(2), (2, 3))


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, ints(0, 1), r"bad crow_indices: expected shape \(3,\), found \(2,\)"),
        (0, ints(0, 1, 2, dtype=torch.int16), "two times int32 or int64, found int16"),
        (1, ints(0, 1, dtype=torch.int32), "two times int32 or int64, found int32"),
        (1, extent(torch.tensor(1)), "at least 1 dimension"),
        (1, ints(0, 1, 2), r"bad sparse values: expected shape \(3,\), found \(2,\)"),
        (2, floats(2, 1), r"bad sparse values: expected shape \(2,\), found \(2, 1\)"),
        (3, (2,), "2 dimensions or more"),
        (3, (2, -3), "bad dimension"),
    ],
)
def test_csr_parts_that_do_not_fit_are_errors_at_once(place, wrong, message):
    parts = [*CSR]
    parts[place] = wrong
    with pytest.raises(MalformedInput, match=message):
        sparse("sparse_csr", parts[:3], parts[3], coalesced=False)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, ints(1, 1, 2), "line starts: expected 0 at first, found 1"),
        (0, ints(0, 1, 1), "line starts: expected 2 at last, found 1"),
        (0, ints(0, 3, 2), "line starts out of range: expected 0 to 2, found 3"),
        (0, ints(0, -1, 2), "line starts out of range"),
        (1, ints(0, 3), "indices out of range: expected 0 to 2, found 3"),
        (1, ints(0, -1), "indices out of range: expected 0 to 2, found -1"),
    ],
)
def test_csr_indices_are_proven_when_first_read(place, wrong, message):
    parts = [*CSR[:3]]
    parts[place] = wrong
    found = sparse("sparse_csr", parts, (2, 3), coalesced=False)
    for name in ("crow_indices", "col_indices"):
        with pytest.raises(MalformedInput, match=message):
            found.parts[name].read(0, 1)


def test_lines_that_descend_or_are_too_long_are_errors():
    def csr(starts, columns, shape):
        parts = [ints(*starts), ints(*columns), floats(len(columns))]
        return values_of(sparse("sparse_csr", parts, shape, coalesced=False))

    assert csr([0, 2, 3], [0, 2, 1], (2, 3))
    with pytest.raises(MalformedInput, match="line starts descend"):
        csr([0, 2, 1, 3], [0, 1, 2], (3, 3))
    with pytest.raises(MalformedInput, match="too long: expected at most 2"):
        csr([0, 3], [0, 1, 1], (1, 2))
    with pytest.raises(MalformedInput, match="not in ascending order"):
        csr([0, 2, 3], [1, 1, 1], (2, 3))


@pytest.mark.parametrize(
    ("block", "shape", "message"),
    [((2, 2), (4, 3), "a divisor of"), ((0, 2), (4, 4), "a divisor of"), ((2,), (4, 4), "shape")],
)
def test_blocks_that_do_not_tile_are_errors(block, shape, message):
    values = extent(torch.zeros(1, *block))
    with pytest.raises(MalformedInput, match=message):
        sparse("sparse_bsr", [ints(0, 1, 1), ints(0), values], shape, coalesced=False)


def test_unknown_layouts_are_errors():
    with pytest.raises(MalformedInput, match="unknown sparse tensor"):
        sparse("sparse_xyz", [*CSR[:3]], (2, 3), coalesced=False)
    with pytest.raises(MalformedInput, match="sparse_csr with 2 components"):
        sparse("sparse_csr", [*CSR[:2]], (2, 3), coalesced=False)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_integers_of_a_quantised_tensor_are_shown_as_stored(dtype):
    tensor = torch.quantize_per_tensor(torch.randn(5, 3), 0.1, 3, dtype)
    found = quantised(extent(tensor), "per_tensor_affine", 0.1, 3, None)
    assert list(found.parts) == [""]
    np.testing.assert_array_equal(values_of(found)[""], tensor.int_repr().numpy(), strict=True)
    assert found.extras == {"scale": 0.1, "zero_point": 3}
    assert found.summary == (
        f"quantised tensor of shape (5, 3), {str(dtype)[6:]}, scale 0.1, zero point 3; "
        "integers are shown as stored"
    )


@pytest.mark.parametrize(("dtype", "codes"), [(torch.quint4x2, 16), (torch.quint2x4, 4)])
@pytest.mark.parametrize("shape", [(3, 4), (3, 5), (2, 3)])
def test_packed_quantised_integers_are_unpacked(dtype, codes, shape):
    scales, zero_points = torch.ones(shape[0]), torch.zeros(shape[0])
    values = (torch.arange(shape[0] * shape[1]) % codes).reshape(shape).float()
    tensor = torch.quantize_per_channel(values, scales, zero_points, 0, dtype)
    found = quantised(extent(tensor), "per_channel_affine", extent(scales), extent(zero_points), 0)
    shown = values_of(found)
    np.testing.assert_array_equal(shown[""].astype("float32"), tensor.dequantize().numpy())
    np.testing.assert_array_equal(shown["scales"], scales.numpy())
    np.testing.assert_array_equal(shown["zero_points"], zero_points.numpy())
    assert found.extras == {"axis": 0}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

Q = extent(torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((floats(2), "per_tensor_affine", 0.1, 0, None), "of another type"),
        ((Q, "per_tensor_affine", "0.1", 0, None), "bad scale or zero point.*str and int"),
        ((Q, "per_tensor_affine", 0.1, 0.5, None), "bad scale or zero point"),
        ((Q, "per_tensor_symmetric", 0.1, 0, None), "unknown quantisation"),
        ((Q, "per_channel_affine", floats(2), ints(0, 0), 2), "axis out of range: expected 0 to 1"),
        ((Q, "per_channel_affine", floats(2), ints(0, 0), -1), "axis out of range"),
        ((Q, "per_channel_affine", floats(2), ints(0, 0), True), "axis out of range"),
        (
            (Q, "per_channel_affine", floats(3), ints(0, 0), 0),
            "number of scales: expected 2, found 3",
        ),
        ((Q, "per_channel_affine", floats(2), ints(0), 0), "number of zero points: expected 2"),
        ((Q, "per_channel_affine", 0.1, ints(0), 0), "one for each channel"),
    ],
)
def test_quantiser_parameters_that_do_not_fit_are_errors(arguments, message):
    with pytest.raises(MalformedInput, match=message):
        quantised(*arguments)


def test_nested_components_are_torchs():
    tensor = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3), torch.randn(0, 3)])
    expected = {
        "values": torch.cat([t.reshape(-1) for t in tensor.unbind()]),
        "sizes": tensor._nested_tensor_size(),
        "strides": tensor._nested_tensor_strides(),
        "offsets": tensor._nested_tensor_storage_offsets(),
    }
    found = nested(*[extent(t) for t in expected.values()])
    assert_same(found, expected)
    assert found.summary == "nested tensor of 3 tensors with 2 dimensions each"


@pytest.mark.parametrize(
    ("sizes", "strides", "offsets"),
    [
        ([[2, 3], [4, 4]], [[3, 1], [4, 1]], [0, 6]),  # past the end
        ([[2, 3], [1, 1]], [[3, 1], [1, 1]], [0, 18]),
        ([[2, 3], [1, 1]], [[3, 1], [1, 1]], [0, -1]),
        ([[2, 3], [-1, 1]], [[3, 1], [1, 1]], [0, 0]),
        ([[2, 3], [1, 1]], [[-3, 1], [1, 1]], [0, 0]),
        ([[1 << 62, 3], [1, 1]], [[1 << 62, 1], [1, 1]], [0, 0]),  # wraps in int64
    ],
)
def test_nested_views_outside_the_values_are_errors_when_read(sizes, strides, offsets):
    found = nested(floats(18), ints(*sizes), ints(*strides), ints(*offsets))
    assert found.parts["values"].read(0, 1).tolist() == [0]
    for name in ("sizes", "strides", "offsets"):
        with pytest.raises(MalformedInput, match="nested"):
            found.parts[name].read(0, 1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((floats(2, 2), ints([1]), ints([1]), ints(0)), "1 dimension each"),
        ((floats(2), ints([1]), ints([1, 1]), ints(0)), "expected shapes"),
        ((floats(2), ints([1]), ints([1]), ints(0, 1)), "expected shapes"),
        (
            (floats(2), ints([1], dtype=torch.int32), ints([1]), ints(0)),
            "nested sizes: expected int64",
        ),
    ],
)
def test_nested_parts_that_do_not_fit_are_errors_at_once(parts, message):
    with pytest.raises(MalformedInput, match=message):
        nested(*parts)


def test_endless_bookkeeping_of_a_nested_tensor_is_refused():
    endless = extent(torch.zeros(1, 1, dtype=torch.int64).expand(1 << 23, 1))
    with pytest.raises(UnsupportedError, match="very many sizes"):
        nested(floats(1), endless, endless, extent(torch.zeros(1, dtype=torch.int64)))


def test_jagged_components_are_torchs():
    tensor = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
    expected = {"values": tensor.values(), "offsets": tensor.offsets()}
    found = jagged(extent(tensor.values()), extent(tensor.offsets()), None, 1)
    assert_same(found, expected)
    assert found.summary == "jagged tensor of shape (2, ragged, 3)"
    narrow = torch.nested.narrow(
        torch.randn(3, 5, 2), 1, torch.tensor([0, 1, 2]), torch.tensor([2, 3, 1]), torch.jagged
    )
    expected = {"values": narrow._values, "offsets": narrow._offsets, "lengths": narrow._lengths}
    assert_same(jagged(*[extent(t) for t in expected.values()], 1), expected)


@pytest.mark.parametrize(
    ("offsets", "lengths", "message"),
    [
        (ints(0, 7), None, "offsets out of range: expected 0 to 6"),
        (ints(-1, 6), None, "offsets out of range"),
        (ints(0, 4, 2), None, "offsets descend"),
        (ints(0, 4, 6), ints(1, 3), "lengths out of range"),
        (ints(0, 4, 6), ints(1, -1), "lengths out of range"),
    ],
)
def test_jagged_pieces_outside_the_values_are_errors_when_read(offsets, lengths, message):
    found = jagged(floats(6, 3), offsets, lengths, 1)
    for name in list(found.parts)[1:]:
        with pytest.raises(MalformedInput, match=message):
            found.parts[name].read(0, 1)


@pytest.mark.parametrize(
    ("offsets", "lengths", "axis", "message"),
    [
        (ints([0]), None, 1, "1 dimension of int32 or int64, found 2 of int64"),
        (floats(2), None, 1, "found 1 of float32"),
        (ints(0, 6), ints(1, 2), 1, "one more than lengths"),
        (extent(torch.zeros(0, dtype=torch.int64)), None, 1, "1 or more"),
        (ints(0, 6), None, 3, "ragged dimension out of range"),
        (ints(0, 6), None, 0, "ragged dimension out of range"),
        (ints(0, 6), None, "1", "ragged dimension out of range"),
    ],
)
def test_jagged_parts_that_do_not_fit_are_errors_at_once(offsets, lengths, axis, message):
    with pytest.raises(MalformedInput, match=message):
        jagged(floats(6, 3), offsets, lengths, axis)


def test_components_without_values_stay_without_values():
    absent = Absent(DTYPES["int64"], (1, 2), "meta")
    found = sparse("sparse_coo", [absent, floats(2)], (3,), coalesced=True)
    assert found.parts["indices"] is absent
