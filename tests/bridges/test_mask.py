"""A freezing manifest as a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wtool
from wtool.bridges.mask import trainable_mask
from wtool.errors import UsageError

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


def test_a_name_that_is_a_tensor_and_a_branch_has_no_tree(tmp_path):
    np.savez(tmp_path / "m.npz", **{"a.weight": np.ones(2), "a": np.ones(3)})
    path = str(tmp_path / "f.json")
    wtool.freeze(str(tmp_path / "m.npz"), rules=[("freeze", "*")], output=path)
    assert trainable_mask(path) == {"a.weight": False, "a": False}
    with pytest.raises(UsageError, match="flat mask"):
        trainable_mask(path, nested=True)
