"""Norms with one of scale and shift, which a `.weights.h5` keeps as variable 0, whichever it is.

The class, the configuration or the other side's vectors decide, and both models then compute the
same; where both of the other side's do nothing, or both do something, nothing is written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tf_keras
import torch
from torch import nn

import wtool
from wtool.cli import run

LOSSES = ("--allow", "extras", "--allow", "metadata")
X = np.random.default_rng(3).normal(size=(2, 6, 6, 3)).astype("f4")
# Name -> (Keras class, what it lacks, torch module of 8 channels).
NORMS: dict[str, tuple[str, str, Any]] = {
    "batchnorm without shift": ("BatchNormalization", "center", nn.BatchNorm2d(8)),
    "batchnorm without scale": ("BatchNormalization", "scale", nn.BatchNorm2d(8)),
    "groupnorm without shift": ("GroupNormalization", "center", nn.GroupNorm(4, 8)),
    "groupnorm without scale": ("GroupNormalization", "scale", nn.GroupNorm(4, 8)),
}
KERAS = {"keras": keras, "tf_keras": tf_keras}


def keras_model(k: Any, class_name: str, lacks: str) -> Any:
    L = k.layers
    options: dict[str, Any] = {lacks: False, "epsilon": 1e-5, "name": "norm"}
    if class_name == "GroupNormalization":
        options["groups"] = 4
    image = k.Input((6, 6, 3))
    return k.Model(image, getattr(L, class_name)(**options)(L.Conv2D(8, 3, name="conv")(image)))


def torch_model(norm: nn.Module, lacks: str) -> nn.Module:
    """The same with random values; what Keras lacks does nothing."""
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 8, 3))
    model.add_module("norm", norm)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0, 0.5)
        (norm.weight.fill_(1) if lacks == "scale" else norm.bias.zero_())  # type: ignore[operator, union-attr]
    return model.eval()


def outputs(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(X.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)


def close(found: Any, expected: np.ndarray) -> bool:
    return bool(np.abs(np.asarray(found) - expected).max() < 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
@pytest.mark.parametrize("library", KERAS)
@pytest.mark.parametrize("name", NORMS)
def test_what_the_other_side_has_says_which_vector_it_is(
    name: str, library: str, ending: str, tmp_path: Path
) -> None:
    class_name, lacks, norm = NORMS[name]
    twin, model = keras_model(KERAS[library], class_name, lacks), torch_model(norm, lacks)
    source, like = str(tmp_path / "source.pth"), str(tmp_path / f"like{ending}")
    torch.save(model.state_dict(), source)
    (twin.save if ending == ".keras" else twin.save_weights)(like)
    made = str(tmp_path / "made.weights.h5")
    wtool.convert(source, made, to="keras", like=like)
    twin.load_weights(made)
    expected = outputs(model)
    assert close(twin(X), expected)

    # The other of the two, in the same place and of the same shape, is seen.
    weights = twin.get_weights()
    weights[2] = np.ones(8, "f4") if lacks == "center" else np.zeros(8, "f4")
    twin.set_weights(weights)
    assert not close(twin(X), expected)

    # From a .keras file back: its configuration says which it is.
    twin.load_weights(made)
    back, trained = str(tmp_path / "back.pth"), str(tmp_path / "trained.keras")
    twin.save(trained)
    wtool.convert(trained, back, to="torch", like=source, allow=("extras", "metadata"))
    model.load_state_dict(torch.load(back, weights_only=True))
    assert close(outputs(model), expected)


def test_the_scale_of_a_layernorm_without_bias_is_known_in_both_directions(tmp_path: Path) -> None:
    L = keras.layers
    image = keras.Input((5, 6))
    x = L.Dense(6, name="fc")(image)
    twin = keras.Model(image, L.LayerNormalization(epsilon=1e-5, center=False, name="norm")(x))
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(6, 6))
    model.add_module("norm", nn.LayerNorm(6, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    source, like = str(tmp_path / "source.pth"), str(tmp_path / "like.weights.h5")
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    made, back = str(tmp_path / "made.weights.h5"), str(tmp_path / "back.pth")
    wtool.convert(source, made, to="keras", like=like)
    twin.load_weights(made)
    x = np.random.default_rng(4).normal(size=(2, 5, 6)).astype("f4")
    with torch.no_grad():
        assert close(twin(x), model(torch.tensor(x)).numpy())
    wtool.convert(made, back, to="torch", like=source)
    assert wtool.diff(back, source).ok


@pytest.mark.parametrize("values", ["both do something", "neither does anything"])
@pytest.mark.parametrize("class_name", ["BatchNormalization", "GroupNormalization"])
def test_where_nothing_decides_nothing_is_written(
    class_name: str, values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = nn.BatchNorm2d(8) if class_name == "BatchNormalization" else nn.GroupNorm(4, 8)
    model = torch_model(norm, "scale")
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.fill_(0)
        if values == "both do something":
            norm.weight.normal_()
            norm.bias.normal_()
    source, like = str(tmp_path / "source.pth"), str(tmp_path / "like.weights.h5")
    torch.save(model.state_dict(), source)
    keras_model(keras, class_name, "center").save_weights(like)
    made = tmp_path / "made.weights.h5"
    assert run(["convert", source, str(made), "--to", "keras", "--like", like]) == 4
    error = capsys.readouterr().err
    assert "'norm' has one vector, and no file says if it is scale or shift" in error
    assert "give the .keras file, or a mapping file" in error
    assert not made.exists()
    # The file alone, and a fresh model of PyTorch, say no more.
    for more in ([], ["--like", source]):
        back = tmp_path / "back.pth"
        assert run(["convert", like, str(back), "--to", "torch", *more]) == 4
        assert "no file says if it is scale or shift" in capsys.readouterr().err
        assert not back.exists()


@pytest.mark.parametrize("leaf", ["gamma", "beta"])
def test_a_mapping_file_names_the_vector_and_its_word_is_noted(
    leaf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = torch_model(nn.BatchNorm2d(8), "center")
    source, like = str(tmp_path / "source.pth"), str(tmp_path / "like.weights.h5")
    torch.save(model.state_dict(), source)
    twin = keras_model(keras, "BatchNormalization", "center")
    twin.save_weights(like)
    mapping, made = tmp_path / "norm.toml", tmp_path / "made.weights.h5"
    other = ("bias", 0.0) if leaf == "gamma" else ("weight", 1.0)
    mapping.write_text(
        '[mapping]\nname = "n"\na = { framework = "torch" }\nb = { framework = "keras" }\n'
        '[[layer]]\nkind = "conv"\na = "conv"\nb = "conv"\n'
        f'[[layer]]\nkind = "batchnorm"\na = "norm"\nb = "norm"\nb_names = {{ {leaf} = "0" }}\n'
        f'{other[0]} = {{ only = "a", fill = {other[1]} }}\n'
    )
    files = [source, str(made), "--to", "keras", "--like", like, "--map", str(mapping)]
    code = run(["convert", *files])
    captured = capsys.readouterr()
    if leaf == "beta":
        # The scale that it drops is not 1.
        assert code == 4
        assert "'norm.weight' is dropped as 1, and is not" in captured.err
        return
    assert code == 0
    assert "whether its one vector is scale or shift is in no file" in captured.out + captured.err
    twin.load_weights(made)
    assert close(twin(X), outputs(model))


def test_wtool_map_grades_the_vector_by_what_decides_it(tmp_path: Path) -> None:
    model = torch_model(nn.BatchNorm2d(8), "scale")
    source = str(tmp_path / "source.pth")
    torch.save(model.state_dict(), source)
    twin = keras_model(keras, "BatchNormalization", "scale")
    twin.save_weights(tmp_path / "like.weights.h5")
    report = wtool.map(source, str(tmp_path / "like.weights.h5"), save=str(tmp_path / "m.toml"))
    rows = {row["source"]: row for row in report.rows}
    assert rows["norm.bias"]["target"] == "norm/0"
    assert rows["norm.weight"]["target"] is None
    assert report.ok
    made = str(tmp_path / "made.weights.h5")
    wtool.convert(
        source, made, map=str(tmp_path / "m.toml"), like=str(tmp_path / "like.weights.h5")
    )
    twin.load_weights(made)
    assert close(twin(X), outputs(model))
    # Turned round, the values of PyTorch's file are fresh ones, and say nothing.
    turned = wtool.map(str(tmp_path / "like.weights.h5"), source)
    assert {row["grade"] for row in turned.rows if "norm" in (row["target"] or "")} == {"ambiguous"}


@pytest.mark.parametrize("missing", ["weight", "bias", "running_mean", "running_var"])
def test_a_tensor_that_pytorchs_norm_lacks_is_not_made(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch_model(nn.BatchNorm2d(8), "scale").state_dict()
    del state[f"norm.{missing}"]
    source, like = str(tmp_path / "source.pth"), str(tmp_path / "like.keras")
    torch.save(state, source)
    L = keras.layers
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="conv")(image)
    keras.Model(image, L.BatchNormalization(name="norm")(x)).save(like)
    made = tmp_path / "made.weights.h5"
    assert run(["convert", source, str(made), "--to", "keras", "--like", like]) == 4
    leaf = {"running_mean": "moving_mean", "running_var": "moving_variance"}.get(missing, missing)
    assert leaf in capsys.readouterr().err
    assert not made.exists()
