"""What the order of a file does not say: classes apart, attributes sorted, directions by name."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import wtool
from wtool.cli import run

L = keras.layers


class Autoencoder(nn.Module):
    """Its two dense layers explain each other's widths."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.e = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(64, 5)
        self.d, self.t = nn.Linear(5, 64), nn.ConvTranspose2d(4, 1, 2, 2)


def keras_autoencoder() -> Any:
    x = image = keras.Input((8, 8, 1))
    for layer in (
        L.Conv2D(4, 3, 2, padding="same", name="c"),
        L.Flatten(),
        L.Dense(5, name="e"),
        L.Dense(64, name="d"),
        L.Reshape((4, 4, 4)),
        L.Conv2DTranspose(1, 2, 2, name="t"),
    ):
        x = layer(x)
    return keras.Model(image, x)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_two_ends_of_an_autoencoder_do_not_explain_each_other(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch_file, keras_file = str(tmp_path / f"a{ending}"), str(tmp_path / "b.weights.h5")
    made = tmp_path / "made"
    state = Autoencoder().state_dict()
    torch.save(state, torch_file) if ending == ".pth" else save_file(state, torch_file)
    keras_autoencoder().save_weights(keras_file)
    for source, like, to in (
        (keras_file, torch_file, ("--to", "torch", "--container", "torch")),
        (torch_file, keras_file, ("--to", "keras", "--container", "keras")),
    ):
        assert run(["convert", source, str(made), *to, "--like", like]) == 4
        error = capsys.readouterr().err
        assert "'e' (may follow Flatten" in error
        assert "'d' (may come before a Reshape" in error
        assert not made.exists()
    grades = {row["source"]: row["grade"] for row in wtool.map(torch_file, keras_file).rows}
    assert grades["e.weight"] == grades["d.weight"] == "ambiguous"


@pytest.mark.parametrize("inputs", [3, 8])
def test_the_directions_of_stacked_layers_are_told_by_name(inputs: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.GRU(inputs, 4, 2, batch_first=True, bidirectional=True)
    x = steps = keras.Input((5, inputs))
    for name in ("low", "high"):
        x = L.Bidirectional(L.GRU(4, return_sequences=True), name=name)(x)
    twin = keras.Model(steps, x)
    source, like, made = (str(tmp_path / n) for n in ("a.pth", "b.weights.h5", "c.weights.h5"))
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    draft = str(tmp_path / "draft.toml")
    report = wtool.map(source, like, accept_ordered=True, save=draft)
    # Of 8 inputs, the two layers are alike; of 3 each cell is the only one of its kind.
    assert {row["grade"] for row in report.rows} == {"ordered" if inputs == 8 else "certain"}
    wtool.convert(source, made, to="keras", like=like, map=draft)
    twin.load_weights(made)
    values = np.random.default_rng(0).normal(size=(2, 5, inputs)).astype("f4")
    expected = model(torch.tensor(values))[0].detach().numpy()
    assert np.abs(twin(values).numpy() - expected).max() < 1e-5


class Sorted(keras.Model):
    """Keras stores `aa` before `zz`, whatever order they are made in."""

    def __init__(self) -> None:
        super().__init__()
        self.zz = [L.Dense(5, name=f"x{n}") for n in range(2)]
        self.aa = [L.Dense(5, name=f"y{n}") for n in range(2)]

    def call(self, x: Any) -> Any:
        for layer in (*self.zz, *self.aa):
            x = layer(x)
        return x


def test_attributes_of_a_class_of_the_user_s_own_keep_no_order(tmp_path: Path) -> None:
    twin = Sorted()
    twin(np.zeros((1, 5), "f4"))
    twin.save_weights(tmp_path / "b.weights.h5")
    torch.save(nn.Sequential(*(nn.Linear(5, 5) for _ in range(4))).state_dict(), tmp_path / "a.pth")
    report = wtool.map(str(tmp_path / "a.pth"), str(tmp_path / "b.weights.h5"))
    assert {row["grade"] for row in report.rows} == {"ambiguous"}
