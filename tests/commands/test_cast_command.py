"""`wtool cast`: types, rounding and the damage report, beside torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wtool
from wtool.cli import run
from wtool.commands.cast import TYPES
from wtool.errors import LossError, UnsupportedError, UsageError
from wtool.kernels.cast import ON_OVERFLOW, TARGETS

FIXTURES = Path(__file__).parents[2] / "fixtures"
PLAIN = str(FIXTURES / "digits-cnn.pth")
TRAINING = str(FIXTURES / "digits-cnn-training.pth")


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        t.dtype == expected[n].dtype
        and t.shape == expected[n].shape
        and bits(t) == bits(expected[n])
        for n, t in found.items()
    )


@pytest.fixture
def source(tmp_path) -> str:
    """A float32 tensor with an element of every fate in float16, and others to leave alone."""
    values = torch.tensor([1.0, 1e5, 1e-9, 1e-5, 0.0, -7e4, 0.1, float("inf"), float("nan")])
    state = {
        "layer.weight": values,
        "norm.weight": torch.ones(3) * 1.1,
        "norm.bias": torch.ones(3),
        "steps": torch.tensor([1, 2]),
        "mask": torch.tensor([True, False]),
    }
    torch.save(state, tmp_path / "in.pth")
    return str(tmp_path / "in.pth")


@pytest.mark.parametrize("to", TYPES)
@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_a_real_model_is_cast_bit_for_bit_as_torch_casts(tmp_path, to, name):
    target = tmp_path / name
    wtool.cast(PLAIN, str(target), to=to)
    found = load_file(target) if name == "m.safetensors" else torch.load(target, weights_only=True)
    expected = {
        n: t.to(getattr(torch, to)) if t.is_floating_point() else t
        for n, t in torch.load(PLAIN, weights_only=True).items()
    }
    assert same(found, expected)


def test_the_command_offers_what_the_kernel_does():
    assert set(TYPES) == set(TARGETS)
    from wtool.commands.cast import ON_OVERFLOW as offered

    assert offered == ON_OVERFLOW


def test_the_damage_report_counts_every_fate(tmp_path, source):
    report = wtool.cast(source, str(tmp_path / "m.pth"), to="float16", on_overflow="inf")
    row = report.rows[0]
    tiny = torch.tensor(1e-5)
    subnormal = float((tiny.half().float() - tiny).abs() / tiny)
    assert subnormal < 1
    expected = {
        "name": "layer.weight",
        "from": "float32",
        "to": "float16",
        "count": 9,
        "overflowed": 2,
        "flushed": 1,
        "subnormal": 1,
        "max_rel": 1.0,
        "worst": 1,
        "old": 1e5,
        "new": float("inf"),
        "nbytes_before": 36,
        "nbytes_after": 18,
    }
    assert {key: row[key] for key in expected} == expected
    third = float((torch.tensor(0.1).half().float() - torch.tensor(0.1)).abs() / torch.tensor(0.1))
    # 1, 1e-9, 1e-5, 0 and 0.1 are finite before and after.
    assert row["mean_rel"] == pytest.approx((1 + subnormal + third) / 5)
    assert [r["note"] for r in report.rows[3:]] == [
        "int64 is left as it is",
        "bool is left as it is",
    ]
    assert report.totals["overflowed"] == 2
    assert report.totals["nbytes_before"] - report.totals["nbytes_after"] == 18 + 2 * 6
    found = torch.load(tmp_path / "m.pth", weights_only=True)["layer.weight"]
    assert bits(found) == bits(torch.load(source)["layer.weight"].half())


def test_an_overflow_stops_the_work_and_nothing_is_written(tmp_path, source, capsys):
    target = tmp_path / "out" / "m.pth"
    target.parent.mkdir()
    target.write_bytes(b"old")
    assert run(["cast", source, str(target), "--to", "float16", "--force"]) == 5
    said = capsys.readouterr().err
    assert "'layer.weight'" in said
    assert "2 of 9 values overflow float16: found 100000 at element 1" in said
    assert "--on-overflow" in said
    assert [path.name for path in target.parent.iterdir()] == ["m.pth"]
    assert target.read_bytes() == b"old"


def test_a_dry_run_reports_the_same_damage_and_writes_nothing(tmp_path, source, capsys):
    target = str(tmp_path / "m.pth")
    assert run(["cast", source, target, "--to", "float16", "--dry-run", "--format", "json"]) == 1
    dry = json.loads(capsys.readouterr().out)
    assert not Path(target).exists()
    written = [
        "cast",
        source,
        target,
        "--to",
        "float16",
        "--on-overflow",
        "inf",
        "--format",
        "json",
    ]
    assert run(written) == 0
    wet = json.loads(capsys.readouterr().out)
    assert dry["rows"] == wet["rows"]
    assert dry["totals"] == wet["totals"]
    assert "would be refused: 2 values overflow float16" in dry["notes"]


def test_what_overflows_is_clamped_on_request(tmp_path, source):
    wtool.cast(source, str(tmp_path / "m.pth"), to="float16", on_overflow="clamp")
    found = torch.load(tmp_path / "m.pth", weights_only=True)["layer.weight"].tolist()
    assert found[1] == 65504
    assert found[5] == -65504
    assert found[7] == float("inf")


def test_norms_and_chosen_tensors_keep_their_type(tmp_path, source):
    report = wtool.cast(
        source,
        str(tmp_path / "m.pth"),
        to="bfloat16",
        keep_norms=True,
        keep=("layer.*",),
    )
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    assert same(found, torch.load(source))
    assert [row["note"] for row in report.rows[:3]] == ["kept"] * 3
    wtool.cast(PLAIN, str(tmp_path / "n.pth"), to="float16", keep_norms=True)
    kept = {
        name
        for name, t in torch.load(tmp_path / "n.pth", weights_only=True).items()
        if t.dtype == torch.float32
    }
    leaves = ("weight", "bias", "running_mean", "running_var")
    assert kept == {f"bn{i}.{leaf}" for i in (1, 2) for leaf in leaves}


def test_widening_is_exact_and_says_so(tmp_path):
    source = str(FIXTURES / "digits-cnn-f16.safetensors")
    report = wtool.cast(source, str(tmp_path / "m.safetensors"), to="float32")
    floats = [row for row in report.rows if row["from"] == "float16"]
    assert floats
    assert {row["note"] for row in floats} == {"exact"}
    assert {row["max_rel"] for row in floats} == {0.0}
    expected = {n: t.float() if t.is_floating_point() else t for n, t in load_file(source).items()}
    assert same(load_file(tmp_path / "m.safetensors"), expected)


def test_a_training_file_keeps_its_nesting_and_extras(tmp_path):
    wtool.cast(TRAINING, str(tmp_path / "m.pth"), to="bfloat16")
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    expected = torch.load(TRAINING, weights_only=True)
    assert found.keys() == expected.keys()
    assert found["epoch"] == expected["epoch"]
    cast = {n: t.bfloat16() if t.is_floating_point() else t for n, t in expected["model"].items()}
    assert same(found["model"], cast)


def test_ties_stay_ties_and_parts_of_others_are_refused(tmp_path):
    weight = torch.randn(6, 4)
    torch.save({"a": weight, "b": weight}, tmp_path / "tied.pth")
    report = wtool.cast(str(tmp_path / "tied.pth"), str(tmp_path / "m.pth"), to="float16")
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert bits(found["b"]) == bits(weight.half())
    assert report.rows[1]["note"] == "tied to a"
    assert report.totals["nbytes_after"] == 48
    torch.save({"a": weight, "part": weight[2:4], "t": weight.T}, tmp_path / "views.pth")
    source, target = str(tmp_path / "views.pth"), str(tmp_path / "v.pth")
    with pytest.raises(UnsupportedError, match="part or another view") as error:
        wtool.cast(source, target, to="float16")
    assert "--untie" in str(error.value)
    wtool.cast(source, target, to="float16", untie=True)
    found = torch.load(target, weights_only=True)
    assert bits(found["part"]) == bits(weight[2:4].half())
    assert bits(found["t"]) == bits(weight.T.half())


def test_large_tensors_are_cast_as_small_ones(tmp_path):
    """Several blocks, read ahead by a thread; strides and odd ends."""
    torch.manual_seed(3)
    wide = torch.randn(701, 523).T
    deep = torch.randn(300_001)
    torch.save({"wide": wide, "deep": deep}, tmp_path / "in.pth")
    for to in ("float16", "float8_e5m2"):
        target = tmp_path / f"{to}.safetensors"
        wtool.cast(str(tmp_path / "in.pth"), str(target), to=to)
        expected = {"wide": wide.to(getattr(torch, to)), "deep": deep.to(getattr(torch, to))}
        assert same(load_file(target), expected)


def test_float64_is_cast_and_shards_are_written(tmp_path):
    save_file(
        {"a": torch.randn(50).double(), "b": torch.randn(50).double()}, tmp_path / "in.safetensors"
    )
    source = str(tmp_path / "in.safetensors")
    wtool.cast(source, str(tmp_path / "m.bin"), to="float32", shards=2)
    merged: dict[str, torch.Tensor] = {}
    for path in sorted(tmp_path.glob("m-*.bin")):
        merged |= torch.load(path, weights_only=True)
    assert same(merged, {n: t.float() for n, t in load_file(source).items()})


def test_wrong_usage_is_explained(tmp_path, source):
    target = str(tmp_path / "m.pth")
    with pytest.raises(UsageError, match="no type to cast to"):
        wtool.cast(source, target, to="int8")
    with pytest.raises(UsageError, match="bad --on-overflow"):
        wtool.cast(source, target, to="float16", on_overflow="wrap")
    with pytest.raises(UsageError, match="matches no tensor"):
        wtool.cast(source, target, to="float16", keep=("nothing",))
    with pytest.raises(UnsupportedError, match="npz cannot hold type bfloat16"):
        wtool.cast(source, str(tmp_path / "m.npz"), to="bfloat16")
    with pytest.raises(LossError):
        wtool.cast(TRAINING, str(tmp_path / "m.safetensors"), to="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
