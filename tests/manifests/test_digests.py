"""Digests against their specification, computed by hand from arrays that the frameworks give."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import blake3
import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
from recompute import header, over_all, strings, tensor
from safetensors.numpy import save_file as save_safetensors

import wtool
from fixtures.torch_models import DigitsCNN
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError, UsageError
from wtool.extents import Strided
from wtool.kernels.digest import new_hasher
from wtool.manifests import digests as module
from wtool.manifests.digests import digest_file, digest_model, digest_values
from wtool.manifests.release import record_model

FIXTURES = Path(__file__).parents[2] / "fixtures"


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_digests_of_a_torch_file_are_those_of_the_specification():
    state = torch.load(FIXTURES / "digits-cnn.pth")
    expected = {name: tensor(values.numpy()) for name, values in state.items()}
    record = record_model(wtool.open(FIXTURES / "digits-cnn.pth"))
    assert {name: entry.digest for name, entry in record.tensors.items()} == expected
    headers = {n: header(str(v.dtype).split(".")[1], tuple(v.shape)) for n, v in state.items()}
    assert record.structure == over_all(b"wtool structure 1", headers)
    raw = {name: bytes.fromhex(digest) for name, digest in expected.items()}
    assert record.root == over_all(b"wtool root 1", raw)
    (file,) = record.files
    assert (file.name, file.nbytes) == ("digits-cnn.pth", 33525)
    assert file.digest == sha256(FIXTURES / "digits-cnn.pth")


def test_strides_byte_order_and_container_do_not_count(tmp_path):
    values = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    values[0, 0] = np.nan
    values.view(np.uint32)[1, 1] = 0xFFA0_0001  # a signalling NaN with a payload
    values[2, 2] = -0.0
    np.save(tmp_path / "c.npy", values)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
    np.save(tmp_path / "big.npy", values.astype(">f4"))
    torch.save({"x": torch.from_numpy(values.T.copy()).T}, tmp_path / "view.pth")
    big = torch.from_numpy(np.repeat(values, 2, 1))
    torch.save({"x": big[:, ::2]}, tmp_path / "slice.pth")
    save_safetensors({"x": values}, tmp_path / "x.safetensors")
    for name in ("c.npy", "fortran.npy", "big.npy", "view.pth", "slice.pth", "x.safetensors"):
        (digest,) = digest_model(wtool.open(tmp_path / name)).tensors.values()
        assert digest == tensor(values), name


def test_one_bit_of_a_nan_counts(tmp_path):
    values = np.array([np.nan, 1], np.float32)
    other = values.copy()
    other.view(np.uint32)[0] ^= 1
    np.savez(tmp_path / "m.npz", a=values, b=other)
    found = digest_model(wtool.open(tmp_path / "m.npz")).tensors
    assert found == {"a": tensor(values), "b": tensor(other)}
    assert found["a"] != found["b"]


def test_every_dtype_of_torch_has_the_specified_bytes():
    state = torch.load(FIXTURES / "odd" / "dtypes.pth")
    found = digest_model(wtool.open(FIXTURES / "odd" / "dtypes.pth"), files=False).tensors
    assert set(found) == set(state)
    for name, values in state.items():
        plain = values.contiguous().reshape(-1)
        raw = plain.view(torch.uint8).numpy().tobytes()
        shape = tuple(values.shape)
        text = str(values.dtype).removeprefix("torch.").removesuffix("_x2")
        if text.startswith("float4"):
            shape = (*shape[:-1], shape[-1] * 2)
        assert found[name] == hashlib.sha256(header(text, shape) + raw).hexdigest(), name


@pytest.mark.parametrize("name", ["int4", "uint4", "int2", "uint2", "float4_e2m1fn"])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_types_below_a_byte_are_packed_from_the_lowest_bit(tmp_path, name, count):
    dtype = DTYPES[name]
    codes = [(5 * i + 3) % (1 << dtype.bits) for i in range(count)]
    packed = 0
    for place, code in enumerate(codes):
        packed |= code << (place * dtype.bits)
    raw = packed.to_bytes((count * dtype.bits + 7) // 8, "little")
    expected = hashlib.sha256(header(name, (count,)) + raw).hexdigest()
    # Stored packed, and stored one to a byte as TensorFlow does.
    (tmp_path / "packed").write_bytes(raw)
    (tmp_path / "bytes").write_bytes(bytes(codes))
    for file, bits in (("packed", None), ("bytes", 8)):
        source = wtool.sources.FileSource(tmp_path / file)
        extent = Strided(source, 0, source.size, dtype, (count,), bits=bits)
        made = wtool.checkpoint.build(
            tmp_path / file, "test", [wtool.checkpoint.Tensor("x", "x", extent)]
        )
        assert digest_model(made).tensors == {"x": expected}


def test_booleans_are_0_and_1_whatever_is_stored(tmp_path):
    values = np.array([True, False, True])
    np.save(tmp_path / "b.npy", values)
    data = bytearray((tmp_path / "b.npy").read_bytes())
    data[-1] = 0x7F
    (tmp_path / "b.npy").write_bytes(data)
    assert set(digest_model(wtool.open(tmp_path / "b.npy")).tensors.values()) == {tensor(values)}


def test_strings_are_prefixed_with_their_length():
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(FIXTURES / "odd" / "tf-dtypes" / "ckpt"))
    checkpoint = wtool.open(FIXTURES / "odd" / "tf-dtypes")
    texts = [t for t in checkpoint if t.dtype.name == "string" and reader.has_tensor(t.key)]
    found = digest_model(checkpoint).tensors
    assert texts
    for text in texts:
        value = np.asarray(reader.get_tensor(text.key), object)
        assert found[text.name] == strings(list(value.reshape(-1)), value.shape)


@pytest.mark.parametrize(("conj", "neg", "big"), [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 0)])
def test_complex_halves_keep_their_bits_through_views(tmp_path, conj, neg, big):
    halves = np.array([[0x7C01, 0xFE02], [0x3C00, 0x8000], [0xFC99, 0x0001]], "<u2")
    stored = halves.byteswap() if big else halves
    (tmp_path / "raw").write_bytes(stored.tobytes())
    source = wtool.sources.FileSource(tmp_path / "raw")
    extent = Strided(
        source, 0, 12, DTYPES["complex32"], (3,), first=2, strides=(-1,),
        big_endian=bool(big), conj=bool(conj), neg=bool(neg),
    )  # fmt: skip
    expected = halves[::-1].copy()
    expected ^= np.uint16(0x8000 if neg else 0)
    expected[:, 1] ^= np.uint16(0x8000 if conj else 0)
    digest = digest_values(wtool.checkpoint.Tensor("x", "x", extent), "sha256")
    text = header("complex32", (3,))
    assert digest == hashlib.sha256(text + expected.tobytes()).hexdigest()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_blocks_threads_and_shards_do_not_count(tmp_path, monkeypatch, jobs):
    """Tensors that begin, end and lie anywhere within blocks, in files of several blocks."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(module, "VALUE_BYTES", 64)
    rng = np.random.default_rng(jobs)
    arrays = {f"t{i}": rng.integers(0, 255, i * 7, np.uint8) for i in range(20)}
    save_safetensors(arrays, tmp_path / "m.safetensors")
    checkpoint = wtool.open(tmp_path / "m.safetensors")
    expected = {name: tensor(array) for name, array in arrays.items()}
    found = digest_model(checkpoint, jobs=jobs)
    assert found.tensors == expected
    assert found.files[0].digest == sha256(tmp_path / "m.safetensors")
    assert digest_model(checkpoint, jobs=jobs, files=False).tensors == expected
    for name in ("digits-cnn-safetensors-shards", "digits-cnn-tf-shards"):
        shards = digest_model(wtool.open(FIXTURES / name), jobs=jobs)
        assert {f.name: f.digest for f in shards.files} == {
            path.name: sha256(path)
            for path in (FIXTURES / name).iterdir()
            if path.name != "checkpoint"
        }


def test_tied_and_overlapping_tensors_have_each_their_digest(tmp_path):
    base = torch.arange(100, dtype=torch.float32)
    state = {"a": base[:60], "b": base[40:], "c": base[:60], "d": base.view(10, 10)}
    torch.save(state, tmp_path / "m.pth")
    assert digest_model(wtool.open(tmp_path / "m.pth")).tensors == {
        name: tensor(values.numpy()) for name, values in state.items()
    }


def test_a_view_that_repeats_a_byte_for_ever_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1).expand(1 << 40)}, tmp_path / "m.pth")
    with pytest.raises(UnsupportedError, match="repeats a few stored bytes"):
        digest_model(wtool.open(tmp_path / "m.pth"))


def test_a_tensor_without_values_has_no_digest(tmp_path):
    torch.save({"x": torch.empty(3, device="meta"), "y": torch.ones(2)}, tmp_path / "m.pth")
    found = digest_model(wtool.open(tmp_path / "m.pth")).tensors
    assert found == {"x": None, "y": tensor(np.ones(2, np.float32))}


def test_compressed_and_chunked_values_have_the_same_digest(tmp_path):
    state = torch.load(FIXTURES / "digits-cnn.pth")
    arrays = {name: values.numpy() for name, values in state.items()}
    np.savez_compressed(tmp_path / "m.npz", **arrays)
    expected = {name: tensor(array) for name, array in arrays.items()}
    assert digest_model(wtool.open(tmp_path / "m.npz")).tensors == expected
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        place = file.create_group("layers/dense/vars")
        values = arrays["fc1.weight"]
        place.create_dataset("0", data=values, chunks=(7, 100), compression="gzip", shuffle=True)
    (digest,) = digest_model(wtool.open(tmp_path / "m.weights.h5")).tensors.values()
    assert digest == tensor(values)


def test_bfloat16_is_the_same_in_torch_and_safetensors(tmp_path):
    values = torch.randn(7, 3).bfloat16()
    torch.save({"x": values}, tmp_path / "m.pth")
    raw = values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    save_safetensors({"x": raw}, tmp_path / "m.safetensors")
    for name in ("m.pth", "m.safetensors"):
        assert digest_model(wtool.open(tmp_path / name)).tensors == {"x": tensor(raw, "bfloat16")}


def test_blake3_is_that_of_its_package(tmp_path):
    values = np.arange(100_000, dtype=np.int32)
    np.save(tmp_path / "x.npy", values)
    found = digest_model(wtool.open(tmp_path / "x.npy"), "blake3")
    (digest,) = found.tensors.values()
    assert digest == blake3.blake3(header("int32", (100_000,)) + values.tobytes()).hexdigest()
    data = (tmp_path / "x.npy").read_bytes()
    expected = (len(data), blake3.blake3(data).hexdigest())
    assert digest_file(str(tmp_path / "x.npy"), "blake3") == expected


def test_a_digest_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(UsageError, match="unknown digest: expected sha256, blake3, found md5"):
        new_hasher("md5")
    monkeypatch.setitem(__import__("sys").modules, "blake3", None)
    with pytest.raises(UnsupportedError, match="pip install blake3"):
        new_hasher("blake3")


def test_digests_do_not_depend_on_how_a_model_was_saved():
    """Every PyTorch container of the digits CNN, as saved by torch and safetensors."""
    state = {n: tensor(v.numpy()) for n, v in torch.load(FIXTURES / "digits-cnn.pth").items()}
    assert set(state) == set(DigitsCNN().state_dict())
    for name in (
        "digits-cnn-legacy.pth", "digits-cnn-module.pth", "digits-cnn-script.pt", "digits-cnn.pt2",
        "digits-cnn-bin-shards", "digits-cnn-safetensors-shards", "digits-cnn.safetensors",
        "digits-cnn.npz", "digits-cnn-distributed",
    ):  # fmt: skip
        assert digest_model(wtool.open(FIXTURES / name)).tensors == state, name
