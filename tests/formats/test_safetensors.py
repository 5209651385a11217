"""safetensors files against the reference library: valid ones in full, each fault with the
reference agreeing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from safetensors_faults import REJECTED, file_of, tensor

from wtool.dtypes import BY_SAFETENSORS
from wtool.errors import InputError, MalformedInput, TruncatedInput, UsageError
from wtool.formats import Probe, find_format, open_checkpoint

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16,
    "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "C64": torch.complex64,
    "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def offset_keys(path: Path) -> list[str]:
    with safetensors.safe_open(path, "np") as file:
        return file.offset_keys()


def assert_equal_to_reference(path: Path) -> None:
    """Names, order, types, shapes and every byte are what the reference reads."""
    checkpoint = open_checkpoint(path)
    reference = dict(safetensors.deserialize(path.read_bytes()))
    assert list(checkpoint.tensors) == offset_keys(path)
    for name, entry in reference.items():
        tensor = checkpoint[name]
        assert tensor.dtype is BY_SAFETENSORS[entry["dtype"]]
        assert tensor.shape == tuple(entry["shape"])
        source, offset, nbytes = tensor.extent.raw_span() or (tensor.source, tensor.offset, None)
        size = tensor.nbytes if nbytes is None else nbytes
        found = bytearray(size)
        source.read_into(offset, found)
        assert bytes(found) == bytes(entry["data"])


@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_every_type_reads_as_the_reference_gives_it(name: str, tmp_path: Path) -> None:
    dtype = TORCH_DTYPES[name]
    codes = torch.arange(240, dtype=torch.uint8)
    value = (codes % 2).bool() if dtype is torch.bool else codes.view(dtype)
    path = tmp_path / "all.safetensors"
    safetensors.torch.save_file({"x": value, "empty": value[:0], "scalar": value[1].clone()}, path)
    checkpoint = open_checkpoint(path)
    reference = safetensors.torch.load_file(path)
    assert set(checkpoint.tensors) == set(reference)
    for key, expected in reference.items():
        tensor = checkpoint[key]
        loaded = tensor.load()
        assert tensor.dtype.torch == str(dtype).removeprefix("torch.")
        assert loaded.shape == tuple(expected.shape) == tensor.shape
        assert raw(loaded) == bytes(expected.reshape(-1).view(torch.uint8).numpy())
    assert_equal_to_reference(path)


@pytest.mark.parametrize(
    ("dtype", "bits", "carrier"),
    [
        ("F4", 4, ml_dtypes.float4_e2m1fn),
        ("F6_E2M3", 6, ml_dtypes.float6_e2m3fn),
        ("F6_E3M2", 6, ml_dtypes.float6_e3m2fn),
    ],
)
def test_types_below_a_byte_count_elements(
    dtype: str, bits: int, carrier: Any, tmp_path: Path
) -> None:
    codes = [value % (1 << bits) for value in range(16)]
    packed = sum(code << (bits * i) for i, code in enumerate(codes)).to_bytes(2 * bits, "little")
    header = {"x": {"dtype": dtype, "shape": [4, 4], "data_offsets": [0, len(packed)]}}
    path = write(tmp_path, file_of(json.dumps(header), packed))
    assert_equal_to_reference(path)
    tensor = open_checkpoint(path)["x"]
    assert (tensor.shape, tensor.count, tensor.nbytes) == ((4, 4), 16, len(packed))
    expected = np.array(codes, np.uint8).view(carrier).reshape(4, 4)
    assert raw(tensor.load()) == raw(expected)


def test_torch_float4_pairs_read_low_half_first(tmp_path: Path) -> None:
    pairs = torch.tensor([[0x21, 0x43]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    path = tmp_path / "f4.safetensors"
    safetensors.torch.save_file({"x": pairs}, path)
    tensor = open_checkpoint(path)["x"]
    assert tensor.shape == (1, 4)
    assert tensor.load().view(np.uint8).tolist() == [[1, 2, 3, 4]]


VALID = {
    "no tensors": file_of("{}"),
    "metadata only": file_of('{"__metadata__":{"a":"b"}}'),
    "metadata null": file_of('{"__metadata__":null}'),
    "metadata empty": file_of('{"__metadata__":{}}'),
    "header out of order": file_of(
        '{"b":{"shape":[2],"data_offsets":[4,6],"dtype":"U8"},'
        '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"abcdef",
    ),
    "zero size in the middle": file_of(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
        '"z":{"dtype":"F32","shape":[0,7],"data_offsets":[2,2]},'
        '"c":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}',
        b"abc",
    ),
    "whitespace around": file_of(
        ' \r\n\t{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}} \t\r\n ', b"ab"
    ),
    "odd header length": file_of(
        '{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}} ', b"12345678"
    ),
    "names": file_of(
        '{"":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
        '"\\u0000":{"dtype":"U8","shape":[],"data_offsets":[1,2]},'
        '"层.重み\\ud83d\\ude00":{"dtype":"U8","shape":[],"data_offsets":[2,3]},'
        + json.dumps("n" * 100_000)
        + ':{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}',
        b"abcd",
    ),
    "bool that is neither 0 nor 1": file_of(
        '{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}', b"\0\1\7"
    ),
    "unknown fields": file_of(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1.5,-0,1e300]}}}', b"a"
    ),
}


@pytest.mark.parametrize("case", VALID)
def test_a_valid_file_reads_as_the_reference_gives_it(case: str, tmp_path: Path) -> None:
    assert_equal_to_reference(write(tmp_path, VALID[case]))


def test_a_bool_of_7_is_true(tmp_path: Path) -> None:
    tensor = open_checkpoint(write(tmp_path, VALID["bool that is neither 0 nor 1"]))["a"]
    assert tensor.load().tolist() == [False, True, True]


def test_unknown_fields_are_noted(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, VALID["unknown fields"]))
    assert checkpoint.notes == ("1 tensor has fields that the format lacks, first 'a': ignored",)


def test_parts_that_one_rank_of_torch_distributed_saved_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "shard-00002-model-00001-of-00001.safetensors"
    metadata = {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": '{"w": {"saved_offsets": [4, 0]}}'}
    safetensors.torch.save_file({"w": torch.ones(3, 5)}, path, metadata)
    (note,) = open_checkpoint(path).notes
    assert note.startswith("saved by torch.distributed: tensors may be the parts that one rank had")


def test_metadata_that_names_a_kept_tensor_gives_the_removed_name_as_an_alias(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tied.safetensors"
    metadata = {"head": "embed", "format": "embed", "author": "nobody", "embed": "head"}
    safetensors.torch.save_file({"embed": torch.ones(2)}, path, metadata)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["embed", "head"]
    assert checkpoint.aliases == {"head": "embed"}
    assert checkpoint["head"].key == "embed"
    assert checkpoint["head"].load().tolist() == [1.0, 1.0]
    assert checkpoint.metadata == metadata
    assert checkpoint.notes == ("'head' is not stored: the metadata says that it is 'embed'",)


def test_a_branch_cannot_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, VALID["no tensors"])
    assert not open_checkpoint(path, root=".").tensors
    with pytest.raises(UsageError, match="a safetensors file has no branches"):
        open_checkpoint(path, root="model")


@pytest.mark.parametrize("case", REJECTED)
def test_what_the_reference_rejects_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    content, kind, message = REJECTED[case]
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(content)
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# What the reference takes and wtool refuses, because readers differ about it.
STRICTER = {
    "name twice": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        "a key twice: found 'a'",
    ),
    "name twice, once escaped": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        '"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        "a key twice: found 'a'",
    ),
    "metadata key twice": (
        '{"__metadata__":{"x":"1","x":"2"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        "a key twice: found 'x'",
    ),
    "tensor as array": ('{"a":["U8",[1],[0,1]]}', "tensor is not an object"),
    "dtype as object": (
        '{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}',
        "unknown dtype",
    ),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_readers_would_read_differently_is_refused(case: str, tmp_path: Path) -> None:
    header, message = STRICTER[case]
    content = file_of(header, b"a")
    safetensors.deserialize(content)
    with pytest.raises(MalformedInput, match=message):
        read(write(tmp_path, content))


def test_a_shape_beyond_int64_is_refused_although_its_product_is_zero(tmp_path: Path) -> None:
    content = file_of(tensor(shape="[0,9223372036854775808,4]", offsets="[0,0]"))
    safetensors.deserialize(content)
    with pytest.raises(MalformedInput, match="tensor 'a': too many elements"):
        read(write(tmp_path, content))


def read(path: Path) -> None:
    """Open as safetensors whatever the content looks like."""
    from wtool.formats import safetensors as reader

    try:
        reader.open_file(Probe(path))
    except InputError as error:
        raise error.locate(path=path) from error


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path)
    content = path.read_bytes()
    for size in range(len(content)):
        with pytest.raises(InputError):
            read(write(tmp_path, content[:size]))


def test_a_cut_download_names_the_tensor_and_what_else_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    safetensors.torch.save_file(
        {"a": torch.ones(3), "b": torch.zeros(2), "c": torch.zeros(2)}, path
    )
    content = path.read_bytes()
    cut = write(tmp_path, content[: len(content) - 18])
    assert find_format(Probe(cut)).name == "safetensors"
    with pytest.raises(TruncatedInput) as caught:
        open_checkpoint(cut)
    assert str(caught.value) == (
        f"{cut}: tensor 'a': at byte {len(content) - 18}: the file ends 10 bytes into "
        f"the tensor's 12, "
        f"and 2 more tensors are missing: expected a file of at least {len(content)} bytes, "
        f"found {len(content) - 18} (the download or copy was cut short: fetch it again)"
    )


def test_mutations_agree_with_the_reference_or_are_refused(tmp_path: Path) -> None:
    """2,500 seeded mutations: what wtool opens, the reference opens to the same bytes."""
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(
        {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int8), "c": torch.zeros(0)}, path
    )
    content = path.read_bytes()
    random = np.random.default_rng(20)
    opened = 0
    for _ in range(2_500):
        changed = bytearray(content)
        for _ in range(random.integers(1, 4)):
            place = random.integers(0, len(changed))
            match random.integers(0, 4):
                case 0:
                    changed[place] = random.integers(0, 256)
                case 1:
                    changed[place] ^= 1 << random.integers(0, 8)
                case 2:
                    del changed[place : place + random.integers(1, 9)]
                case _:
                    changed[place:place] = bytes(random.choice(list(b'0123456789[]{},":eE-.'), 2))
        mutant = write(tmp_path, bytes(changed))
        try:
            read(mutant)
        except InputError:
            continue
        from wtool.formats import safetensors as reader

        assert [t.name for t in reader.open_file(Probe(mutant))] == offset_keys(mutant)
        opened += 1
    assert opened > 20
