"""A model that no preset knows, as its author converts it: map, finish the draft, convert."""

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
from wtool.errors import UnsupportedError

IMAGE = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")
DRAFTED = """# [[layer]]
# kind = "linear_flatten"
# a = "head"
# b = "hidden"
# chw = [C, H, W]
"""
FINISHED = """[[layer]]
kind = "linear_flatten"
a = "head"
b = "hidden"
chw = [8, 16, 16]
"""


class Net(nn.Module):
    """A stem, three equal blocks, a transposed convolution, and dense layers after Flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            for _ in range(3)
        )
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.head, self.out = nn.Linear(8 * 16 * 16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        for block in self.block:
            x = block(x)
        return self.out(torch.relu(self.head(self.up(x).flatten(1))))


def keras_net() -> Any:
    """The same, under other names and in Keras's order of axes."""
    layers = keras.layers
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="entry")(x)
    x = layers.BatchNormalization(epsilon=1e-5, name="entry_bn")(x)
    for n in (1, 2, 3):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"res{n}_conv")(x)
        x = layers.BatchNormalization(epsilon=1e-5, name=f"res{n}_bn")(x)
        x = layers.ReLU()(x)
    x = layers.Flatten()(layers.Conv2DTranspose(8, 2, 2, name="upsample")(x))
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(image, layers.Dense(16, name="logits")(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.pth with random values, target.weights.h5 freshly initialised."""
    folder = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), folder / "mine.pth")
    keras_net().save_weights(folder / "target.weights.h5")
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path) -> Path:
    """The Keras file, by the draft of `wtool map --accept-ordered` with its one open block done."""
    files = (str(folder / "mine.pth"), str(folder / "target.weights.h5"))
    draft, made = folder / "accepted.toml", folder / "out.weights.h5"
    wtool.map(*files, save=str(draft), accept_ordered=True)
    text = draft.read_text()
    assert DRAFTED in text
    draft.write_text(text.replace(DRAFTED, FINISHED))
    report = wtool.convert(files[0], str(made), to="keras", map=str(draft), like=files[1])
    assert report.ok
    return made


def test_the_draft_converts_once_its_author_has_finished_it(folder: Path, converted: Path) -> None:
    model = Net().eval()
    model.load_state_dict(torch.load(folder / "mine.pth", weights_only=True))
    with torch.no_grad():
        expected = model(torch.tensor(IMAGE)).numpy()
    twin = keras_net()
    twin.load_weights(converted)
    found = twin(IMAGE.transpose(0, 2, 3, 1)).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()

    back = folder / "back.pth"
    wtool.convert(str(converted), str(back), to="torch", map=str(folder / "accepted.toml"))
    assert wtool.diff(str(back), str(folder / "mine.pth")).ok


def test_that_order_was_accepted_is_recorded_in_the_output(converted: Path) -> None:
    notes = wtool.open(converted).metadata["wtool.notes"]
    assert notes == "7 layers were matched by their order alone, as --accept-ordered allows"


def test_a_draft_as_it_is_writes_nothing_and_names_what_is_open(folder: Path) -> None:
    files = (str(folder / "mine.pth"), str(folder / "target.weights.h5"))
    draft, made = str(folder / "draft.toml"), folder / "open.weights.h5"
    wtool.map(*files, save=draft)
    with pytest.raises(UnsupportedError, match=r"leaves \d+ open: 'norm.weight' has no rule"):
        wtool.convert(files[0], str(made), to="keras", map=draft, like=files[1])
    shown = wtool.convert(files[0], str(made), to="keras", map=draft, like=files[1], explain=True)
    rows = {row["source"]: row for row in shown.rows if row.get("source")}
    assert rows["stem.weight"]["target"] == "entry/kernel"
    assert rows["stem.weight"]["operations"] == "permute ... 1 0"
    assert rows["stem.weight"]["evidence"] == "only one of its kind and shape"
    assert rows["head.weight"]["status"] == "OPEN"
    assert not shown.ok
    assert not made.exists()


def test_two_files_of_the_same_weights_give_the_whole_mapping(
    folder: Path, converted: Path
) -> None:
    files = (str(folder / "mine.pth"), str(converted))
    exact = folder / "exact.toml"
    report = wtool.map(*files, save=str(exact))
    assert report.ok
    assert {row["evidence"] for row in report.rows} == {"same values"}
    made = folder / "again.weights.h5"
    like = str(folder / "target.weights.h5")
    wtool.convert(files[0], str(made), to="keras", map=str(exact), like=like)
    assert wtool.diff(str(made), str(converted)).ok
