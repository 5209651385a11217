"""The safetensors writer against the reference library: the same bytes, or a clear refusal."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.serialization import load_torch_model, save_torch_state_dict
from safetensors.torch import load_file, save_file
from writer_models import codes_of, decoded, model, strided, views

from wtool.dtypes import BY_SAFETENSORS, DTYPES
from wtool.errors import LossError, UnsupportedError
from wtool.writers import plan, save
from wtool.writers.safetensors import DTYPE_ORDER

TORCH_TYPES = {
    name: dtype
    for name, dtype in BY_SAFETENSORS.items()
    if dtype.torch and hasattr(torch, dtype.torch) and dtype.bits >= 8
}


def torch_bits(array: np.ndarray, dtype) -> torch.Tensor:
    """The torch tensor of the same bits."""
    raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())
    kind = getattr(torch, dtype.torch)
    return (
        raw.view(kind).reshape(array.shape) if array.size else torch.empty(array.shape, dtype=kind)
    )


def every_type() -> dict[str, np.ndarray]:
    names = {}
    for i, (name, dtype) in enumerate(TORCH_TYPES.items()):
        names[f"t{i}"] = codes_of(dtype, 24).reshape(2, 3, 4)
        names[f'é{name}\n"\x01\x7f\u2028'] = codes_of(dtype, 5)
    return names


def test_every_type_gives_the_bytes_of_the_reference_writer(tmp_path):
    arrays = every_type() | {"scalar": np.float32(3), "empty": np.zeros((0, 3), np.float64)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    by_array = {}
    for array_name, array in arrays.items():
        for dtype in TORCH_TYPES.values():
            if dtype.carrier == array.dtype:
                by_array[array_name] = dtype
    save(model([strided(n, a, by_array[n]) for n, a in arrays.items()]), tmp_path / "a.safetensors")
    reference = {name: torch_bits(array, by_array[name]) for name, array in arrays.items()}
    save_file(reference, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"é\t": '\x1f"\\'}])
def test_metadata_gives_the_bytes_of_the_reference_writer(tmp_path, metadata):
    save(model({"a": np.arange(3.0)}, metadata=metadata), tmp_path / "a.safetensors")
    save_file(
        {"a": torch.arange(3.0, dtype=torch.float64)}, tmp_path / "b.safetensors", metadata or None
    )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_metadata_is_sorted_whatever_its_order(tmp_path):
    save(model({}, metadata={"b": "1", "a": "2"}), tmp_path / "a.safetensors")
    save(model({}, metadata={"a": "2", "b": "1"}), tmp_path / "b.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "b.safetensors").read_bytes()
    assert data == struct.pack("<Q", 40) + b'{"__metadata__":{"a":"2","b":"1"}}      '


def test_a_model_without_tensors_gives_the_bytes_of_the_reference_writer(tmp_path):
    save(model({}), tmp_path / "a.safetensors")
    save_file({}, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_packed_types_come_back_from_the_reference_reader(tmp_path):
    for name in ("F4", "F6_E2M3", "F6_E3M2"):
        dtype = BY_SAFETENSORS[name]
        values = codes_of(dtype, 24).reshape(2, 12)
        for number, tensor in enumerate([strided("x", values, dtype), decoded("x", values, dtype)]):
            path = tmp_path / f"{name}{number}.safetensors"
            save(model([tensor]), path)
            ((_, found),) = safetensors.deserialize(path.read_bytes())
            assert (found["dtype"], found["shape"]) == (name, [2, 12])
            bits = "".join(format(byte, "08b")[::-1] for byte in bytes(found["data"]))
            codes = [
                int(bits[i : i + dtype.bits][::-1], 2) for i in range(0, len(bits), dtype.bits)
            ]
            assert codes == values.reshape(-1).view(np.uint8).tolist()


def test_transposed_sliced_swapped_and_computed_values_are_written_in_c_order(tmp_path):
    base = np.arange(24, dtype=np.float32)
    swapped = base.astype(">f4").view(np.uint8).copy()
    tensors = [
        views("transposed", base.copy(), (6, 4), strides=(1, 6)),
        views("sliced", base.copy(), (4, 3), first=1, strides=(6, 2)),
        views("reversed", base.copy(), (24,), first=23, strides=(-1,)),
        views("expanded", base.copy(), (2, 24), strides=(0, 1)),
        strided("swapped", swapped.view(np.float32), big_endian=True),
        decoded("computed", base.reshape(2, 12)),
        strided("flags", np.array([0, 1, 7], np.uint8).view(bool), DTYPES["bool"]),
    ]
    save(model(tensors), tmp_path / "a.safetensors")
    t = torch.arange(24.0)
    expected = {
        "transposed": t.reshape(4, 6).t(),
        "sliced": t.reshape(4, 6)[:, 1::2],
        "reversed": t.flip(0),
        "expanded": t.expand(2, 24),
        "swapped": t,
        "computed": t.reshape(2, 12),
        "flags": torch.tensor([False, True, True]),
    }
    save_file({n: v.contiguous().clone() for n, v in expected.items()}, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_conjugated_and_negated_views_are_written_with_their_values(tmp_path):
    base = np.array([1 + 2j, 3 - 4j], np.complex64)
    tensors = [strided("conj", base, conj=True), strided("neg", base, neg=True)]
    save(model(tensors), tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["conj"], torch.tensor([1 - 2j, 3 + 4j]))
    assert torch.equal(found["neg"], torch.tensor([-1 - 2j, -3 + 4j]))


def tied_model():
    storage = np.arange(6, dtype=np.float32)
    return model(
        [
            views("head", storage, (2, 3)),
            views("embed", storage, (2, 3)),
            views("body", np.ones(2, np.float32), (2,)),
        ],
        metadata={"format": "pt"},
    )


def test_tied_tensors_are_written_once_with_the_alias_in_the_metadata(tmp_path):
    save(tied_model(), tmp_path / "a.safetensors")
    expected = {"head": torch.arange(6.0).reshape(2, 3), "body": torch.ones(2)}
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "embed": "head"}
        assert sorted(file.keys()) == sorted(expected)
        assert all(torch.equal(file.get_tensor(name), expected[name]) for name in expected)


def test_untie_writes_tied_tensors_twice(tmp_path):
    save(tied_model(), tmp_path / "a.safetensors", untie=True)
    weights = torch.arange(6.0).reshape(2, 3)
    reference = {"head": weights, "embed": weights.clone(), "body": torch.ones(2)}
    save_file(reference, tmp_path / "b.safetensors", {"format": "pt"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_tied_model_loads_in_a_module_that_ties_the_same(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 2, bias=False)
            self.embed = torch.nn.Embedding(2, 3)
            self.embed.weight = self.head.weight

    storage = np.arange(6, dtype=np.float32)
    tied = [views("head.weight", storage, (2, 3)), views("embed.weight", storage, (2, 3))]
    save(model(tied), tmp_path / "model.safetensors")
    net = Net()
    load_torch_model(net, tmp_path / "model.safetensors")
    assert torch.equal(net.embed.weight.data, torch.arange(6.0).reshape(2, 3))


def test_a_slice_of_another_tensor_is_a_loss_of_a_tie_that_untie_accepts(tmp_path):
    storage = np.arange(6, dtype=np.float32)
    sliced = model([views("all", storage, (6,)), views("part", storage, (3,), first=2)])
    with pytest.raises(LossError, match="ties 'part'"):
        save(sliced, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    save(sliced, tmp_path / "a.safetensors", untie=True)
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["part"], torch.tensor([2.0, 3, 4]))


def test_all_types_that_the_format_lacks_are_listed_at_once(tmp_path):
    tensors = [
        strided(f"x{i}", codes_of(d, 4), d)
        for i, d in enumerate(
            [DTYPES["complex128"], DTYPES["int4"], DTYPES["complex32"], DTYPES["float32"]]
        )
    ]
    with pytest.raises(UnsupportedError) as error:
        save(model(tensors), tmp_path / "a.safetensors")
    for part in ("complex128: 'x0'", "int4: 'x1'", "complex32: 'x2'"):
        assert part in str(error.value)
    assert "'x3'" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_names_and_sizes_that_the_format_lacks_are_refused(tmp_path):
    f4 = DTYPES["float4_e2m1fn"]
    for tensor in (
        strided("__metadata__", np.ones(1)),
        strided("a\ud800", np.ones(1)),
        strided("odd", codes_of(f4, 3), f4),
    ):
        with pytest.raises(UnsupportedError):
            plan(model([tensor]), tmp_path / "a.safetensors")


def test_extras_stop_the_work_until_allowed(tmp_path):
    with_epoch = model({"a": np.ones(1)}, extras={"epoch": 3})
    with pytest.raises(LossError, match="extras 'epoch'") as error:
        save(with_epoch, tmp_path / "a.safetensors")
    assert error.value.exit_code == 5
    save(with_epoch, tmp_path / "a.safetensors", allow={"extras"})
    assert list(load_file(tmp_path / "a.safetensors")) == ["a"]


@pytest.mark.parametrize("limit", [1, 40, 41, 100, 128, 300, 10_000])
def test_shards_and_index_are_those_of_huggingface_hub(tmp_path, limit):
    rng = np.random.default_rng(0)
    arrays = {
        f"layer{i}": rng.standard_normal(int(n)).astype(np.float32)
        for i, n in enumerate([5, 5, 30, 1, 7, 0, 12, 25, 2])
    }
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    save(
        model(arrays, metadata={"format": "pt"}), ours / "model.safetensors", max_shard_bytes=limit
    )
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    save_torch_state_dict(state, theirs, max_shard_size=limit)
    assert {p.name: p.read_bytes() for p in ours.iterdir()} == {
        p.name: p.read_bytes() for p in theirs.iterdir()
    }
    expected = split_torch_state_dict_into_shards(state, max_shard_size=limit)
    assert {p.name for p in ours.iterdir() if p.suffix != ".json"} == set(
        expected.filename_to_tensors
    )


def test_an_alias_goes_into_the_index_where_there_are_shards(tmp_path):
    written = save(tied_model(), tmp_path / "model.safetensors", max_shard_bytes=24)
    assert [path.rsplit("/", 1)[1] for path in written] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 32, "embed": "head"},
        "weight_map": {
            "head": "model-00001-of-00002.safetensors",
            "body": "model-00002-of-00002.safetensors",
        },
    }


def test_the_index_counts_every_slice_of_one_storage(tmp_path):
    storage = np.arange(12, dtype=np.float32)
    halves = [views("a", storage, (6,)), views("b", storage, (6,), first=6)]
    save(model(halves), tmp_path / "model.safetensors", max_shard_bytes=24)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 48}


def test_a_tensor_larger_than_a_block_is_copied_whole(tmp_path):
    big = np.arange(700_001, dtype=np.int32)
    as_bf16 = (big % 251).astype(ml_dtypes.bfloat16)
    save(
        model([strided("raw", big), decoded("computed", big), decoded("half", as_bf16)]),
        tmp_path / "a.safetensors",
    )
    found = load_file(tmp_path / "a.safetensors")
    assert np.array_equal(found["raw"].numpy(), big)
    assert np.array_equal(found["computed"].numpy(), big)
    assert torch.equal(found["half"], torch.from_numpy(big % 251).bfloat16())


def test_the_order_of_types_names_every_type_of_the_format():
    assert sorted(DTYPE_ORDER) == sorted(BY_SAFETENSORS)
