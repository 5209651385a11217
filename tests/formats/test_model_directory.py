"""Model folders: which file is opened, what is left aside, and what is left to other formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from wtool.errors import MalformedInput, UnknownFormat
from wtool.formats import Probe, open_checkpoint
from wtool.formats.model_directory import claims

ONES = np.ones(3, np.float32)


def save(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        safetensors.numpy.save_file({"w": ONES * value}, path)
    elif name.endswith(".index.json"):
        shard = name.replace(".safetensors.index.json", "-00001-of-00001.safetensors")
        save(folder, shard, value)
        path.write_text(json.dumps({"weight_map": {"w": shard}}))
    else:
        torch.save({"w": torch.ones(3) * value}, path)
    return path


def test_one_safetensors_file_is_the_model(tmp_path: Path) -> None:
    path = save(tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type":"bert","hidden_size":64,"nested":{"x":1},"eps":1e-12,"tied":true,"no":null}'
    )
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.path == str(tmp_path)
    assert checkpoint.format == "safetensors"
    assert checkpoint.files == (str(path),)
    assert checkpoint["w"].load().tolist() == [1, 1, 1]
    assert checkpoint.notes == ("opened model.safetensors",)
    assert checkpoint.extras == {
        "config.model_type": "bert",
        "config.hidden_size": 64,
        "config.eps": "1e-12",
        "config.tied": True,
        "config.no": None,
    }


def test_an_unreadable_config_is_a_note(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text("[NaN")
    notes = open_checkpoint(tmp_path).notes
    assert notes[1] == "config.json is not used: it is too long or not a JSON object"


def test_an_index_opens_its_shards(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors.index.json")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "sharded"
    assert list(checkpoint.tensors) == ["w"]


def test_safetensors_goes_before_pytorch_with_a_note(tmp_path: Path) -> None:
    save(tmp_path, "pytorch_model.bin", 2.0)
    save(tmp_path, "model.safetensors", 1.0)
    save(tmp_path, "training_args.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint["w"].load().tolist() == [1, 1, 1]
    assert checkpoint.notes == (
        "opened model.safetensors; the same model in another form is left aside: pytorch_model.bin",
    )


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "adapter_model.bin", "net.pt"]
)
def test_a_pytorch_file_is_the_model(name: str, tmp_path: Path) -> None:
    save(tmp_path, name)
    save(tmp_path, "optimizer.pt")
    assert open_checkpoint(tmp_path).notes[0] == f"opened {name}"


def test_parts_of_ranks_are_no_models_of_their_own(tmp_path: Path) -> None:
    for rank in (1, 2):
        save(tmp_path, f"shard-0000{rank}-model-00001-of-00001.safetensors")
    with pytest.raises(UnknownFormat, match="the parts of 2 ranks of torch"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["a.safetensors", "b.safetensors"], "a.safetensors, b.safetensors"),
        (
            ["model.safetensors", "adapter_model.safetensors"],
            "model.safetensors, adapter_model.safetensors",
        ),
        (
            [f"{i}.safetensors" for i in range(10)],
            ", ".join(f"{i}.safetensors" for i in range(8)) + " and 2 more",
        ),
    ],
)
def test_several_models_are_listed(names: list[str], listed: str, tmp_path: Path) -> None:
    for name in names:
        save(tmp_path, name)
    with pytest.raises(UnknownFormat) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the folder holds several models: expected one, found {listed} "
        "(name the file to open)"
    )


@pytest.mark.parametrize(
    "mark", ["checkpoint", "saved_model.pb", ".metadata", "x.index", "0_0.distcp"]
)
def test_folders_of_other_formats_are_left_to_them(mark: str, tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors")
    assert claims(Probe(tmp_path))
    (tmp_path / mark).touch()
    assert not claims(Probe(tmp_path))


def test_a_folder_without_weights_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deeper").mkdir()
    save(tmp_path / "deeper", "model.safetensors")
    assert not claims(Probe(tmp_path))


def test_a_broken_file_in_the_folder_is_named_itself(tmp_path: Path) -> None:
    path = save(tmp_path, "model.safetensors")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MalformedInput) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
