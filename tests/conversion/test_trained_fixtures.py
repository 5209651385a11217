"""The trained fixtures in the other framework: as accurate as before, on inputs held back."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import wtool
from fixtures import datasets, keras_models, torch_models

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
ACCURACIES = json.loads((FIXTURES / "accuracies.json").read_text())
# What no weight file says, of the one model that needs it.
FACTS: dict[str, dict[str, Any]] = {
    "digits-cnn": {"set": ("chw=16,4,4",), "assume": ("fc1=linear_flatten",)},
    "topics-rnn": {},
    "digits-transformer": {},
}


@cache
def held_back(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels that the model was not trained on."""
    data = datasets.topics() if name.startswith("topics") else datasets.digits()
    return data[2], data[3]


def accuracies(name: str, state: dict[str, torch.Tensor], keras_file: Path) -> tuple[float, float]:
    """Share of right answers of the PyTorch model and of the Keras model."""
    x, y = held_back(name)
    model = torch_models.MODELS[name]()
    model.load_state_dict(state)
    twin = keras_models.MODELS[name](keras)
    twin.load_weights(keras_file)
    return torch_models.accuracy(name, model, x, y), keras_models.accuracy(name, twin, x, y)


@pytest.mark.parametrize("name", FACTS)
def test_pytorch_fixture_is_as_accurate_in_keras(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made.weights.h5"
    source, like = FIXTURES / f"{name}.pth", FIXTURES / f"{name}.weights.h5"
    assert wtool.convert(str(source), str(made), to="keras", like=str(like), **FACTS[name]).ok
    before, after = accuracies(name, torch.load(source, weights_only=True), made)
    assert before == pytest.approx(ACCURACIES[f"{name} (PyTorch)"], abs=1e-4)
    assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", FACTS)
def test_keras_fixture_is_as_accurate_in_pytorch(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made.pth"
    source, like = FIXTURES / f"{name}.weights.h5", FIXTURES / f"{name}.pth"
    assert wtool.convert(str(source), str(made), to="torch", like=str(like), **FACTS[name]).ok
    after, before = accuracies(name, torch.load(made, weights_only=True), source)
    assert before == pytest.approx(ACCURACIES[f"{name} (Keras)"], abs=1e-4)
    assert after == pytest.approx(before, abs=1e-6)


def test_flattened_inputs_in_the_wrong_order_cost_accuracy(tmp_path: Path) -> None:
    made = tmp_path / "made.weights.h5"
    source, like = FIXTURES / "digits-cnn.pth", FIXTURES / "digits-cnn.weights.h5"
    wrong = {"assume": ("fc1=linear",)}
    assert wtool.convert(str(source), str(made), to="keras", like=str(like), **wrong).ok
    before, after = accuracies("digits-cnn", torch.load(source, weights_only=True), made)
    assert after < before / 2
