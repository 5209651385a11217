"""`wtool freeze`: the order of the command line, the report, and what `verify` says afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wtool
from wtool.cli import run
from wtool.errors import UsageError
from wtool.manifests.document import load

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = str(FIXTURES / "digits-cnn.pth")


def frozen(path: Path) -> set[str]:
    return {name for name, tensor in load(str(path)).tensors.items() if tensor.is_frozen}


def test_rules_keep_the_order_of_the_command_line(tmp_path):
    """click groups values by option; the same rules in two orders must differ."""
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    assert run(["freeze", CNN, "--freeze", "*", "--train", "fc*", "--freeze", "fc1*",
                "-o", str(one)]) == 0  # fmt: skip
    assert run(["freeze", "--train=fc*", "--freeze", "fc1*", CNN, "-o", str(two),
                "--freeze", "*", "--train-biases"]) == 0  # fmt: skip
    assert frozen(one) == {name for name in torch.load(CNN) if not name.startswith("fc2")}
    assert [(rule.name, rule.value) for rule in load(str(one)).rules] == [
        ("freeze", "*"), ("train", "fc*"), ("freeze", "fc1*"),
    ]  # fmt: skip
    assert [(rule.name, rule.value) for rule in load(str(two)).rules] == [
        ("train", "fc*"), ("freeze", "fc1*"), ("freeze", "*"), ("train-biases", None),
    ]  # fmt: skip
    assert frozen(two) == {name for name in torch.load(CNN) if not name.endswith("bias")}


def test_every_rule_option_reaches_the_rules(tmp_path):
    path = tmp_path / "m.json"
    words = [
        "--train-last", "2", "--freeze-until", "fc2", "--freeze-kind", "norm",
        "--train-kind", "conv", "--train-biases", "--replace", "fc2",
        "--freeze", "bn1", "--train", "bn2",
    ]  # fmt: skip
    assert run(["freeze", CNN, *words, "-o", str(path)]) == 0
    assert [f"--{rule.name}" for rule in load(str(path)).rules] == [
        word for word in words if word.startswith("--")
    ]


def test_the_report_counts_tensors_elements_and_bytes_by_layer(tmp_path):
    state = torch.load(CNN)
    rules = [("freeze", "*"), ("train", "fc1"), ("replace", "fc2"), ("train", "bn2.weight")]
    report = wtool.freeze(CNN, rules=rules, output=str(tmp_path / "m.json"))
    trained = {n for n in state if n.startswith(("fc1", "fc2")) or n == "bn2.weight"}
    buffers = {n for n in state if "running" in n or "tracked" in n}
    groups = {"trained": trained, "buffers": buffers, "frozen": set(state) - trained - buffers}
    for name, members in groups.items():
        assert report.totals[f"{name}_tensors"] == len(members)
        assert report.totals[name] == sum(state[n].numel() for n in members)
        assert report.totals[f"{name}_bytes"] == sum(state[n].nbytes for n in members)
        for row in report.rows:
            own = [n for n in members if n.startswith(row["layer"] + ".")]
            assert row[f"{name}_tensors"] == len(own)
            assert row[name] == sum(state[n].numel() for n in own)
    assert {row["layer"]: row["state"] for row in report.rows} == {
        "conv1": "frozen", "bn1": "frozen", "depthwise": "frozen", "pointwise": "frozen",
        "bn2": "mixed", "fc1": "trained", "fc2": "replaceable",
    }  # fmt: skip


def test_the_memory_of_training_is_what_torch_takes(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    torch.save(model.state_dict(), tmp_path / "m.pth")
    report = wtool.freeze(
        str(tmp_path / "m.pth"), rules=[("train", "1")], output=str(tmp_path / "m.json")
    )
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(
        state[key].nbytes for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
    )
    assert (report.totals["gradient_bytes"], report.totals["adam_bytes"]) == (gradients, moments)


def test_tied_tensors_count_once(tmp_path):
    shared = torch.randn(4, 3)
    torch.save({"wte.weight": shared, "lm_head.weight": shared}, tmp_path / "m.pth")
    report = wtool.freeze(
        str(tmp_path / "m.pth"), rules=[("freeze", "*")], output=str(tmp_path / "m.json")
    )
    assert (report.totals["frozen_tensors"], report.totals["frozen"]) == (2, 12)


def test_the_same_rules_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert run(["freeze", CNN, "--train-last", "1", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_replaceable_mark_goes_when_its_tensor_is_frozen_again(tmp_path):
    path = str(tmp_path / "m.json")
    rules = [("replace", "fc*"), ("freeze", "fc1*")]
    wtool.freeze(CNN, rules=rules, output=path)
    marked = {name for name, tensor in load(path).tensors.items() if tensor.replaceable}
    assert marked == {"fc2.weight", "fc2.bias"}


def test_a_head_that_went_is_accepted_where_the_manifest_says_so(tmp_path):
    state = {n: v for n, v in torch.load(CNN).items() if not n.startswith("fc2")}
    torch.save(state, tmp_path / "body.pth")
    body, path = str(tmp_path / "body.pth"), str(tmp_path / "m.json")
    wtool.freeze(CNN, rules=[("replace", "fc2")], output=path)
    report = wtool.verify(body, path)
    assert report.ok
    assert {row["status"] for row in report.rows} == {"replaced"}
    assert report.footer[0].endswith("as they were, 0 of 2 trained ones changed, 2 are not there")
    wtool.freeze(CNN, rules=[("train", "fc2")], output=path, force=True)
    assert {row["status"] for row in wtool.verify(body, path).rows if row["fails"]} == {"missing"}
    wtool.freeze(CNN, rules=[("replace", "fc1")], output=path, force=True)
    report = wtool.verify(body, path)
    assert {row["name"] for row in report.rows if row["fails"]} == {"fc2.weight", "fc2.bias"}


def test_a_frozen_tensor_under_another_name_type_or_shape_fails(tmp_path):
    state = torch.load(CNN)
    state["first.weight"] = state.pop("conv1.weight")
    state["fc1.bias"] = state["fc1.bias"].double()
    state["pointwise.weight"] = state["pointwise.weight"].reshape(16, 8)
    torch.save(state, tmp_path / "m.pth")
    path = str(tmp_path / "m.json")
    wtool.freeze(CNN, rules=[("train", "fc2")], output=path)
    report = wtool.verify(str(tmp_path / "m.pth"), path)
    assert {row["name"]: row["status"] for row in report.rows if row["fails"]} == {
        "conv1.weight": "renamed", "fc1.bias": "retyped", "pointwise.weight": "reshaped",
    }  # fmt: skip
    assert report.totals["frozen_failed"] == 3


def test_a_training_checkpoint_verifies_without_its_optimizer(tmp_path):
    path = str(tmp_path / "m.json")
    report = wtool.freeze(CNN, rules=[("train", "fc2")], output=path)
    assert report.notes == []
    training = str(FIXTURES / "digits-cnn-training.pth")
    assert wtool.verify(training, path).ok
    report = wtool.freeze(training, rules=[("train", "fc2")], output=path, force=True)
    assert any("left out" in note for note in report.notes)
    assert wtool.verify(CNN, path).ok


def test_tolerance_needs_the_original_and_proves_that_it_is_the_one(tmp_path):
    path = str(tmp_path / "m.json")
    wtool.freeze(CNN, rules=[("train", "fc2")], output=path)
    tuned = torch.load(CNN)
    tuned["conv1.bias"] += 0.5
    torch.save(tuned, tmp_path / "tuned.pth")
    made = str(tmp_path / "tuned.pth")
    with pytest.raises(UsageError, match=r"no digits-cnn\.pth beside the manifest"):
        wtool.verify(made, path, tolerance=1.0)
    with pytest.raises(UsageError, match="original is not the model that was frozen"):
        wtool.verify(made, path, tolerance=1.0, original=str(FIXTURES / "digits-cnn-fresh.pth"))
    with pytest.raises(UsageError, match="bad tolerance"):
        wtool.verify(made, path, tolerance=float("nan"), original=CNN)
    (row,) = [row for row in wtool.verify(made, path, original=CNN).rows if row["fails"]]
    assert (row["name"], round(row["max_abs"], 6)) == ("conv1.bias", 0.5)
    (tmp_path / "digits-cnn.pth").write_bytes(Path(CNN).read_bytes())
    assert wtool.verify(made, path, tolerance=0.6).ok
    tuned["conv1.bias"][0] = float("nan")
    torch.save(tuned, made)
    assert not wtool.verify(made, path, tolerance=1e9).ok


def test_the_command_answers_by_exit_code(tmp_path, capsys):
    path = str(tmp_path / "m.json")
    assert run(["freeze", CNN, "-o", path]) == 2
    assert run(["freeze", CNN, "--train", "head*", "-o", path]) == 2
    assert run(["freeze", CNN, "--train", "fc2"]) == 2
    assert run(["freeze", str(tmp_path / "missing"), "--train", "fc2", "-o", path]) == 3
    assert not Path(path).exists()
    capsys.readouterr()
    assert run(["freeze", CNN, "--train", "fc2", "-o", path, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["totals"]["trained"] == 250
    assert run(["freeze", CNN, "--train", "fc2", "-o", path]) == 5
    fresh = str(FIXTURES / "digits-cnn-fresh.pth")
    assert (run(["verify", CNN, path]), run(["verify", fresh, path])) == (0, 1)
    assert run(["freeze", "--help"]) == 0
    assert "--select" not in capsys.readouterr().out
