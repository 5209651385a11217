"""The rules about files: archives that leak, waste, hide or are damaged, and clean ones."""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from planting import found, outcomes, sound, write
from test_structure_rules import shards

from wtool.checks.policy import Policy

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def tensors():
    return {name: torch.from_numpy(np.array(value)) for name, value in sound().items()}


def save(path, **extras):
    torch.save({"state_dict": tensors(), **extras} if extras else tensors(), path)
    return str(path)


def codes(path, **more):
    return {code for code, _ in found(path, **more)}


class Schedule:
    """A class that only this file has."""


def test_a_plain_torch_file_is_clean(tmp_path):
    assert found(save(tmp_path / "m.pth")) == set()


def test_a_class_of_ones_own_is_refused_and_unknown(tmp_path):
    (a, b) = outcomes(save(tmp_path / "m.pth", schedule=Schedule()))
    assert (a.rule.code, a.severity) == ("WT040", "warning")
    assert (b.rule.code, b.severity) == ("WT041", "warning")
    assert a.finding.value == b.finding.value == f"{__name__}.Schedule"
    assert "'schedule'" in b.message


class Attack:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_global_that_runs_code_is_an_error(tmp_path):
    hits = outcomes(save(tmp_path / "m.pth", payload=Attack()), only=("WT040",))
    assert [(hit.severity, hit.finding.value) for hit in hits] == [("error", "posix.system")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/alice/imagenet", {"WT042", "WT043"}),
        ("C:\\Users\\Alice\\weights", {"WT042", "WT043"}),
        ("/scratch/project/run7", {"WT042"}),
        ("mail alice@lab.example.org", {"WT043"}),
        ("digits/train.csv", set()),
        ("see https://example.org/home/page", set()),
    ],
)
def test_paths_and_people_in_arguments_are_found(tmp_path, value, expected):
    path = save(tmp_path / "m.pth", args={"data": value, "epochs": 3})
    assert codes(path) == expected


def test_names_inside_an_object_are_found(tmp_path):
    path = save(tmp_path / "m.pth", args=argparse.Namespace(hostname="gpu-node-17"))
    hits = outcomes(path, only=("WT043",))
    assert [hit.finding.value for hit in hits] == ["gpu-node-17"]


def rezip(source, target, change):
    """A copy of a zip file, stored, with `change(name, data)` applied; None drops a member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(zipfile.ZipInfo(info.filename), data)
    return str(target)


def test_a_storage_that_nothing_names_is_found(tmp_path):
    path = rezip(save(tmp_path / "m.pth"), tmp_path / "n.pth", lambda name, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("m/data/999"), b"\0" * 5000)
    hits = outcomes(path, only=("WT044",))
    assert [hit.finding.value for hit in hits] == [5000]


def test_bytes_behind_a_view_are_found(tmp_path):
    torch.save(
        {"a.weight": torch.randn(100, 100)[:3], "b.weight": torch.randn(8, 8)}, tmp_path / "v.pth"
    )
    hits = outcomes(str(tmp_path / "v.pth"), only=("WT045",))
    assert [(hit.finding.tensor, hit.finding.value) for hit in hits] == [("a.weight", 38_800)]


def append(source, target, data=b"\0" * 77):
    shutil.copy(source, target)
    with open(target, "ab") as file:
        file.write(data)
    return str(target)


@pytest.mark.parametrize(
    "name", ["digits-cnn.pth", "digits-cnn-legacy.pth", "digits-cnn.weights.h5", "digits-cnn.npz"]
)
def test_bytes_behind_the_end_are_found(tmp_path, name):
    path = append(FIXTURES / name, tmp_path / name)
    hits = outcomes(path, only=("WT046",))
    assert [hit.finding.value for hit in hits] == [77]
    assert outcomes(str(FIXTURES / name), only=("WT046",)) == []


def test_bytes_behind_the_data_of_a_bundle_are_found(tmp_path):
    shutil.copytree(FIXTURES / "digits-cnn-tf1", tmp_path / "tf1")
    (data,) = (tmp_path / "tf1").glob("*.data-*")
    with data.open("ab") as file:
        file.write(b"\0" * 9)
    hits = outcomes(str(tmp_path / "tf1"), only=("WT046",))
    assert [hit.finding.value for hit in hits] == [9]


def test_a_flipped_byte_in_a_zip_file_breaks_its_checksum(tmp_path):
    path = Path(save(tmp_path / "m.pth"))
    data = bytearray(path.read_bytes())
    at = data.find(sound()["blocks.3.conv.weight"].tobytes()[:64])
    data[at + 5] ^= 1
    path.write_bytes(data)
    (hit,) = outcomes(str(path), only=("WT047",))
    assert hit.severity == "error"
    assert "/data/" in hit.message


def test_a_flipped_byte_in_a_bundle_breaks_the_tensors_checksum(tmp_path):
    shutil.copytree(FIXTURES / "digits-cnn-tf1", tmp_path / "tf1")
    (path,) = (tmp_path / "tf1").glob("*.data-*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    (hit,) = outcomes(str(tmp_path / "tf1"), only=("WT047",))
    assert hit.severity == "error"
    assert hit.finding.tensor is not None


def test_left_out_checksums_are_a_note(tmp_path):
    hits = outcomes(str(FIXTURES / "odd" / "no-crc.pth"), only=("WT048",))
    assert [hit.severity for hit in hits] == ["note"]
    assert outcomes(str(FIXTURES / "digits-cnn.pth"), only=("WT048",)) == []


def test_tensors_off_their_alignment_are_a_note(tmp_path):
    path = str(FIXTURES / "odd" / "untidy-header.safetensors")
    assert [hit.severity for hit in outcomes(path, only=("WT049",))] == ["note"]


def test_names_that_differ_in_case_only_are_found(tmp_path):
    model = sound() | {"Head.weight": sound(1)["head.weight"]}
    path = write(model, tmp_path / "m.safetensors")
    assert found(path) == {("WT050", "head.weight")}


def test_an_old_container_is_named():
    path = str(FIXTURES / "digits-cnn-legacy.pth")
    assert [hit.finding.value for hit in outcomes(path)] == ["torch-legacy"]


def test_a_clock_in_the_members_is_a_note(tmp_path):
    np.savez(tmp_path / "m.npz", **sound())
    hits = outcomes(str(tmp_path / "m.npz"))
    dates = [hit for hit in hits if hit.rule.code == "WT052"]
    # NumPy writes the clock where it lets zipfile choose the date.
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        year = archive.infolist()[0].date_time[0]
    assert [hit.severity for hit in dates] == (["note"] if year > 1980 else [])
    path = save(tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "clock.pth", "w") as new, zipfile.ZipFile(path) as old:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename, (2026, 3, 2, 1, 2, 4)), old.read(info))
    hits = outcomes(str(tmp_path / "clock.pth"), only=("WT052",))
    assert [hit.finding.value for hit in hits] == ["2026-03-02"]


def test_a_file_beyond_the_limit_is_found(tmp_path):
    path = write(sound(), tmp_path / "m.safetensors")
    size = os.path.getsize(path)
    assert codes(path, policy=Policy(limits={"file_bytes": size})) == set()
    hits = outcomes(path, Policy(limits={"file_bytes": size - 1}))
    assert [(hit.rule.code, hit.severity) for hit in hits] == [("WT053", "error")]


def test_a_huge_file_is_found_without_a_policy(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[50000000001],"data_offsets":[0,50000000001]}}'
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + 50_000_000_001)
    assert [hit.severity for hit in outcomes(str(path), only=("WT053",))] == ["warning"]


def test_stray_and_oversized_shards_are_found(tmp_path):
    path = shards(tmp_path)
    write({"x.weight": sound()["head.weight"]}, tmp_path / "model-00003-of-00003.safetensors")
    (stray,) = outcomes(path)
    assert stray.rule.code == "WT054"
    assert stray.finding.file == str(tmp_path / "model-00003-of-00003.safetensors")
    hits = outcomes(path, Policy(limits={"shard_bytes": 10}))
    assert [hit.severity for hit in hits] == ["warning", "error", "error"]


def test_twins_are_compared_value_for_value(tmp_path):
    path = write(sound(), tmp_path / "model.safetensors")
    model = tensors()
    torch.save(model, tmp_path / "pytorch_model.bin")
    assert found(path) == set()
    model["head.weight"][3, 4] += 1
    torch.save(model, tmp_path / "pytorch_model.bin")
    (hit,) = outcomes(path)
    assert (hit.rule.code, hit.severity) == ("WT055", "error")
    assert (hit.finding.tensor, hit.finding.index) == ("head.weight", (3, 4))
    del model["stem.bias"]
    torch.save(model, tmp_path / "pytorch_model.bin")
    assert ("WT055", "stem.bias") in found(path)
