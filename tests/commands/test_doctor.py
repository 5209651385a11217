"""`wtool doctor`: files that do not load, why, and the command that mends them, which is run."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checks"))

from planting import sound

import wtool
from wtool.cli import run
from wtool.errors import TruncatedInput

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def problems(model, **more):
    report = wtool.doctor(str(model), **more)
    assert report.ok == (not report.rows)
    return [(row["problem"], row["where"]) for row in report.rows]


def tensors():
    return {name: torch.from_numpy(value.copy()) for name, value in sound().items()}


def save(path, model):
    torch.save(model, path)
    return str(path)


@pytest.fixture
def reference(tmp_path):
    return save(tmp_path / "reference.pth", tensors())


def test_nothing_stands_in_the_way_of_a_sound_file(reference):
    assert problems(reference) == []
    assert problems(reference, against=reference) == []


def test_a_module_names_its_classes():
    found = problems(FIXTURES / "digits-cnn-module.pth")
    assert {problem for problem, _ in found} == {"refused global"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "net."])
def test_a_prefix_is_found_and_the_command_mends_it(tmp_path, reference, prefix):
    path = save(tmp_path / "m.pth", {prefix + name: value for name, value in tensors().items()})
    report = wtool.doctor(path, against=reference)
    row = next(row for row in report.rows if row["problem"] == "prefix")
    assert row["found"] == f"names begin with '{prefix}'"
    mended = str(tmp_path / "mended.safetensors")
    command = shlex.split(row["mend"].replace("OUT.safetensors", shlex.quote(mended)))
    assert run(command[1:]) == 0
    assert problems(mended, against=reference) == []


def test_a_missing_prefix_is_found_and_the_command_mends_it(tmp_path, reference):
    path = save(tmp_path / "m.pth", {"model." + n: value for n, value in tensors().items()})
    row = next(r for r in wtool.doctor(reference, against=path).rows if r["problem"] == "prefix")
    assert row["found"] == "names lack 'model.'"
    mended = str(tmp_path / "mended.safetensors")
    command = shlex.split(row["mend"].replace("OUT.safetensors", shlex.quote(mended)))
    assert run(command[1:]) == 0
    assert problems(mended, against=path) == []


def test_keys_shapes_and_types_are_compared(tmp_path, reference):
    model = tensors()
    model["extra.weight"] = torch.ones(2, 3)
    del model["stem.bias"]
    model["head.weight"] = torch.randn(12, 24)
    model["blocks.0.fc.weight"] = model["blocks.0.fc.weight"].half()
    report = wtool.doctor(save(tmp_path / "m.pth", model), against=reference)
    rows = {(r["problem"], r["where"]): (r["found"], r["expected"]) for r in report.rows}
    assert rows == {
        ("missing key", "stem.bias"): ("no such tensor", "24 float32"),
        ("unexpected key", "extra.weight"): ("2x3 float32", "no such tensor"),
        ("shape", "head.weight"): ("12x24", "10x24"),
        ("dtype", "blocks.0.fc.weight"): ("float16", "float32"),
    }


def test_a_lost_tie_is_told_from_a_lost_tensor(tmp_path):
    weight = torch.randn(8, 8)
    tied = save(tmp_path / "tied.pth", {"embed.weight": weight, "head.weight": weight})
    alone = save(tmp_path / "alone.pth", {"embed.weight": weight})
    assert problems(alone, against=tied) == [("tie missing", "head.weight")]


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
def test_a_tied_name_that_safetensors_could_not_keep_is_not_unexpected(tmp_path, kept):
    weight, rest = torch.randn(8, 8), torch.randn(3)
    both = {"embed.weight": weight, "head.weight": weight, "norm.bias": rest}
    tied = save(tmp_path / "tied.pth", both)
    one = {kept: weight, "norm.bias": rest}
    safetensors.torch.save_file(one, tmp_path / "reference.safetensors")
    assert problems(tied, against=str(tmp_path / "reference.safetensors")) == []
    # PyTorch would have saved both names: a loader whose state dict lacks one refuses the other.
    lost = "head.weight" if kept == "embed.weight" else "embed.weight"
    reference = save(tmp_path / "reference.pth", one)
    assert problems(tied, against=reference) == [("unexpected key", lost)]
    part = save(tmp_path / "part.pth", {**one, "part.bias": weight[0], "norm.bias": rest})
    assert problems(part, against=str(tmp_path / "reference.safetensors")) == [
        ("unexpected key", "part.bias")
    ]


def test_a_file_without_tensors_is_not_fit_to_load(tmp_path):
    path = save(tmp_path / "m.pth", {})
    assert problems(path) == [("no values", path)]


def test_a_difference_of_every_tensor_still_fits_on_one_screen(tmp_path, reference):
    halves = {name: value.half() for name, value in tensors().items()}
    rows = wtool.doctor(save(tmp_path / "half.pth", halves), against=reference).rows
    same = [row for row in rows if row["problem"] == "dtype"]
    assert len(same) == 9
    assert same[-1]["where"] == "..."
    assert same[-1]["found"] == f"{len(halves) - 8} more"


def test_another_type_is_mended_by_a_command_that_runs_or_by_none(tmp_path):
    model = {"a.weight": torch.randn(3, 3), "a.steps": torch.tensor(3)}
    reference = save(tmp_path / "reference.pth", model)
    path = save(tmp_path / "half.pth", {name: value.half() for name, value in model.items()})
    mends = {row["where"]: row["mend"] for row in wtool.doctor(path, against=reference).rows}
    assert mends["a.steps"] == "save it in that type, or load it with what converts it"
    mended = str(tmp_path / "mended.safetensors")
    command = shlex.split(mends["a.weight"].replace("OUT.safetensors", shlex.quote(mended)))
    assert run(command[1:]) == 0
    assert wtool.open(mended)["a.weight"].dtype.name == "float32"


def test_a_list_of_names_serves_as_reference(tmp_path, reference):
    path = tmp_path / "names.txt"
    lines = [f"{t.name} {'x'.join(map(str, t.shape)) or 'scalar'}" for t in wtool.open(reference)]
    path.write_text("# names\n\n" + "\n".join(lines) + "\nmore.bias\n")
    assert problems(reference, against=str(path)) == [("missing key", "more.bias")]
    path.write_text("a.weight 3 x 4\n")
    assert run(["doctor", reference, "--against", str(path)]) == 3


def test_another_model_is_one_reason():
    found = problems(FIXTURES / "topics-rnn.pth", against=str(FIXTURES / "digits-cnn.pth"))
    assert [problem for problem, _ in found] == ["other names"]


def test_a_nested_model_is_named_with_its_branch(tmp_path, reference):
    path = save(tmp_path / "m.pth", {"state_dict": tensors(), "epoch": 3})
    assert problems(path, against=reference) == [("nested", "state_dict")]


def test_byte_order_is_told():
    assert ("byte order", "f32") in problems(FIXTURES / "odd" / "big-endian.pth")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_archive_says_in_which_tensor(tmp_path, share):
    """The tensor that the last byte lies in, as the whole file places it."""
    whole = save(tmp_path / "whole.pth", tensors())
    size = int(Path(whole).stat().st_size * share)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(Path(whole).read_bytes()[:size])
    here = [t.name for t in wtool.open(whole) if t.offset <= size < t.offset + t.nbytes]
    lost = sum(t.offset + t.nbytes > size for t in wtool.open(whole))
    (row,) = wtool.doctor(str(cut)).rows
    assert row["problem"] == "cut short"
    assert f"cut at byte {size:,}" in row["found"]
    assert f"{lost} of {len(sound())} tensors are not whole" in row["found"]
    if here:
        assert f"tensor '{here[0]}'" in row["found"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_every_command_names_the_tensor_that_a_cut_archive_ends_in(tmp_path, share):
    whole = save(tmp_path / "whole.pth", tensors())
    size = int(Path(whole).stat().st_size * share)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(Path(whole).read_bytes()[:size])
    first = next(t.name for t in wtool.open(whole) if t.offset + t.nbytes > size)
    with pytest.raises(TruncatedInput) as caught:
        wtool.open(str(cut))
    assert caught.value.path == str(cut)
    assert caught.value.tensor == first
    assert f"cut at byte {size:,}" in str(caught.value)
    assert "fetch the file again" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cut.safetensors", "cut short"),
        ("cut-legacy.pth", "cut short"),
        ("cut.weights.h5", "cut short"),
        ("tf-cut-data", "cut short"),
        ("tf-no-data", "missing file"),
        ("lfs-pointer.safetensors", "not a weight file"),
        ("web-page.pth", "not a weight file"),
        ("overlap.safetensors", "malformed"),
        ("huge-memo.pth", "unsafe"),
    ],
)
def test_an_unreadable_file_is_explained_not_raised(name, problem):
    assert [kind for kind, _ in problems(FIXTURES / "broken" / name)] == [problem]


def test_damage_is_found_by_its_checksum(tmp_path):
    shutil.copytree(FIXTURES / "digits-cnn-tf1", tmp_path / "tf1")
    (path,) = (tmp_path / "tf1").glob("*.data-*")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert [problem for problem, _ in problems(tmp_path / "tf1")] == ["wrong checksum"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fixtures/digits-cnn.pth"], 0),
        (["fixtures/broken/cut.pth"], 1),
        (["fixtures/nowhere.pth"], 3),
        (["fixtures/digits-cnn.pth", "--against", "fixtures/broken/cut.pth"], 3),
    ],
)
def test_exit_codes(monkeypatch, arguments, code):
    monkeypatch.chdir(FIXTURES.parent)
    assert run(["doctor", *arguments]) == code
