"""Composite tensors as torch.save writes them, and calls with arguments that torch never writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wtool.dialects.torch_objects import ObjectReader
from wtool.dialects.torch_storages import StorageTable
from wtool.encodings.pickle_nodes import Call, Dict, Global, Persistent, describe
from wtool.errors import MalformedInput, WtoolError
from wtool.formats import open_checkpoint
from wtool.sources import BytesSource

pytestmark = pytest.mark.filterwarnings("ignore")

DENSE = torch.arange(24.0).reshape(4, 6) * (torch.arange(24).reshape(4, 6) % 3 == 0)


def reopened(value, path, *, zipped=True, **options):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return open_checkpoint(path, **options)


def assert_parts(found, expected: dict[str, torch.Tensor]) -> None:
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype.torch == str(tensor.dtype)[6:]
        np.testing.assert_array_equal(found[name].load(), tensor.numpy(), strict=True)


def coo_parts(tensor):
    return {"w.indices": tensor._indices(), "w.values": tensor._values()}


def compressed_parts(tensor, *names):
    return {f"w.{name}": getattr(tensor, name)() for name in (*names, "values")}


COALESCED = torch.sparse_coo_tensor([[0, 1, 1], [2, 0, 2]], [3.0, 4, 5], (2, 3)).coalesce()
REPEATED = torch.sparse_coo_tensor([[1, 1, 0], [2, 2, 0]], [3.0, 4, 5], (2, 3))
SPARSE = {
    "coo": (COALESCED, coo_parts(COALESCED)),
    "coo not coalesced": (REPEATED, coo_parts(REPEATED)),
    **{
        name: (tensor, compressed_parts(tensor, *names))
        for name, tensor, names in (
            ("csr", DENSE.to_sparse_csr(), ("crow_indices", "col_indices")),
            ("csc", DENSE.to_sparse_csc(), ("ccol_indices", "row_indices")),
            ("bsr", DENSE.to_sparse_bsr((2, 3)), ("crow_indices", "col_indices")),
            ("bsc", DENSE.to_sparse_bsc((2, 3)), ("ccol_indices", "row_indices")),
        )
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_tensors_show_their_components(name, zipped, tmp_path):
    tensor, expected = SPARSE[name]
    found = reopened({"w": tensor}, tmp_path / "x.pt", zipped=zipped)
    assert_parts(found, expected)
    assert [t.role for t in found] == ["other"] * (len(expected) - 1) + [None]
    layout = str(tensor.layout)[6:]
    assert any(f"'w' is a {layout} tensor of shape {tuple(tensor.shape)}" in n for n in found.notes)


def test_a_sparse_parameter_shows_its_components(tmp_path):
    found = reopened({"w": torch.nn.Parameter(COALESCED)}, tmp_path / "x.pt")
    assert_parts(found, coo_parts(COALESCED))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_tensors_quantised_as_a_whole_show_their_integers(dtype, zipped, tmp_path):
    tensor = torch.quantize_per_tensor(torch.randn(3, 4), 0.25, 2, dtype)
    found = reopened({"w": tensor, "t": tensor.t()}, tmp_path / "x.pt", zipped=zipped)
    assert list(found.tensors) == ["w", "t"]
    np.testing.assert_array_equal(found["w"].load(), tensor.int_repr().numpy(), strict=True)
    np.testing.assert_array_equal(found["t"].load(), tensor.int_repr().numpy().T, strict=True)
    assert (found.extras["w.scale"], found.extras["w.zero_point"]) == (0.25, 2)
    assert found.aliases == {"t": "w"}


@pytest.mark.parametrize("axis", [0, 1])
def test_tensors_quantised_by_channel_show_scales_and_zero_points(axis, tmp_path):
    scales = torch.rand(3 + axis, dtype=torch.float64) + 0.1
    zero_points = torch.arange(3 + axis)
    tensor = torch.quantize_per_channel(torch.randn(3, 4), scales, zero_points, axis, torch.qint8)
    found = reopened({"w": tensor}, tmp_path / "x.pt")
    assert list(found.tensors) == ["w", "w.scales", "w.zero_points"]
    np.testing.assert_array_equal(found["w"].load(), tensor.int_repr().numpy(), strict=True)
    np.testing.assert_array_equal(found["w.scales"].load(), scales.numpy(), strict=True)
    np.testing.assert_array_equal(found["w.zero_points"].load(), zero_points.numpy(), strict=True)
    assert found.extras["w.axis"] == axis
    assert [t.role for t in found] == [None, "other", "other"]


@pytest.mark.parametrize(("dtype", "codes"), [(torch.quint4x2, 16), (torch.quint2x4, 4)])
@pytest.mark.parametrize("columns", [4, 5])
def test_four_and_two_bit_tensors_are_unpacked(dtype, codes, columns, tmp_path):
    values = (torch.arange(3 * columns) % codes).reshape(3, columns).float()
    tensor = torch.quantize_per_channel(values, torch.ones(3), torch.zeros(3), 0, dtype)
    found = reopened({"w": tensor}, tmp_path / "x.pt")
    np.testing.assert_array_equal(found["w"].load(), tensor.dequantize().numpy().astype("uint8"))


def test_nested_tensors_show_their_components(tmp_path):
    tensor = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])
    found = reopened({"w": tensor}, tmp_path / "x.pt")
    assert_parts(
        found,
        {
            "w.values": torch.cat([part.reshape(-1) for part in tensor.unbind()]),
            "w.sizes": tensor._nested_tensor_size(),
            "w.strides": tensor._nested_tensor_strides(),
            "w.offsets": tensor._nested_tensor_storage_offsets(),
        },
    )


@pytest.mark.parametrize("wrap", [torch.nn.Parameter, lambda tensor: tensor])
def test_jagged_tensors_show_their_components(wrap, tmp_path):
    tensor = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
    found = reopened({"w": wrap(tensor)}, tmp_path / "x.pt")
    assert_parts(found, {"w.values": tensor.values(), "w.offsets": tensor.offsets()})
    assert found.notes == ("'w' is a jagged tensor of shape (2, ragged, 3)",)


class Wrapper(torch.Tensor):
    """A subclass that holds other tensors and has no data of its own."""

    @staticmethod
    def __new__(cls, *args, dtype=torch.float32, **attributes):
        return torch.Tensor._make_wrapper_subclass(cls, (4, 6), dtype=dtype)

    def __init__(self, *args, dtype=None, **attributes):
        self.__dict__.update(attributes)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


def test_wrappers_show_the_tensors_that_they_hold(tmp_path):
    inner = Wrapper(codes=torch.arange(4, dtype=torch.uint8))
    outer = Wrapper(
        data_=torch.ones(2), inner=inner, tables={"a": [torch.zeros(1)]}, sparse=COALESCED, bits=4
    )
    found = reopened({"w": outer}, tmp_path / "x.pt")
    assert_parts(
        found,
        {
            "w.data_": torch.ones(2),
            "w.inner.codes": torch.arange(4, dtype=torch.uint8),
            "w.tables.a.0": torch.zeros(1),
            "w.sparse.indices": COALESCED._indices(),
            "w.sparse.values": COALESCED._values(),
        },
    )
    assert any("Wrapper of shape (4, 6), float32" in note for note in found.notes)


def test_an_empty_wrapper_is_a_tensor_without_values(tmp_path):
    found = reopened({"w": Wrapper(bits=4), "odd": Wrapper(dtype=torch.uint4)}, tmp_path / "x.pt")
    assert [(t.name, t.shape) for t in found] == [("w", (4, 6)), ("odd", (4, 6))]
    with pytest.raises(WtoolError, match="holds no tensor"):
        found["w"].load()


# Calls as nodes: what a hostile pickle may hold.
DATA = np.arange(64, dtype="<i8").tobytes()


def reader() -> ObjectReader:
    def locate(key, nbytes):
        return BytesSource(DATA, "memory"), 0

    return ObjectReader(StorageTable(locate, scope="test"))


def tensor(*shape, kind="Long", numel=64, offset=0) -> Call:
    storage = Persistent(("storage", Global("torch", f"{kind}Storage"), kind, "cpu", numel))
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    args = (storage, offset, shape, strides, False, Dict())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)


def layout(name) -> Call:
    return Call(Global("torch.serialization", "_get_layout"), (name,))


def call(name, *args) -> Call:
    return Call(Global("torch._utils", name), args)


def sparse(name, *data) -> Call:
    return call("_rebuild_sparse_tensor", layout(name), data)


def quantised(parameters, *, kind="QInt8", size=(2, 3), extra=()) -> Call:
    storage = Persistent(("storage", Global("torch", f"{kind}Storage"), kind, "cpu", 64))
    args = (storage, 0, size, (3, 1), parameters, False, Dict(), *extra)
    return call("_rebuild_qtensor", *args)


def scheme(name) -> Global:
    return Global("torch", name)


def dictionary(**entries) -> Dict:
    result = Dict()
    result.update(entries)
    return result


def wrapper(state, *, size=(2,), args=None) -> Call:
    cls = Global("some", "Wrapper")
    inner = args or (cls, Global("torch", "float32"), size, (1,), 0, None, None, False)
    return Call(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        (Global("torch._utils", "_rebuild_wrapper_subclass"), cls, inner, state),
    )


def jagged(*args) -> Call:
    cls = Global("torch.nested._internal.nested_tensor", "NestedTensor")
    function = Global("torch.nested._internal.nested_tensor", "_rebuild_njt")
    return Call(Global("torch._tensor", "_rebuild_from_type_v2"), (function, cls, args, Dict()))


LONG = tensor(4)
SELF = Dict()
SELF["self"] = SELF
DEEP = Dict()
for _ in range(50):
    DEEP = dictionary(deeper=DEEP)
WIDE = dictionary(many=[None] * 20_000)
TWICE = Dict()
TWICE.update({"a.b": tensor(1), "a": dictionary(b=tensor(1))})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (call("_rebuild_sparse_tensor", layout("torch.sparse_coo")), "arguments of a sparse"),
        (call("_rebuild_sparse_tensor", "coo", ()), "layout of a sparse tensor"),
        (call("_rebuild_sparse_tensor", layout(7), ()), "layout of a sparse tensor"),
        (sparse("torch.sparse_coo", LONG), "data of a sparse tensor"),
        (sparse("torch.sparse_coo", LONG, LONG, 7), "size of a sparse tensor"),
        (sparse("torch.sparse_coo", LONG, 5, (2,)), "expected a tensor"),
        (sparse("torch.sparse_coo", tensor(1, 4), LONG, (2.5,)), "bad dimension"),
        (sparse("torch.sparse_coo", tensor(1, 4), LONG, ("2",)), "bad dimension"),
        (sparse("torch.sparse_coo", tensor(1, 4), tensor(-4), (9,)), ""),
        (sparse("torch.strided", LONG, LONG, (2,)), "unknown sparse tensor"),
        (sparse("torch.sparse_csr", LONG, LONG, (2,)), "sparse_csr with 2 components"),
        (
            sparse(
                "torch.sparse_coo", sparse("torch.sparse_coo", tensor(1, 4), LONG, (9,)), LONG, (9,)
            ),
            "itself made of several",
        ),
        (quantised((scheme("per_tensor_affine"), 0.1)), "quantiser of a tensor"),
        (quantised("per_tensor_affine"), "quantiser of a tensor"),
        (quantised((Global("os", "system"), 0.1, 0)), "quantiser of a tensor"),
        (quantised((scheme("per_tensor_affine"), "x", 0)), "bad scale or zero point"),
        (quantised((scheme("per_tensor_affine"), 0.1, 0), kind="Float"), "of another type"),
        (quantised((scheme("per_tensor_affine"), 0.1, 0), extra=(1,)), "arguments of a quantised"),
        (quantised((scheme("per_tensor_affine"), 0.1, 0), size=(9, 3, 1)), "rank"),
        (quantised((scheme("per_tensor_affine"), 0.1, 0), size=(1 << 40, 3)), "storage too short"),
        (quantised((scheme("per_channel_affine"), tensor(2), tensor(2), 2)), "axis out of range"),
        (quantised((scheme("per_channel_affine"), tensor(2), tensor(2), -1)), "axis out of range"),
        (quantised((scheme("per_channel_affine"), tensor(2), tensor(2))), "axis out of range"),
        (quantised((scheme("per_channel_affine"), tensor(3), tensor(2), 0)), "number of scales"),
        (
            quantised((scheme("per_channel_affine"), tensor(2), tensor(3), 0)),
            "number of zero points",
        ),
        (quantised((scheme("per_channel_affine"), ["x", "y"], tensor(2), 0)), "a list of numbers"),
        (quantised((scheme("per_channel_affine"), [1.0, 2.0], [1 << 70, 0], 0)), "list of numbers"),
        (quantised((scheme("per_channel_symmetric"), tensor(2), tensor(2), 0)), "unknown quant"),
        (call("_rebuild_nested_tensor", LONG, LONG), "arguments of a nested tensor"),
        (call("_rebuild_nested_tensor", LONG, LONG, LONG, LONG), "expected shapes"),
        (jagged(), "arguments of a jagged tensor"),
        (jagged(5), "arguments of a jagged tensor"),
        (jagged(Dict()), "expected a tensor"),
        (jagged(dictionary(values=LONG, offsets=LONG, _ragged_idx=2)), "ragged dimension"),
        (jagged(dictionary(values=LONG, offsets=LONG, lengths=LONG)), "nested offsets"),
        (wrapper(Dict(), args=(1, 2)), "arguments of a wrapper"),
        (wrapper(Dict(), size=5), "arguments of a wrapper"),
        (wrapper(Dict(), size=(-1,)), "bad dimension"),
        (wrapper(DEEP), "too much inside"),
        (wrapper(WIDE), "too much inside"),
        (wrapper(TWICE), "two tensors 'a.b'"),
    ],
)
def test_arguments_that_torch_never_writes_are_one_clear_error(node, message):
    with pytest.raises(MalformedInput, match=message or None) as caught:
        reader().find(node)
    assert "\n" not in str(caught.value)


def test_lists_of_scales_are_read_as_torch_reads_them():
    found = reader().find(quantised((scheme("per_channel_affine"), [0.5, 0.25], [1, -2], 0)))
    parts = found.composite.parts
    assert parts["scales"].read(0, 2).tolist() == [0.5, 0.25]
    assert parts["zero_points"].read(0, 2).tolist() == [1, -2]
    assert (parts["scales"].dtype.name, parts["zero_points"].dtype.name) == ("float64", "int64")
    name = "per_channel_affine_float_qparams"
    found = reader().find(quantised((scheme(name), [0.5, 0.25], [1.5, -2], 0)))
    assert found.composite.parts["zero_points"].read(0, 2).tolist() == [1.5, -2]
    assert found.composite.parts["zero_points"].dtype.name == "float32"


def test_a_wrapper_that_holds_itself_ends():
    node = wrapper(SELF)
    assert reader().find(node).extent.shape == (2,)
    state = Dict()
    node = wrapper(state)
    state["inner"] = node
    with pytest.raises(MalformedInput, match="tensors wrapped in tensors"):
        reader().find(node)


def test_wrappers_that_multiply_are_refused_before_they_do():
    node = tensor(1)
    for _ in range(14):
        node = wrapper(dictionary(a=node, b=node, c=node))
    with pytest.raises(MalformedInput, match="too much inside"):
        reader().find(node)


HUGE = 1 << 40_000


@pytest.mark.parametrize(
    "node",
    [
        quantised((scheme("per_tensor_affine"), 0.1, HUGE)),
        quantised((scheme("per_tensor_affine"), HUGE, 0)),
        quantised((scheme("per_channel_affine"), tensor(2), tensor(2), HUGE)),
        quantised((scheme("per_channel_affine"), [1.0, 2.0], [HUGE, 0], 0)),
        quantised((scheme("per_channel_affine"), [HUGE, 2.0], [0, 0], 0)),
        sparse("torch.sparse_coo", tensor(1, 4), LONG, (HUGE,)),
        jagged(dictionary(values=LONG, offsets=LONG, _ragged_idx=HUGE)),
        wrapper(Dict(), size=(HUGE,)),
    ],
)
def test_numbers_of_thousands_of_digits_are_an_error_that_can_be_printed(node):
    with pytest.raises(WtoolError) as caught:
        reader().find(node)
    assert len(str(caught.value)) < 500


NODE = Call(Global("torch", "device"), ("cpu",))


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (
            quantised((scheme("per_channel_" + "x" * 500), tensor(2), tensor(2), 0)),
            describe("per_channel_" + "x" * 500),
        ),
        (
            quantised((scheme("per_channel_affine"), tensor(2), tensor(2), NODE)),
            "torch.device(...)",
        ),
        (quantised((scheme("per_channel_affine"), tensor(2), tensor(2))), "None"),
        (
            jagged(dictionary(values=LONG, offsets=LONG, _ragged_idx=NODE)),
            "torch.device(...)",
        ),
    ],
)
def test_a_node_in_the_place_of_a_word_or_number_is_described(node, found):
    with pytest.raises(MalformedInput) as caught:
        reader().find(node)
    assert caught.value.found == found


def test_a_key_of_thousands_of_digits_becomes_a_name():
    state = dictionary(table=Dict())
    state["table"][HUGE] = tensor(1)
    assert list(reader().find(wrapper(state)).composite.parts) == ["table.integer of 40001 bits"]
