"""A thousand seeded corruptions of one model: each is detected, and the right tensor is named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import wtool
from wtool.errors import InputError

COUNT = 1000
Arrays = dict[str, np.ndarray]
# What a corruption did: the names of which at least one must stand in the answer.
Corruption = Callable[[Arrays, random.Random], set[str]]


def model() -> Arrays:
    """Two blocks with square matrices, biases of zeros, integers and booleans."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for block in range(3):
        arrays[f"block.{block}.weight"] = rng.standard_normal((8, 8)).astype(np.float32)
        arrays[f"block.{block}.bias"] = np.zeros(8, np.float32)
        arrays[f"block.{block}.scale"] = rng.standard_normal(8).astype(np.float16)
        arrays[f"block.{block}.mask"] = rng.integers(0, 2, 16).astype(bool)
    arrays["ids"] = np.arange(12, dtype=np.int64)
    arrays["head.weight"] = rng.standard_normal((4, 8)).astype(np.float64)
    return arrays


def flip_bit(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice([name for name, array in arrays.items() if array.dtype != bool])
    raw = arrays[name].reshape(-1).view(np.uint8)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return {name}


def flip_flag(arrays: Arrays, rng: random.Random) -> set[str]:
    name = f"block.{rng.randrange(3)}.mask"
    place = rng.randrange(16)
    arrays[name][place] = not arrays[name][place]
    return {name}


def swap_tensors(arrays: Arrays, rng: random.Random) -> set[str]:
    a, b = rng.sample([f"block.{i}.{leaf}" for i in range(3) for leaf in ("weight",)], 2)
    arrays[a], arrays[b] = arrays[b], arrays[a]
    return {a, b}


def rename(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice(list(arrays))
    arrays[name + rng.choice("_x.")] = arrays.pop(name)
    return {name}


def transpose(arrays: Arrays, rng: random.Random) -> set[str]:
    name = f"block.{rng.randrange(3)}.weight"
    arrays[name] = np.ascontiguousarray(arrays[name].T)
    return {name}


def reinterpret(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice([name for name, array in arrays.items() if array.dtype != bool])
    size = arrays[name].itemsize
    kinds = {2: ["i2", "u2"], 4: ["i4", "u4"], 8: ["u8"]}[size]
    arrays[name] = arrays[name].view(rng.choice(kinds))
    return {name}


def reshape(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice(list(arrays))
    arrays[name] = arrays[name].reshape(-1, 2)
    return {name}


def inject_nan(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice([name for name, array in arrays.items() if array.dtype.kind == "f"])
    flat = arrays[name].reshape(-1)
    flat[rng.randrange(len(flat))] = rng.choice([np.nan, np.inf, -np.inf])
    return {name}


def negate_zero(arrays: Arrays, rng: random.Random) -> set[str]:
    name = f"block.{rng.randrange(3)}.bias"
    arrays[name][rng.randrange(8)] = -0.0
    return {name}


def drop(arrays: Arrays, rng: random.Random) -> set[str]:
    name = rng.choice([name for name in arrays if name.endswith("bias")])
    del arrays[name]
    return {name}


def add(arrays: Arrays, rng: random.Random) -> set[str]:
    arrays["added"] = rng.choice(list(arrays.values())).copy()
    return {"added"}


CORRUPTIONS: tuple[Corruption, ...] = (
    flip_bit, flip_flag, swap_tensors, rename, transpose, reinterpret, reshape, inject_nan,
    negate_zero, drop, add,
)  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> tuple[Arrays, str]:
    folder = tmp_path_factory.mktemp("release")
    save_file(model(), folder / "m.safetensors")
    path = str(folder / "m.manifest.json")
    wtool.manifest(str(folder / "m.safetensors"), output=path)
    assert wtool.verify(str(folder / "m.safetensors"), path).ok
    return load_file(folder / "m.safetensors"), path


def test_a_thousand_corruptions_are_detected_and_named(tmp_path, release):
    arrays, manifest = release
    path = tmp_path / "bad.safetensors"
    for seed in range(COUNT):
        rng = random.Random(seed)
        corrupt = CORRUPTIONS[seed % len(CORRUPTIONS)]
        changed = {name: array.copy() for name, array in arrays.items()}
        expected = corrupt(changed, rng)
        save_file(changed, path)
        report = wtool.verify(str(path), manifest, jobs=1)
        assert not report.ok, (seed, corrupt.__name__)
        named = {row["name"] for row in report.rows}
        assert expected <= named, (seed, corrupt.__name__)
        # Nothing that was left alone is blamed, but for the other name of a renamed tensor.
        others = {name for name in named - expected if name in arrays}
        assert not others, (seed, corrupt.__name__)


@pytest.mark.parametrize(
    ("corrupt", "status"),
    [
        (flip_bit, "different"), (swap_tensors, "different"), (transpose, "different"),
        (reinterpret, "retyped"), (reshape, "reshaped"), (drop, "missing"), (add, "extra"),
    ],
)  # fmt: skip
def test_every_corruption_is_called_what_it_is(tmp_path, release, corrupt, status):
    arrays, manifest = release
    changed = {name: array.copy() for name, array in arrays.items()}
    expected = corrupt(changed, random.Random(7))
    save_file(changed, tmp_path / "bad.safetensors")
    rows = wtool.verify(str(tmp_path / "bad.safetensors"), manifest).rows
    assert {row["name"]: row["status"] for row in rows} == dict.fromkeys(expected, status)


def test_a_renamed_tensor_is_found_by_its_content(tmp_path, release):
    arrays, manifest = release
    changed = dict(arrays)
    changed["linear.weight"] = changed.pop("head.weight")
    save_file(changed, tmp_path / "bad.safetensors")
    (row,) = wtool.verify(str(tmp_path / "bad.safetensors"), manifest).rows
    assert (row["status"], row["expected"], row["found"]) == (
        "renamed", "head.weight", "linear.weight",
    )  # fmt: skip


def test_swapped_tensors_are_told_whose_content_they_have(tmp_path, release):
    arrays, manifest = release
    changed = dict(arrays)
    a, b = "block.0.weight", "block.2.weight"
    changed[a], changed[b] = arrays[b], arrays[a]
    save_file(changed, tmp_path / "bad.safetensors")
    rows = wtool.verify(str(tmp_path / "bad.safetensors"), manifest).rows
    assert {row["name"]: row["found"] for row in rows} == {
        a: f"the content of '{b}'", b: f"the content of '{a}'",
    }  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, str]:
    """The three shards of the digits CNN and their manifest."""
    source = Path(__file__).parents[2] / "fixtures" / "digits-cnn-safetensors-shards"
    folder = tmp_path_factory.mktemp("shards") / "model"
    shutil.copytree(source, folder)
    path = str(folder.parent / "m.manifest.json")
    wtool.manifest(str(folder), output=path)
    return folder, path


def test_swapped_shards_are_detected(tmp_path, shards):
    folder, manifest = shards
    bad = tmp_path / "model"
    shutil.copytree(folder, bad)
    first, second, _ = sorted(bad.glob("*.safetensors"))
    first.rename(bad / "swap")
    second.rename(first)
    (bad / "swap").rename(second)
    names = load_file(first).keys() | load_file(second).keys()
    with pytest.raises(InputError) as caught:
        wtool.verify(str(bad), manifest)
    assert caught.value.tensor in names
    report = wtool.verify(str(bad), manifest, files=True)
    assert {row["name"]: row["status"] for row in report.rows} == {
        first.name: "different", second.name: "different",
    }  # fmt: skip


def test_cut_and_missing_files_are_detected(tmp_path, shards):
    folder, manifest = shards
    bad = tmp_path / "model"
    shutil.copytree(folder, bad)
    first, second, _ = sorted(bad.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-5])
    second.unlink()
    with pytest.raises(InputError):
        wtool.verify(str(bad), manifest)
    report = wtool.verify(str(bad), manifest, files=True)
    assert {row["name"]: row["status"] for row in report.rows} == {
        first.name: "different", second.name: "missing",
    }  # fmt: skip


def test_a_file_cut_anywhere_is_an_error_of_the_file(tmp_path, release):
    arrays, manifest = release
    save_file(arrays, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    rng = random.Random(0)
    for _ in range(20):
        (tmp_path / "cut.safetensors").write_bytes(data[: rng.randrange(len(data))])
        with pytest.raises(InputError, match=r"cut\.safetensors"):
            wtool.verify(str(tmp_path / "cut.safetensors"), manifest)
