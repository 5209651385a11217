"""A freezing manifest as a mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from wtool.bridges.mask import trainable_mask
from wtool.errors import UsageError
from wtool.manifests.document import load

FIXTURES = Path(__file__).parents[2] / "fixtures"


def test_the_mask_says_of_every_learned_tensor_whether_it_is_trained():
    mask = trainable_mask(FIXTURES / "manifests" / "freeze-1.json")
    assert mask == {
        "conv1.weight": False, "conv1.bias": False, "bn1.weight": False, "bn1.bias": False,
        "depthwise.weight": False, "pointwise.weight": False, "pointwise.bias": False,
        "bn2.weight": False, "bn2.bias": False, "fc1.weight": False, "fc1.bias": False,
        "fc2.weight": True, "fc2.bias": True,
    }  # fmt: skip


def test_the_nested_mask_has_the_tree_of_the_parameters():
    mask = trainable_mask(FIXTURES / "manifests" / "freeze-1.json", nested=True)
    assert mask["fc2"] == {"weight": True, "bias": True}
    assert mask["bn1"] == {"weight": False, "bias": False}


@pytest.mark.parametrize("names", [("a.b", "a.b.c"), ("a.b.c", "a.b")])
def test_a_name_that_is_a_tensor_and_a_branch_has_no_tree(names):
    manifest = load(str(FIXTURES / "manifests" / "freeze-1.json"))
    weight = manifest.tensors["fc2.weight"]
    made = dataclasses.replace(manifest, tensors=dict.fromkeys(names, weight))
    assert trainable_mask(made) == dict.fromkeys(names, True)
    with pytest.raises(UsageError, match="flat mask"):
        trainable_mask(made, nested=True)
