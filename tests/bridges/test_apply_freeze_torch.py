"""A freezing manifest in real fine-tuning: the trained digits CNN gets a new head in PyTorch."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

import wtool
from fixtures import torch_models
from fixtures.datasets import digits
from wtool.bridges.torch import apply_freeze
from wtool.errors import UsageError

FIXTURES = Path(__file__).parents[2] / "fixtures"
TRAINED = FIXTURES / "digits-cnn.pth"
BODY_FROZEN = [("freeze", "*"), ("replace", "fc2")]
STATISTICS = {
    f"{layer}.{leaf}"
    for layer in ("bn1", "bn2")
    for leaf in ("running_mean", "running_var", "num_batches_tracked")
}


def freeze(tmp_path: Path, rules: list, model: Path = TRAINED) -> str:
    tmp_path.mkdir(exist_ok=True)
    path = str(tmp_path / "model.freeze.json")
    wtool.freeze(str(model), rules=rules, output=path)
    return path


def trained_model(classes: int | None = None) -> nn.Module:
    model = torch_models.DigitsCNN()
    model.load_state_dict(torch.load(TRAINED))
    if classes is not None:
        torch.manual_seed(0)
        model.fc2 = nn.Linear(24, classes)
    return model


def fine_tune(model: nn.Module, groups: list, classes: int, steps: int = 8) -> float:
    """Train on digits modulo `classes`, as real training loops do; the last loss."""
    train_x, train_y, *_ = digits()
    inputs = torch_models.model_input("digits-cnn", train_x[: 64 * steps])
    labels = torch.from_numpy(train_y[: 64 * steps]) % classes
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    model.train()
    for x, y in zip(inputs.split(64), labels.split(64), strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def save(model: nn.Module, tmp_path: Path) -> str:
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    return str(tmp_path / "tuned.pth")


def failing(report) -> set[str]:
    return {row["name"] for row in report.rows if row["fails"]}


def test_a_frozen_body_with_a_new_head_verifies_after_training(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model(classes=5)
    first = copy.deepcopy(model.fc2.weight)
    fine_tune(model, apply_freeze(model, manifest), 5)
    assert not torch.equal(first, model.fc2.weight)
    report = wtool.verify(save(model, tmp_path), manifest)
    assert report.ok
    assert {row["name"]: row["status"] for row in report.rows} == {
        "fc2.weight": "replaced", "fc2.bias": "replaced",
    }  # fmt: skip
    assert (report.totals["frozen"], report.totals["unchanged"]) == (17, 0)


def test_batchnorm_left_in_training_mode_fails_and_is_named(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model(classes=5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc2"))
    fine_tune(model, [{"params": model.fc2.parameters()}], 5)
    report = wtool.verify(save(model, tmp_path), manifest)
    assert not report.ok
    assert failing(report) == STATISTICS
    assert any("running statistics" in line for line in report.footer)


def test_the_last_bit_of_one_frozen_weight_fails_and_is_named(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model(classes=5)
    fine_tune(model, apply_freeze(model, manifest), 5)
    with torch.no_grad():
        model.pointwise.weight.view(torch.int32)[3, 2, 0, 0] ^= 1
    path = save(model, tmp_path)
    assert failing(wtool.verify(path, manifest)) == {"pointwise.weight"}
    near = wtool.verify(path, manifest, tolerance=1e-6, original=str(TRAINED))
    assert near.ok
    (row,) = [row for row in near.rows if row["name"] == "pointwise.weight"]
    old = torch.load(TRAINED)["pointwise.weight"].double()
    expected = float((model.pointwise.weight.double() - old).abs().max())
    assert (row["status"], row["max_abs"]) == ("close", expected)
    assert not wtool.verify(path, manifest, tolerance=expected / 2, original=str(TRAINED)).ok


def test_a_head_that_was_never_trained_is_told(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    report = wtool.verify(save(trained_model(), tmp_path), manifest)
    assert report.ok
    assert {row["name"]: row["status"] for row in report.rows} == {
        "fc2.weight": "unchanged", "fc2.bias": "unchanged",
    }  # fmt: skip
    assert "never trained: fc2.bias, fc2.weight" in report.footer


def test_a_new_shape_that_the_manifest_does_not_allow_fails(tmp_path):
    manifest = freeze(tmp_path, [("freeze", "*"), ("train", "fc2")])
    report = wtool.verify(save(trained_model(classes=5), tmp_path), manifest)
    assert {(row["name"], row["status"]) for row in report.rows if row["fails"]} == {
        ("fc2.weight", "reshaped"), ("fc2.bias", "reshaped"),
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"fc2\.(weight|bias).*another shape"):
        apply_freeze(trained_model(classes=5), manifest)


def test_frozen_statistics_stay_in_eval_mode_through_train_copy_and_saving(tmp_path):
    model = trained_model()
    apply_freeze(model, freeze(tmp_path, BODY_FROZEN))
    model.train()
    assert (model.bn1.training, model.bn2.training, model.fc1.training) == (False, False, True)
    twin = copy.deepcopy(model)
    twin.bn1.eval()
    twin.train()
    assert not twin.bn1.training
    assert twin.bn1.train.args[0] is twin.bn1
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    again.train()
    assert (again.bn1.training, again.fc1.training) == (False, True)


def test_biases_alone_are_trained_and_statistics_stay(tmp_path):
    manifest = freeze(tmp_path, [("train-biases", None)])
    model = trained_model()
    groups = apply_freeze(model, manifest)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.endswith("bias")}
    fine_tune(model, groups, 10)
    report = wtool.verify(save(model, tmp_path), manifest)
    assert report.ok
    assert report.totals["unchanged"] <= 1  # a bias before BatchNorm has a gradient of nearly 0


def test_a_trained_norm_layer_moves_its_statistics(tmp_path):
    manifest = freeze(tmp_path, [("train-kind", "norm"), ("train", "fc2")])
    model = trained_model()
    groups = apply_freeze(model, manifest)
    model.train()
    assert model.bn1.training
    fine_tune(model, groups, 10)
    assert wtool.verify(save(model, tmp_path), manifest).ok


def test_a_later_manifest_takes_the_place_of_an_earlier_one(tmp_path):
    model = trained_model()
    apply_freeze(model, freeze(tmp_path / "one", BODY_FROZEN))
    apply_freeze(model, freeze(tmp_path / "two", [("train", "*")]))
    model.train()
    assert model.bn1.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_biases_and_norms_get_no_weight_decay(tmp_path):
    model = trained_model()
    decayed, plain = apply_freeze(model, freeze(tmp_path, [("train", "*")]), weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "conv1.weight", "depthwise.weight", "pointwise.weight", "fc1.weight", "fc2.weight",
    }  # fmt: skip
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    (only,) = apply_freeze(model, freeze(tmp_path / "two", [("train", "fc2.weight")]))
    assert "weight_decay" not in only


def test_names_that_do_not_match_are_an_error_that_changes_nothing(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model()
    model.conv9 = model.conv1
    del model.conv1
    with pytest.raises(UsageError, match="no 'conv1"):
        apply_freeze(model, manifest)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model = trained_model()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"does not name 'extra\.weight', 'extra\.bias'"):
        apply_freeze(model, manifest)
    apply_freeze(model, manifest, added=["extra.*"])
    assert model.extra.weight.requires_grad
    assert not model.conv1.weight.requires_grad


def test_a_head_of_another_name_may_take_the_place_of_a_replaceable_one(tmp_path):
    manifest = freeze(tmp_path, BODY_FROZEN)
    model = trained_model()
    model.fc2 = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 5))
    fine_tune(model, apply_freeze(model, manifest, added=["fc2.*"]), 5)
    report = wtool.verify(save(model, tmp_path), manifest)
    assert report.ok
    assert {(row["status"], row["name"]) for row in report.rows} == {
        ("replaced", "fc2.weight"), ("replaced", "fc2.bias"),
        ("added", "fc2.0.weight"), ("added", "fc2.0.bias"),
        ("added", "fc2.2.weight"), ("added", "fc2.2.bias"),
    }  # fmt: skip
