"""Freezing rules: order, kinds of rules, buffers, ties, and the order of layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import wtool
from wtool.commands.freeze import _match
from wtool.errors import UsageError
from wtool.manifests.rules import Rule, decide

FIXTURES = Path(__file__).parents[2] / "fixtures"
CNN = FIXTURES / "digits-cnn.pth"
LAYERS = ["conv1", "bn1", "depthwise", "pointwise", "bn2", "fc1", "fc2"]


def states(rules: list[tuple], path: Path = CNN) -> dict[str, str]:
    made = [Rule(*(rule if isinstance(rule, tuple) else (rule,))) for rule in rules]
    return decide(wtool.open(path), made, _match).states


def trained(rules: list, path: Path = CNN) -> set[str]:
    return {name for name, state in states(rules, path).items() if state == "trained"}


def all_of(*layers: str, buffers: bool = True) -> set[str]:
    return {
        name
        for name in torch.load(CNN)
        if name.split(".")[0] in layers and (buffers or name.endswith(("weight", "bias")))
    }


def test_the_last_rule_that_matches_wins():
    assert trained([("freeze", "*"), ("train", "fc*"), ("freeze", "fc1.*")]) == all_of("fc2")
    assert trained([("freeze", "fc1.*"), ("freeze", "*"), ("train", "fc*")]) == all_of("fc1", "fc2")


def test_what_no_rule_matches_is_the_opposite_of_the_first():
    assert trained([("train", "fc2")]) == all_of("fc2")
    assert trained([("freeze", "fc2"), ("train", "fc1")]) == all_of(*LAYERS[:6])


def test_a_pattern_matches_tensors_or_their_layers():
    assert trained([("train", "fc2.bias")]) == {"fc2.bias"}
    assert trained([("train", "re:^fc[12]$")]) == all_of("fc1", "fc2")


def test_the_last_layers_are_those_of_the_network():
    assert trained([("train-last", "2")]) == all_of("fc1", "fc2")
    assert trained([("train-last", "3")]) == all_of("bn2", "fc1", "fc2")
    for number in ("0", "8", "-1", "1.5", "x", "9" * 30):
        with pytest.raises(UsageError, match="--train-last 1 to 7"):
            states([("train-last", number)])


def test_freezing_until_a_layer_leaves_that_layer_out():
    assert trained([("freeze-until", "pointwise")]) == all_of("pointwise", "bn2", "fc1", "fc2")
    for layer in ("conv1", "nothing"):
        with pytest.raises(UsageError, match=f"--freeze-until {layer} matches nothing"):
            states([("freeze-until", layer)])


def test_a_layer_stands_for_all_layers_below_it(tmp_path):
    names = [f"{block}.{i}.weight" for block in ("layer1", "layer2", "layer10") for i in range(2)]
    torch.save({name: torch.randn(2, 2) for name in names}, tmp_path / "m.pth")
    path = tmp_path / "m.pth"
    assert trained([("freeze-until", "layer2")], path) == set(names[2:])
    assert trained([("train", "layer1.*")], path) == set(names[:2])
    assert trained([("train-last", "3")], path) == set(names[3:])


def test_kinds_and_biases_are_rules():
    assert trained([("train-kind", "norm")]) == all_of("bn1", "bn2")
    assert trained([("freeze-kind", "conv")]) == all_of(*LAYERS) - all_of("conv1", "pointwise")
    assert trained(["train-biases"]) == {n for n in torch.load(CNN) if n.endswith("bias")}
    with pytest.raises(UsageError, match="--freeze-kind embedding matches nothing"):
        states([("freeze-kind", "embedding")])
    with pytest.raises(UsageError, match="unknown kind of layer: expected dense, conv"):
        states([("freeze-kind", "convolution")])
    rnn = FIXTURES / "topics-rnn.pth"
    assert trained([("train", "*"), ("freeze-kind", "embedding")], rnn) == {
        name for name in torch.load(rnn) if not name.startswith("embedding")
    }


def test_no_rule_and_a_rule_that_matches_nothing_are_errors():
    with pytest.raises(UsageError, match="no rule says"):
        states([])
    for name in ("freeze", "train", "replace"):
        with pytest.raises(UsageError, match=rf"--{name} head\.\* matches nothing"):
            states([(name, "head.*")])


# Buffers


def test_buffers_are_frozen_with_their_layer():
    found = states([("freeze", "bn1.weight"), ("freeze", "bn1.bias")])
    assert {n for n, state in found.items() if state == "frozen"} == all_of("bn1")


def test_buffers_of_a_layer_of_which_only_a_part_is_trained_stay_frozen():
    assert trained([("train", "bn1.bias")]) == {"bn1.bias"}


def test_a_rule_for_buffers_alone_decides_them():
    statistics = {f"bn{i}.running_{leaf}" for i in (1, 2) for leaf in ("mean", "var")}
    assert trained([("train", "fc2"), ("train", "*.running_*")]) == all_of("fc2") | statistics
    found = states([("train", "*"), ("freeze", "*.running_*")])
    assert {name for name, state in found.items() if state == "frozen"} == statistics


def test_buffers_of_a_layer_without_parameters_follow_the_default(tmp_path):
    torch.save(
        {"bn.running_mean": torch.ones(2), "bn.running_var": torch.ones(2),
         "fc.weight": torch.ones(2, 2)},
        tmp_path / "m.pth",
    )  # fmt: skip
    assert trained([("train", "fc.*")], tmp_path / "m.pth") == {"fc.weight"}


def test_optimizer_state_and_copies_are_no_part_of_it():
    found = states([("train", "fc2")], FIXTURES / "digits-cnn-training.pth")
    assert set(found) == set(torch.load(CNN))


def test_integers_cannot_be_trained(tmp_path):
    np.savez(tmp_path / "m.npz", **{"a.weight": np.ones((2, 2), np.int8), "b.weight": np.ones(3)})
    assert trained([("train", "b*")], tmp_path / "m.npz") == {"b.weight"}


# Ties


def test_tied_tensors_cannot_be_split(tmp_path):
    shared = torch.randn(4, 3)
    torch.save({"wte.weight": shared, "lm_head.weight": shared}, tmp_path / "m.pth")
    with pytest.raises(UsageError, match=r"tied tensors cannot be split: 'lm_head\.weight' would"):
        states([("freeze", "wte.*")], tmp_path / "m.pth")
    assert trained([("freeze", "wte.*"), ("freeze", "lm_head.*")], tmp_path / "m.pth") == set()


# The order of layers


@pytest.mark.parametrize(
    "name",
    [
        "digits-cnn-legacy.pth", "digits-cnn-module.pth", "digits-cnn-script.pt", "digits-cnn.pt2",
        "digits-cnn-distributed", "digits-cnn.npz", "digits-cnn-keras3.h5", "digits-cnn.keras",
        "digits-cnn-training.pth", "digits-cnn-keras2.h5",
    ],
)  # fmt: skip
def test_the_order_is_known_from_what_frameworks_save(name):
    last = trained([("train-last", "1")], FIXTURES / name)
    assert {tensor.replace("/", ".").split(".")[0] for tensor in last} == {"fc2"}
    body = trained([("freeze-until", "bn2")], FIXTURES / name)
    assert {n.replace("/", ".").split(".")[0] for n in body} == {"bn2", "fc1", "fc2"}


@pytest.mark.parametrize(
    "name", ["digits-cnn.safetensors", "digits-cnn-tf1", "digits-cnn.weights.h5", "digits-cnn-tf"]
)
def test_a_file_without_an_order_refuses_rules_that_need_one(name):
    with pytest.raises(UsageError, match="--train-last needs the order of the layers"):
        states([("train-last", "1")], FIXTURES / name)
    assert trained([("train", "fc2")], FIXTURES / name)
