"""Sharded models: the map decides names and order, and each of its promises is checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from wtool.errors import InputError, MalformedInput, MissingInput, UnsafeInput, UsageError
from wtool.formats import Probe, find_format, open_checkpoint

A, B, C = (np.arange(n, dtype=np.float32) for n in (3, 4, 5))
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save(
    folder: Path, shards: dict[str, dict[str, np.ndarray]], index: Any, metadata: Any = None
) -> Path:
    for name, tensors in shards.items():
        safetensors.numpy.save_file(tensors, folder / name, metadata)
    path = folder / "model.safetensors.index.json"
    path.write_text(index if type(index) is str else json.dumps(index))
    return path


def two_shards(folder: Path, weight_map: dict[str, Any] | None = None, **metadata: Any) -> Path:
    """a and c in the first shard, b in the second; the map in the order c, b, a."""
    weight_map = {"c": FIRST, "b": SECOND, "a": FIRST} if weight_map is None else weight_map
    return save(
        folder,
        {FIRST: {"a": A, "c": C}, SECOND: {"b": B}},
        {"metadata": metadata or {"total_size": 48}, "weight_map": weight_map},
        {"format": "pt"},
    )


def test_shards_read_as_one_model_in_the_order_of_the_map(tmp_path: Path) -> None:
    path = two_shards(tmp_path)
    assert find_format(Probe(path)).name == "sharded"
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["c", "b", "a"]
    for name, expected in (("a", A), ("b", B), ("c", C)):
        assert checkpoint[name].load().tobytes() == expected.tobytes()
        assert checkpoint[name].key == name
    assert checkpoint["b"].source.name == str(tmp_path / SECOND)
    assert checkpoint.files == (str(path), str(tmp_path / FIRST), str(tmp_path / SECOND))
    assert checkpoint.metadata == {"format": "pt", "total_size": "48"}
    assert checkpoint.notes == ()


def test_shards_of_pytorch_read_as_torch_reads_them(tmp_path: Path) -> None:
    """`*.bin.index.json`: shards of torch.save, among them one of before 1.6, and a tie."""
    weight = torch.randn(4, 3)
    first = {"a.weight": weight, "a.tied": weight, "half": torch.randn(5).half()}
    second = {"b.steps": torch.tensor(7), "b.flags": torch.tensor([True, False])}
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    torch.save(first, tmp_path / names[0])
    torch.save(second, tmp_path / names[1], _use_new_zipfile_serialization=False)
    weight_map = {**dict.fromkeys(first, names[0]), **dict.fromkeys(second, names[1])}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 68}, "weight_map": weight_map}))
    for path in (index, tmp_path):
        checkpoint = open_checkpoint(path)
        assert list(checkpoint.tensors) == list(weight_map)
        for name, shard in weight_map.items():
            expected = torch.load(tmp_path / shard)[name].numpy()
            found = checkpoint[name].load()
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tobytes() == expected.tobytes()
            assert os.path.basename(checkpoint[name].source.name) == shard
        assert checkpoint.aliases == {"a.tied": "a.weight"}
        assert checkpoint.globals["torch._utils._rebuild_tensor_v2"] == 4
        assert not any("total_size" in note for note in checkpoint.notes)


def test_a_wrong_total_size_is_a_note(tmp_path: Path) -> None:
    path = two_shards(tmp_path, total_size=1e3, other={"nested": 1}, text="kept")
    checkpoint = open_checkpoint(path)
    assert checkpoint.notes == ("the index says total_size 1000.0, the tensors take 48 bytes",)
    assert checkpoint.metadata == {"format": "pt", "total_size": "1000.0", "text": "kept"}


def test_a_tie_in_the_index_metadata_is_an_alias(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(two_shards(tmp_path, total_size=48, head="b", lost="nowhere"))
    assert list(checkpoint.tensors) == ["c", "b", "a", "head"]
    assert checkpoint.aliases == {"head": "b"}
    assert checkpoint.notes == ("'head' is not stored: the metadata says that it is 'b'",)


def test_tensors_that_the_map_does_not_name_are_left_out_with_a_note(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(two_shards(tmp_path, {"b": SECOND, "a": FIRST}, x="y"))
    assert list(checkpoint.tensors) == ["b", "a"]
    assert checkpoint.notes == (f"{FIRST}: 1 tensor is not named by the index, left out: 'c'",)


def test_a_missing_shard_is_named_with_what_it_held(tmp_path: Path) -> None:
    path = two_shards(tmp_path)
    (tmp_path / FIRST).unlink()
    with pytest.raises(MissingInput) as caught:
        open_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: shard not found: '{FIRST}': expected 2 shards beside the index, found 1, so 2 of "
        "3 tensors are missing (fetch the missing files into the same folder)"
    )


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": SECOND}, f"tensor 'a': .*expected in {SECOND}, found in {FIRST}"),
        ({"x": SECOND}, "tensor 'x': .*found in none of the shards"),
    ],
)
def test_a_tensor_must_be_in_the_shard_that_the_map_names(
    weight_map: dict[str, str], message: str, tmp_path: Path
) -> None:
    shards = {"b": SECOND, "c": FIRST}
    with pytest.raises(MalformedInput, match=message):
        open_checkpoint(two_shards(tmp_path, shards | weight_map))


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "\u202ex",
    ],
)
def test_a_shard_never_leaves_the_folder_of_the_index(shard: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInput, match="tensor 'a': shard is not a plain file name"):
        open_checkpoint(two_shards(tmp_path, {"a": shard}))


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        ('{"weight_map":[]}', MalformedInput, "index has no weight_map"),
        ('{"x":"weight_map","y":{"weight_map":{}}}', MalformedInput, "index has no weight_map"),
        ('{"weight_map":{"a":{"x":"y"}}}', MalformedInput, "tensor 'a': weight_map value is not"),
        ('{"weight_map":{"a":7}}', MalformedInput, "weight_map value is not a file name"),
        ('{"weight_map":{"a":"x","a":"y"}}', MalformedInput, "a key twice: found 'a'"),
        ('{"weight_map":{"a":"X","b":"x"}}', UnsafeInput, "differ in case only"),
        (
            '{"weight_map":{"a":"model.safetensors.index.json"}}',
            MalformedInput,
            "is itself an index",
        ),
        ('{"weight_map":{"a":"x"}', MalformedInput, "JSON is malformed"),
    ],
)  # fmt: skip
def test_a_broken_index_is_refused(
    index: str, kind: type[InputError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        open_checkpoint(save(tmp_path, {}, index))


def test_a_broken_shard_is_named_itself(tmp_path: Path) -> None:
    path = two_shards(tmp_path)
    shard = tmp_path / SECOND
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{shard}: tensor 'b': ")


def test_an_empty_map_is_an_empty_model(tmp_path: Path) -> None:
    assert len(open_checkpoint(save(tmp_path, {}, {"weight_map": {}}))) == 0


def test_a_branch_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a sharded model has no branches"):
        open_checkpoint(two_shards(tmp_path), root="model")


def test_a_map_that_begins_late_is_known_by_the_name_of_the_file(tmp_path: Path) -> None:
    path = two_shards(tmp_path, **{f"note {i}": "x" * 100 for i in range(100)})
    assert list(open_checkpoint(path).tensors) == ["c", "b", "a"]
