"""torch's files from before 1.6 against torch, and the ones that attack."""

from __future__ import annotations

import io
import pickle
import random
import struct

import numpy as np
import pytest
import torch

from wtool.errors import InputError, MalformedInput, TruncatedInput, WtoolError
from wtool.formats import Probe, find_format, open_checkpoint
from wtool.formats.torch_legacy import FORMAT

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MAGIC = 0x1950A86A20F9469CFC6C
SYS_INFO = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def legacy_bytes(
    value,
    *,
    protocol: int = 2,
    magic: object = MAGIC,
    version: object = 1001,
    sys_info: object = SYS_INFO,
    views: dict[int, tuple] | None = None,
    change_pid=lambda pid: pid,
    change_keys=lambda keys: keys,
    change_count=lambda count: count,
) -> bytes:
    """A legacy file as torch 1.5 wrote it, with a hook for each thing that may be wrong in it.

    views: data_ptr of a storage -> (root tensor, view key, offset, length).
    """
    storages: dict[str, torch.Tensor] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, torch.storage.TypedStorage):
                kind = getattr(torch, obj._pickle_storage_type())
                root, view = obj._untyped_storage, None
                if views and root.data_ptr() in views:
                    tensor, *view = views[root.data_ptr()]
                    root, view = tensor.untyped_storage(), tuple(view)
                key = str(root.data_ptr())
                storages[key] = (root, obj.dtype.itemsize)
                count = len(root) // obj.dtype.itemsize
                return change_pid(("storage", kind, key, "cpu", count, view))
            return None

    out = io.BytesIO()
    for head in (magic, version, sys_info):
        pickle.dump(head, out, protocol=protocol)
    Pickler(out, protocol=protocol).dump(value)
    keys = sorted(storages)
    pickle.dump(change_keys(keys), out, protocol=protocol)
    for key in keys:
        root, itemsize = storages[key]
        out.write(struct.pack("<q", change_count(len(root) // itemsize)))
        out.write(torch.empty(0, dtype=torch.uint8).set_(root).numpy().tobytes())
    return out.getvalue()


def opened(data: bytes, tmp_path, **options):
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    return open_checkpoint(path, **options)


def flatten(value, prefix="") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    flat = {}
    for key, inner in pairs:
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def assert_same_tensors(checkpoint, expected: dict[str, torch.Tensor]) -> None:
    """Names, order, dtypes, shapes and values are the reference's."""
    assert list(checkpoint.tensors) == list(expected)
    for name, tensor in expected.items():
        found = checkpoint[name]
        assert found.dtype.torch == str(tensor.dtype).removeprefix("torch."), name
        assert found.shape == tuple(tensor.shape), name
        wanted = tensor.detach().resolve_conj().resolve_neg()
        if tensor.dtype in (torch.bfloat16,):
            np.testing.assert_array_equal(found.load().astype("float32"), wanted.float().numpy())
        else:
            np.testing.assert_array_equal(found.load(), wanted.numpy(), strict=True)


BASE = torch.arange(24.0).reshape(4, 6)
EVERY_DTYPE = {
    str(dtype).removeprefix("torch."): (torch.arange(6) % 2).to(dtype).reshape(2, 3)
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip
VALUES = {
    "every dtype": EVERY_DTYPE,
    "views": {"all": BASE, "t": BASE.t(), "cut": BASE[1:3, ::2], "wide": BASE[0, :1].expand(5, 1)},
    "empty and scalar": {"e": torch.zeros(0, 3), "s": torch.tensor(2.5), "f": torch.zeros(0)},
    "nested": {"a": {"b": [torch.ones(2), torch.zeros(1)]}, "c": (torch.arange(3),)},
    "module state": torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)
    ).state_dict(),
    "many": {f"p{i}": torch.full((i % 4,), float(i)) for i in range(300)},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_todays_torch_read_as_torch_reads_them(name, protocol, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(VALUES[name], path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torch-legacy"
    assert_same_tensors(checkpoint, flatten(torch.load(path, weights_only=False)))


@pytest.mark.parametrize("name", VALUES)
def test_files_as_torch_1_5_wrote_them_read_as_torch_reads_them(name, tmp_path):
    data = legacy_bytes(VALUES[name])
    expected = torch.load(io.BytesIO(data), weights_only=False)
    assert_same_tensors(opened(data, tmp_path), flatten(expected))


def test_exactly_one_format_claims_a_legacy_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(legacy_bytes({"w": BASE}))
    assert find_format(Probe(path)) is FORMAT


def test_views_of_one_storage_are_tied(tmp_path):
    found = opened(legacy_bytes(VALUES["views"]), tmp_path)
    assert found.aliases == {"t": "all", "cut": "all", "wide": "all"}


def test_opening_reads_no_tensor_byte(tmp_path, monkeypatch):
    value = {"big": torch.zeros(1 << 20), "small": torch.ones(3)}
    reads = []
    from wtool.sources import FileSource

    plain = FileSource.read_into

    def read_into(self, offset, buffer):
        reads.append(len(memoryview(buffer).cast("B")))
        plain(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", read_into)
    opened(legacy_bytes(value), tmp_path)
    assert sum(reads) < 200_000


def test_view_metadata_places_a_tensor_in_the_middle_of_its_storage(tmp_path):
    root, middle = torch.arange(10.0), torch.arange(4.0)
    views = {middle.untyped_storage().data_ptr(): (root, "view1", 3, 4)}
    data = legacy_bytes({"root": root, "view": middle[1:]}, views=views)
    expected = torch.load(io.BytesIO(data), weights_only=False)
    assert expected["view"].tolist() == [4, 5, 6]
    found = opened(data, tmp_path)
    assert_same_tensors(found, expected)
    assert found.aliases == {"view": "root"}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)


def test_a_whole_module_with_its_source_text_is_read_and_not_run(tmp_path):
    path = tmp_path / "x.pth"
    model = Net()
    torch.save(model, path, _use_new_zipfile_serialization=False)
    assert b"class Net" in path.read_bytes()
    found = open_checkpoint(path)
    assert_same_tensors(found, dict(model.state_dict()))
    assert any("source" in note for note in found.notes)


def test_several_saves_in_one_file_are_read_one_at_a_time(tmp_path):
    first, second = {"a": torch.ones(2)}, {"m": {"b": torch.zeros(3, 1)}}
    data = legacy_bytes(first) + legacy_bytes(second) + legacy_bytes([torch.arange(2)])
    found = opened(data, tmp_path)
    assert_same_tensors(found, first)
    assert any("3 saves" in note and "@2" in note for note in found.notes)
    assert_same_tensors(opened(data, tmp_path, root="@1"), first)
    assert_same_tensors(opened(data, tmp_path, root="@2.m"), second["m"])
    assert_same_tensors(opened(data, tmp_path, root="@3"), {"0": torch.arange(2)})
    with pytest.raises(WtoolError, match="3 saves") as caught:
        opened(data, tmp_path, root="@4")
    assert caught.value.exit_code == 2


def test_trailing_bytes_are_noted(tmp_path):
    found = opened(legacy_bytes({"a": BASE}) + b"junk", tmp_path)
    assert_same_tensors(found, {"a": BASE})
    assert any("4 bytes after" in note for note in found.notes)


def test_byte_order_of_the_writer_changes_nothing(tmp_path):
    found = opened(
        legacy_bytes({"a": BASE}, sys_info={**SYS_INFO, "little_endian": False}), tmp_path
    )
    assert_same_tensors(found, {"a": BASE})


def change(index: int, value):
    return lambda pid: (*pid[:index], value, *pid[index + 1 :])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"change_keys": lambda keys: keys[:1]},
            MalformedInput,
            "storage is not in the list of keys",
        ),
        (
            {"change_keys": lambda keys: [*keys, "7"]},
            MalformedInput,
            "listed storage that no tensor",
        ),
        (
            {"change_keys": lambda keys: [*keys, keys[0]]},
            MalformedInput,
            "storage key listed twice",
        ),
        ({"change_keys": lambda keys: "12"}, MalformedInput, "list of storage keys"),
        ({"change_keys": lambda keys: [1, 2]}, MalformedInput, "list of storage keys"),
        ({"change_count": lambda count: count + 1}, MalformedInput, "elements of storage"),
        ({"change_count": lambda count: -1}, MalformedInput, "elements of storage.*found -1"),
        ({"change_count": lambda count: 1 << 62}, MalformedInput, "elements of storage"),
        ({"change_pid": change(4, 1 << 62)}, MalformedInput, ""),
        ({"change_pid": change(4, -1)}, MalformedInput, ""),
        ({"change_pid": change(5, ("v", 20, 10))}, MalformedInput, "view of"),
        ({"change_pid": change(5, ("v", -1, 10))}, MalformedInput, "view of"),
        ({"change_pid": change(5, ("v", 0, -1))}, MalformedInput, "view of"),
        ({"change_pid": change(5, ("v", 0))}, MalformedInput, "view of"),
        ({"change_pid": change(5, "v")}, MalformedInput, "view of"),
        (
            {"change_pid": lambda pid: (*pid[:5], (pid[2], 0, 2))},
            MalformedInput,
            "view of",
        ),
        ({"change_pid": lambda pid: pid[:5]}, MalformedInput, "persistent id"),
        ({"change_pid": change(0, "file")}, MalformedInput, "persistent id"),
        ({"change_pid": change(2, 7)}, MalformedInput, "key of a storage is no text"),
        ({"change_pid": change(1, torch.nn.Linear)}, MalformedInput, ""),
        ({"magic": 1}, InputError, ""),
        ({"version": 1002}, MalformedInput, "protocol version: expected 1001, found 1002"),
        ({"sys_info": [1]}, MalformedInput, "system information"),
    ],
)
def test_a_file_that_contradicts_itself_is_one_clear_error(options, error, message, tmp_path):
    data = legacy_bytes({"w": BASE, "b": torch.ones(3)}, **options)
    with pytest.raises(error, match=message) as caught:
        opened(data, tmp_path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_one_view_key_means_one_view(tmp_path):
    root, one, two = torch.arange(10.0), torch.zeros(4), torch.zeros(4)
    views = {
        one.untyped_storage().data_ptr(): (root, "v", 0, 4),
        two.untyped_storage().data_ptr(): (root, "v", 4, 4),
    }
    data = legacy_bytes({"one": one, "two": two}, views=views)
    with pytest.raises(MalformedInput, match="view of"):
        opened(data, tmp_path)


def test_a_cut_file_is_an_error_at_every_length(tmp_path):
    data = legacy_bytes({"w": BASE[:1], "b": torch.ones(3)})
    for length in range(len(data)):
        with pytest.raises(InputError) as caught:
            opened(data[:length], tmp_path)
        assert "\n" not in str(caught.value)


def test_a_cut_download_names_the_storage_that_is_missing(tmp_path):
    data = legacy_bytes({"w": BASE})
    with pytest.raises(TruncatedInput, match="expected 96 bytes, found 86"):
        opened(data[:-10], tmp_path)


def test_two_thousand_mutations_end_in_an_error_of_the_file_or_an_answer(tmp_path):
    generator = random.Random(1)
    whole = legacy_bytes({"w": BASE[:1], "m": {"b": torch.ones(3, dtype=torch.float16)}})
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 5))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            for tensor in opened(bytes(data), tmp_path):
                if tensor.count < 1000:
                    tensor.load()
        except WtoolError:
            continue
