"""What one side has and the other does not: a bias, a second name of a tied weight."""

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

L = keras.layers


def chain(shape: tuple[int, ...], *layers: Any) -> Any:
    x = given = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(given, x)


def named(**modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model.eval()


def test_a_bias_that_keras_has_alone_is_made_of_zeros_and_dropped_again(tmp_path: Path) -> None:
    model = named(conv=nn.Conv2d(3, 4, 3, padding=1, bias=False), bn=nn.BatchNorm2d(4))
    conv = L.Conv2D(4, 3, padding="same", name="conv", bias_initializer="ones")
    twin = chain((5, 5, 3), conv, L.BatchNormalization(epsilon=1e-5, name="bn"))
    source, like, made = (str(tmp_path / n) for n in ("a.pth", "b.weights.h5", "c.weights.h5"))
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    wtool.convert(source, made, to="keras", like=like)
    twin.load_weights(made)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype("f4")
    with torch.no_grad():
        expected = model(torch.tensor(x)).numpy()
    found = twin(x.transpose(0, 2, 3, 1)).numpy().transpose(0, 3, 1, 2)
    assert np.abs(found - expected).max() < 1e-5
    back = str(tmp_path / "back.pth")
    wtool.convert(made, back, to="torch", like=source)
    assert wtool.diff(back, source).ok
    # One that is not zero is not dropped.
    arguments = ["convert", like, back, "--to", "torch", "--like", source, "--force"]
    assert run(arguments) == 4


@pytest.mark.parametrize("name", ["embedding", "table"])
def test_a_tied_weight_is_dropped_and_made_again(name: str, tmp_path: Path) -> None:
    """The second name of the table is the output's, which the Keras model computes by the table."""
    model = named(embedding=nn.Embedding(11, 6), fc=nn.Linear(6, 6), out=nn.Linear(6, 11))
    out = nn.Linear(6, 11, bias=False)
    out.weight = model.embedding.weight
    model.out = out
    twin = chain((5,), L.Embedding(11, 6, name=name), L.Dense(6, name="fc"))
    source, like, made = (str(tmp_path / n) for n in ("a.pth", "b.weights.h5", "c.weights.h5"))
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    wtool.convert(source, made, to="keras", like=like)
    twin.load_weights(made)
    table = model.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(twin.get_layer(name).get_weights()[0], table)
    back = str(tmp_path / "back.pth")
    wtool.convert(made, back, to="torch", like=source)
    state = torch.load(back, weights_only=True)
    assert state["out.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    assert wtool.diff(back, source).ok


def test_an_rmsnorm_of_the_same_name_converts(tmp_path: Path) -> None:
    source, like = str(tmp_path / "a.pth"), str(tmp_path / "b.weights.h5")
    torch.save(named(norm=nn.RMSNorm(8), fc=nn.Linear(8, 3)).state_dict(), source)
    chain((8,), L.RMSNormalization(name="norm"), L.Dense(3, name="fc")).save_weights(like)
    wtool.convert(source, str(tmp_path / "made.weights.h5"), to="keras", like=like)
    wtool.convert(like, str(tmp_path / "made.pth"), to="torch", like=source)
