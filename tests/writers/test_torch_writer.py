"""The torch writer against torch.load: weights_only, mmap, and Python's own zip reader for
checksums.
"""

from __future__ import annotations

import json
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.serialization import load_torch_model
from writer_models import codes_of, decoded, model, strided, views

from wtool.dtypes import DTYPES
from wtool.errors import LossError, UnsupportedError
from wtool.writers import plan, save
from wtool.writers.torch_zip import HELD

# The opcodes that torch 1.6 to 2.13 accept under weights_only.
ALLOWED_OPCODES = (
    "GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "NONE NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 "
    "BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 "
    "PROTO STOP"
)


def load(path) -> dict[str, torch.Tensor]:
    """The file as torch loads it; with and without mmap it must be the same."""
    plain = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert list(plain) == list(mapped)
    for name in plain:
        assert bits(plain[name]) == bits(mapped[name])
        assert mapped[name].data_ptr() % 64 == 0 or mapped[name].storage_offset() > 0
    return plain


def bits(tensor: torch.Tensor) -> tuple:
    """Type, shape and bytes in C order."""
    flat = tensor.contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return tensor.dtype, tuple(tensor.shape), raw


def same_bits(tensor: torch.Tensor, array: np.ndarray, dtype) -> None:
    raw = np.ascontiguousarray(array)
    if dtype.name == "complex32":
        raw = raw.reshape(-1).view(np.float32).astype(np.float16)
    assert bits(tensor) == (getattr(torch, dtype.torch), array.shape, raw.tobytes())


@pytest.mark.parametrize("dtype", sorted(HELD, key=str), ids=str)
def test_every_type_comes_back_from_torch_bit_for_bit(tmp_path, dtype):
    values = codes_of(dtype, 24).reshape(2, 12)
    for number, tensor in enumerate([strided("x", values, dtype), decoded("x", values, dtype)]):
        path = tmp_path / f"{number}.pth"
        save(model([tensor]), path)
        found = load(path)["x"]
        if dtype.bits == 4:
            codes = values.reshape(-1).view(np.uint8)
            packed = codes[::2] | codes[1::2] << 4
            assert bits(found) == (torch.float4_e2m1fn_x2, (2, 6), packed.tobytes())
        else:
            same_bits(found, values, dtype)


def test_odd_shapes_names_and_order_come_back_from_torch(tmp_path):
    arrays = {
        "z": np.float32(2.5),
        "empty": np.zeros((2, 0, 3), np.float16),
        "none": np.zeros(0, np.int64),
        "é\n\x00": np.arange(3),
        "": np.ones((1, 1, 1, 1, 1)),
        "a": np.arange(300_000, dtype=np.float32),
    }
    save(model({n: np.asarray(a) for n, a in arrays.items()}), tmp_path / "m.pth")
    found = load(tmp_path / "m.pth")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name].numpy(), array)
        assert found[name].numpy().dtype == array.dtype
        assert tuple(found[name].shape) == array.shape


def test_transposed_tensors_keep_their_strides_and_sliced_ones_become_contiguous(tmp_path):
    base = np.arange(24, dtype=np.float32)
    tensors = [
        views("transposed", base.copy(), (6, 4), strides=(1, 6)),
        views("channels_last", base.copy(), (1, 2, 3, 4), strides=(24, 1, 8, 2)),
        views("sliced", base.copy(), (4, 3), first=1, strides=(6, 2)),
        views("reversed", base.copy(), (24,), first=23, strides=(-1,)),
        views("expanded", base.copy(), (2, 24), strides=(0, 1)),
        strided("swapped", base.astype(">f4").view(np.float32), big_endian=True),
        strided("conj", np.array([1 + 2j], np.complex64), conj=True),
        strided("flags", np.array([0, 1, 7], np.uint8).view(bool), DTYPES["bool"]),
    ]
    save(model(tensors), tmp_path / "m.pth")
    found = load(tmp_path / "m.pth")
    t = torch.arange(24.0)
    expected = {
        "transposed": t.reshape(4, 6).t(),
        "channels_last": t.as_strided((1, 2, 3, 4), (24, 1, 8, 2)),
        "sliced": t.reshape(4, 6)[:, 1::2].contiguous(),
        "reversed": t.flip(0),
        "expanded": t.expand(2, 24).contiguous(),
        "swapped": t,
        "conj": torch.tensor([1 - 2j]),
        "flags": torch.tensor([False, True, True]),
    }
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].stride() == value.stride()
        # A slice does not drag its whole storage along.
        assert found[name].untyped_storage().nbytes() == value.numel() * value.itemsize


def test_tied_tensors_share_a_storage_as_equal_slices_and_transposes(tmp_path):
    storage = np.arange(12, dtype=np.float32)
    tensors = [
        views("whole", storage, (3, 4)),
        views("same", storage, (3, 4)),
        views("transposed", storage, (4, 3), strides=(1, 4)),
        views("row", storage, (4,), first=4),
        views("column", storage, (3,), first=2, strides=(4,)),
    ]
    save(model(tensors), tmp_path / "m.pth")
    found = load(tmp_path / "m.pth")
    assert len({t.untyped_storage().data_ptr() for t in found.values()}) == 1
    found["whole"].mul_(2)
    t = torch.arange(12.0).reshape(3, 4) * 2
    expected = {"whole": t, "same": t, "transposed": t.t(), "row": t[1], "column": t[:, 2]}
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    save(model(tensors), tmp_path / "u.pth", untie=True)
    found = load(tmp_path / "u.pth")
    assert len({t.untyped_storage().data_ptr() for t in found.values()}) == 5
    for name, value in expected.items():
        assert torch.equal(found[name] * 2, value)


def test_a_view_that_reads_the_same_bytes_otherwise_gets_its_own_storage(tmp_path):
    storage = np.array([1 + 2j, 3 - 4j], np.complex64)
    conjugate = views("conjugate", storage, (2,), conj=True)
    tied = model([views("plain", storage, (2,)), conjugate])
    with pytest.raises(LossError, match="ties 'conjugate'"):
        save(tied, tmp_path / "m.pth")
    save(tied, tmp_path / "m.pth", allow={"ties"})
    found = load(tmp_path / "m.pth")
    assert torch.equal(found["plain"], torch.tensor([1 + 2j, 3 - 4j]))
    assert torch.equal(found["conjugate"], torch.tensor([1 - 2j, 3 + 4j]))


def test_a_view_counts_from_where_its_owner_starts(tmp_path):
    storage = np.arange(20, dtype=np.float32)
    tensors = [
        views("owner", storage, (2, 5), first=10),
        views("part", storage, (3,), first=12),
        views("apart", storage, (4,), first=3),
    ]
    save(model(tensors), tmp_path / "m.pth")
    found = load(tmp_path / "m.pth")
    assert torch.equal(found["owner"], torch.arange(10.0, 20).reshape(2, 5))
    assert torch.equal(found["part"], torch.arange(12.0, 15))
    assert torch.equal(found["apart"], torch.arange(3.0, 7))
    assert found["part"].untyped_storage().data_ptr() == found["owner"].data_ptr()
    assert found["part"].untyped_storage().nbytes() == 40


def test_a_tie_that_torch_has_no_view_for_is_a_loss(tmp_path):
    storage = np.arange(12, dtype=np.float32)
    reverse = views("reverse", storage, (12,), first=11, strides=(-1,))
    tied = model([views("whole", storage, (12,)), reverse])
    with pytest.raises(LossError, match="ties 'reverse'"):
        save(tied, tmp_path / "m.pth")
    save(tied, tmp_path / "m.pth", allow={"ties"})
    assert torch.equal(load(tmp_path / "m.pth")["reverse"], torch.arange(12.0).flip(0))


def test_the_archive_is_a_plain_zip_with_real_checksums(tmp_path):
    arrays = {"a": np.arange(5, dtype=np.float32), "b": np.zeros(0), "c": np.arange(400_000)}
    save(model(arrays), tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "archive/data.pkl",
            "archive/byteorder",
            "archive/data/0",
            "archive/data/1",
            "archive/data/2",
            "archive/version",
        ]
        assert all(i.flag_bits == 0 and i.compress_type == 0 for i in archive.infolist())
        opcodes = {op.name for op, _, _ in pickletools.genops(archive.read("archive/data.pkl"))}
        assert opcodes <= set(ALLOWED_OPCODES.split(" "))


def test_a_thousand_tensors_load_and_the_bytes_do_not_depend_on_the_name(tmp_path):
    arrays = {f"layer{i}.weight": np.full(3, i, np.float32) for i in range(1500)}
    save(model(arrays), tmp_path / "a.pth")
    save(model(arrays), tmp_path / "b.bin")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.bin").read_bytes()
    found = load(tmp_path / "a.pth")
    assert list(found) == list(arrays)
    assert all(torch.equal(found[n], torch.from_numpy(a)) for n, a in arrays.items())


def test_offset_calculation_and_meta_loading_find_the_right_bytes(tmp_path):
    arrays = {f"t{i}": np.arange(i, i + n, dtype=np.float32) for i, n in enumerate([1, 4, 17, 33])}
    save(model(arrays), tmp_path / "m.pth")
    from torch.utils.serialization import config

    before = config.load.calculate_storage_offsets
    config.load.calculate_storage_offsets = True
    try:
        found = torch.load(tmp_path / "m.pth", weights_only=True, mmap=True)
    finally:
        config.load.calculate_storage_offsets = before
    assert all(np.array_equal(found[n].numpy(), a) for n, a in arrays.items())


@pytest.mark.parametrize("limit", [1, 40, 100, 300])
def test_shards_are_those_of_huggingface_hub_and_load(tmp_path, limit):
    storage = np.arange(7, dtype=np.float32)
    arrays = {f"l{i}": np.arange(n, dtype=np.float32) for i, n in enumerate([5, 5, 30, 1, 12])}
    tensors = [strided(n, a) for n, a in arrays.items()]
    tensors.insert(1, views("tied_a", storage, (7,)))
    tensors.append(views("tied_b", storage, (7,)))
    save(model(tensors), tmp_path / "pytorch_model.bin", max_shard_bytes=limit)
    tied = torch.arange(7.0)
    state = {t.name: torch.from_numpy(t.load().copy()) for t in tensors}
    state |= {"tied_a": tied, "tied_b": tied}
    expected = split_torch_state_dict_into_shards(
        state, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=limit
    )
    files = {p.name for p in tmp_path.iterdir()}
    assert files - {"pytorch_model.bin.index.json"} == set(expected.filename_to_tensors)
    assert ("pytorch_model.bin.index.json" in files) == expected.is_sharded
    if expected.is_sharded:
        index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
        assert index["metadata"] == expected.metadata
        assert index["weight_map"] == expected.tensor_to_filename
    for file, names in expected.filename_to_tensors.items():
        found = load(tmp_path / file)
        assert set(found) == set(names)
        assert all(torch.equal(found[name], state[name]) for name in found)
        if "tied_a" in found:
            ptrs = {found[n].untyped_storage().data_ptr() for n in ("tied_a", "tied_b")}
            assert len(ptrs) == 1

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in state.items():
                self.register_buffer(name, torch.zeros_like(value))

    if expected.is_sharded:
        net = Net()
        load_torch_model(net, tmp_path, safe=False, weights_only=True)
        assert all(torch.equal(net.state_dict()[n], v) for n, v in state.items())


def test_types_that_torch_lacks_are_listed_and_nothing_is_written(tmp_path):
    names = ["int4", "float8_e4m3b11fnuz", "qint8"]
    tensors = [strided(f"x.{n}", codes_of(DTYPES[n], 4), DTYPES[n]) for n in names]
    with pytest.raises(UnsupportedError) as error:
        plan(model([*tensors, strided("fine", np.ones(1))]), tmp_path / "m.pth")
    assert all(f"type {n}: 'x.{n}'" in str(error.value) for n in names)
    assert "fine" not in str(error.value)


def test_text_of_the_source_is_a_loss_until_allowed(tmp_path):
    described = model({"a": np.ones(1)}, metadata={"format": "pt", "author": "x"})
    with pytest.raises(LossError, match="metadata 'author'"):
        save(described, tmp_path / "m.pth")
    assert list(tmp_path.iterdir()) == []
    save(described, tmp_path / "m.pth", allow=["metadata"])
