"""Norms over the three axes of pictures, which PyTorch and Keras have in another order."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import wtool
from wtool.cli import run

RULES = """
[mapping]
name = "mine"
a = { framework = "torch" }
b = { framework = "keras" }
[[layer]]
kind = "conv"
a = "conv"
b = "conv"
[[rule]]
a = "norm.weight"
b = "norm/gamma"
op = ["permute 1 2 0"]
[[rule]]
a = "norm.bias"
b = "norm/beta"
op = ["permute 1 2 0"]
"""


def make(folder: Path) -> tuple[nn.Module, Any, str, str]:
    """A model whose pictures are as wide and high as they have channels, its twin, their files."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 6, 3, padding=1))
    model.add_module("norm", nn.LayerNorm((6, 6, 6)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv")(image)
    norm = keras.layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, name="norm")
    twin = keras.Model(image, norm(x))
    source, like = str(folder / "a.pth"), str(folder / "b.weights.h5")
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    return model, twin, source, like


def test_axes_of_one_length_are_asked_in_both_directions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, source, like = make(tmp_path)
    made = tmp_path / "made"
    for one, other, to in ((source, like, "keras"), (like, source, "torch")):
        container = ("--container", "keras" if to == "keras" else "torch")
        assert run(["convert", one, str(made), "--to", to, "--like", other, *container]) == 4
        assert "axes that may be those of pictures" in capsys.readouterr().err
        assert not made.exists()
    # Without the target's file no lengths tell anything.
    assert run(["convert", source, str(tmp_path / "made.safetensors"), "--to", "keras"]) == 4
    grades = {row["source"]: row["grade"] for row in wtool.map(source, like).rows}
    assert grades["norm.weight"] == grades["norm.bias"] == "ambiguous"


def test_the_rules_that_are_asked_for_give_equal_outputs(tmp_path: Path) -> None:
    model, twin, source, like = make(tmp_path)
    mapping, made = tmp_path / "mine.toml", str(tmp_path / "made.weights.h5")
    mapping.write_text(RULES)
    wtool.convert(source, made, to="keras", map=str(mapping), like=like)
    twin.load_weights(made)
    pictures = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype("f4")
    with torch.no_grad():
        expected = model(torch.tensor(pictures)).numpy()
    found = twin(pictures.transpose(0, 2, 3, 1)).numpy().transpose(0, 3, 1, 2)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
