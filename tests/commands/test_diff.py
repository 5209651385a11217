"""`wtool diff` on files that torch wrote: every kind of change, groups, tolerance, exit codes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import wtool
from wtool.cli import run

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "body.0.weight": torch.randn(6, 4),
        "body.0.bias": torch.randn(6),
        "body.1.weight": torch.randn(3, 6),
        "old.weight": torch.randn(5, 5),
        "gone": torch.randn(7),
        "head.weight": torch.randn(3, 3),
        "steps": torch.tensor(10),
    }


def files(tmp_path, a, b) -> tuple[str, str]:
    torch.save(a, tmp_path / "a.pth")
    save_file({k: v.contiguous() for k, v in b.items()}, tmp_path / "b.safetensors")
    return str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")


def test_equal_models_in_two_containers_do_not_differ(tmp_path, base):
    report = wtool.diff(*files(tmp_path, base, base))
    assert report.ok
    assert report.rows == []
    assert report.totals["same"] == 7


def test_every_kind_of_change_is_named_and_measured(tmp_path, base):
    new = dict(base)
    new["renamed.weight"] = new.pop("old.weight")
    del new["gone"]
    new["come"] = torch.ones(2)
    new["head.weight"] = torch.randn(4, 3)
    new["body.1.weight"] = new["body.1.weight"].half()
    new["body.0.bias"] = base["body.0.bias"].clone()
    new["body.0.bias"][3] += 1.0
    new["steps"] = torch.tensor(11)
    report = wtool.diff(*files(tmp_path, base, new))
    assert not report.ok
    rows = {row["name"]: row for row in report.rows}
    assert {name: row["change"] for name, row in rows.items()} == {
        "gone": "removed", "come": "added", "renamed.weight": "renamed", "head.weight": "reshaped",
        "body.1.weight": "retyped", "body.0.bias": "changed", "steps": "changed",
    }  # fmt: skip
    assert (rows["renamed.weight"]["old"], rows["renamed.weight"]["new"]) == (
        "old.weight",
        "renamed.weight",
    )
    assert (rows["head.weight"]["old"], rows["head.weight"]["new"]) == (
        "float32 3x3",
        "float32 4x3",
    )
    bias = rows["body.0.bias"]
    step = (new["body.0.bias"].double() - base["body.0.bias"].double()).norm()
    assert (bias["changed"], bias["worst"], bias["count"]) == (1, 3, 6)
    assert bias["rel_l2"] == pytest.approx(
        float(step / base["body.0.bias"].double().norm()), rel=1e-9
    )
    assert report.totals == {
        "removed": 1, "added": 1, "renamed": 1, "reshaped": 1, "retyped": 1, "changed": 2,
        "same": 1, "tensors": 8, "max_abs": 1.0,
    }  # fmt: skip


def test_equal_content_twice_is_no_renaming(tmp_path):
    a = {"x": torch.zeros(3), "y": torch.zeros(3)}
    b = {"p": torch.zeros(3), "q": torch.zeros(3)}
    report = wtool.diff(*files(tmp_path, a, b))
    assert sorted(row["change"] for row in report.rows) == ["added", "added", "removed", "removed"]


def test_rows_are_sorted_by_how_much_changed(tmp_path, base):
    new = {k: v.clone() for k, v in base.items()}
    new["body.0.weight"] *= 1.1
    new["head.weight"] *= 3
    new["old.weight"] *= 1.01
    rows = wtool.diff(*files(tmp_path, base, new)).rows
    assert [row["name"] for row in rows] == ["head.weight", "body.0.weight", "old.weight"]


def test_a_layer_row_merges_its_tensors(tmp_path, base):
    new = {k: v.clone() for k, v in base.items()}
    new["body.0.weight"][0, 0] += 1
    new["body.0.bias"][0] += 2
    (row,) = wtool.diff(*files(tmp_path, base, new), by="layer").rows
    old = torch.cat([base["body.0.weight"].reshape(-1), base["body.0.bias"]]).double()
    assert (row["group"], row["tensors"], row["changed"], row["count"]) == ("body.0", 2, 2, 30)
    assert row["rel_l2"] == pytest.approx(5**0.5 / float(old.norm()), rel=1e-6)


def test_tolerance_and_ignored_types_make_a_cast_the_same(tmp_path, base):
    half = {k: v.half() if v.is_floating_point() else v for k, v in base.items()}
    paths = files(tmp_path, base, half)
    assert not wtool.diff(*paths, tolerance=0.01).ok
    assert not wtool.diff(*paths, ignore_dtype=True).ok
    assert wtool.diff(*paths, tolerance=0.01, ignore_dtype=True).ok


def test_the_command_answers_by_exit_code(tmp_path, base, capsys):
    new = {**base, "gone": base["gone"] + 1}
    a, b = files(tmp_path, base, new)
    assert run(["diff", a, a]) == 0
    assert run(["diff", a, b]) == 1
    assert run(["diff", a, b, "--exclude", "gone"]) == 0
    assert run(["diff", a, b, "--tolerance", "-1"]) == 2
    assert run(["diff", a, str(tmp_path / "missing")]) == 3
    capsys.readouterr()
    assert run(["diff", a, b, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["sources"]) == (False, [a, b])


def test_markdown_serves_as_a_changelog(capsys):
    run(
        [
            "diff", str(FIXTURES / "digits-cnn-fresh.pth"), str(FIXTURES / "digits-cnn.pth"),
            "--format", "markdown", "--by", "layer",
        ]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.startswith("| group | change | tensors |")
    assert "19 changed; 0 of 19 tensors are the same" in out
