"""Rows or columns of pictures that become the steps of a sequence, as models that read text do."""

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
PICTURES = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype("f4")


class Reader(nn.Module):
    """Columns of 2 channels and 4 pixels, each a step."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        kinds = {"Dense": nn.Linear, "LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}
        self.last = kinds[last](8, 5, **({} if last == "Dense" else {"batch_first": True}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.last(self.conv(x).permute(0, 3, 1, 2).flatten(2))
        return found[0] if isinstance(found, tuple) else found


def twin_of(last: str, columns: bool = True) -> Any:
    x = image = keras.Input((4, 6, 3))
    x = L.Conv2D(2, 3, padding="same", name="conv")(x)
    if columns:
        x = L.Permute((2, 1, 3))(x)
    options = {} if last == "Dense" else {"return_sequences": True}
    x = L.Reshape((6, 8) if columns else (24, 2))(x)
    return keras.Model(image, getattr(L, last)(5, name="last", **options)(x))


def files(folder: Path, last: str, ending: str) -> tuple[Reader, Any, str, str]:
    torch.manual_seed(0)
    model, twin = Reader(last), twin_of(last)
    source, like = str(folder / "a.pth"), str(folder / f"b{ending}")
    torch.save(model.state_dict(), source)
    (twin.save_weights if ending == ".weights.h5" else twin.save)(like)
    return model, twin, source, like


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
@pytest.mark.parametrize("last", ["Dense", "LSTM", "GRU", "SimpleRNN"])
def test_it_is_asked_and_the_finished_draft_converts(
    last: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, twin, source, like = files(tmp_path, last, ending)
    made, draft = tmp_path / "made.weights.h5", tmp_path / "draft.toml"
    arguments = ["convert", source, str(made), "--to", "keras", "--like", like]
    assert run(arguments) == 4
    error = capsys.readouterr().err
    assert "pictures" in error or "may follow Flatten" in error
    back = ["convert", like, str(tmp_path / "back.pth"), "--to", "torch", "--like", source]
    assert run([*back, "--drop-extras", "--allow", "metadata"]) == 4
    assert not made.exists()
    assert not (tmp_path / "back.pth").exists()

    wtool.map(source, like, save=str(draft))
    text = draft.read_text()
    assert "chw = [C, H, W]" in text
    start = text.index("# [[layer]]")
    body = text[start:].replace("# ", "").replace("[C, H, W]", "[2, 4]")
    draft.write_text(text[:start] + body)
    assert wtool.convert(source, str(made), to="keras", like=like, map=str(draft)).ok
    twin.load_weights(made)
    with torch.no_grad():
        expected = model(torch.tensor(PICTURES)).numpy()
    found = twin(PICTURES.transpose(0, 2, 3, 1)).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("last", ["Dense", "LSTM"])
def test_a_configuration_says_that_the_steps_are_pixels(last: str, tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 2, 3, padding=1))
    model.add_module("last", nn.Linear(2, 5) if last == "Dense" else nn.LSTM(2, 5))
    source, like = str(tmp_path / "a.pth"), str(tmp_path / "b.keras")
    torch.save(model.state_dict(), source)
    twin_of(last, columns=False).save(like)
    assert wtool.convert(source, str(tmp_path / "m.weights.h5"), to="keras", like=like).ok
