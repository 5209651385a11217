"""What a Keras file's configuration states decides: how flattened pictures lie, how a GRU resets.

Each model is converted to PyTorch and from it without a mapping, both frameworks run on the same
input, and a control that flattens in the other order must fail. A configuration that leaves the
order open is asked about.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
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
from wtool.dialects.keras_orders import orders_of

LOSSES = ("--allow", "extras", "--allow", "metadata")
PICTURE = (4, 6, 3)
LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


class Outputs(nn.Module):
    """A recurrent module's outputs without its state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.gru = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


def torch_model(**modules: nn.Module) -> nn.Module:
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model.eval()


def chain(k: Any, inputs: tuple[int, ...], *layers: Any) -> Any:
    x = image = k.Input(inputs)
    for layer in layers:
        x = layer(x)
    return k.Model(image, x)


def after_pool(k: Any) -> Any:
    L = k.layers
    return chain(
        k, PICTURE, L.Conv2D(5, 3, padding="same", name="conv"), L.ReLU(), L.MaxPooling2D(2),
        L.Dropout(0.5), L.Flatten(), L.Dense(7, name="fc"),
    )  # fmt: skip


def sequential(k: Any) -> Any:
    L = k.layers
    return k.Sequential([
        k.Input(PICTURE), L.ZeroPadding2D(1), L.Conv2D(5, 3, strides=2, name="conv"),
        L.Flatten(), L.Dense(7, name="fc"),
    ])  # fmt: skip


def normed(k: Any) -> Any:
    L = k.layers
    return chain(
        k, PICTURE, L.Conv2D(5, 3, padding="same", name="conv"), L.Flatten(),
        L.BatchNormalization(epsilon=1e-5, name="norm"), L.Dense(7, name="fc"),
    )  # fmt: skip


def pooled(k: Any) -> Any:
    L = k.layers
    return chain(
        k, PICTURE, L.Conv2D(10, 3, padding="same", name="conv"),
        L.GlobalAveragePooling2D(), L.Dense(10, name="fc"),
    )  # fmt: skip


def series(k: Any) -> Any:
    L = k.layers
    return chain(k, (8, 3), L.Conv1D(4, 3, name="conv"), L.Flatten(), L.Dense(7, name="fc"))


def decoder(k: Any) -> Any:
    L = k.layers
    return chain(
        k, (6,), L.Dense(4 * 3 * 5, name="fc"), L.BatchNormalization(epsilon=1e-5, name="norm"),
        L.ReLU(), L.Reshape((4, 3, 5)), L.Conv2DTranspose(2, 3, name="up"),
    )  # fmt: skip


def nested(k: Any) -> Any:
    L = k.layers
    image = k.Input(PICTURE)
    body = k.Model(image, L.Conv2D(5, 3, name="conv")(image), name="body")
    return chain(k, PICTURE, body, L.Flatten(), L.Dense(7, name="fc"))


# Name -> (Keras model, PyTorch model).
MODELS: dict[str, tuple[Callable[[Any], Any], Callable[[], nn.Module]]] = {
    "after a pooling": (
        after_pool,
        lambda: torch_model(
            conv=nn.Conv2d(3, 5, 3, padding=1), r=nn.ReLU(), p=nn.MaxPool2d(2), f=nn.Flatten(),
            fc=nn.Linear(30, 7),
        ),
    ),
    "sequential": (
        sequential,
        lambda: torch_model(
            conv=nn.Conv2d(3, 5, 3, stride=2, padding=1), f=nn.Flatten(), fc=nn.Linear(30, 7)
        ),
    ),
    "a norm between": (
        normed,
        lambda: torch_model(
            conv=nn.Conv2d(3, 5, 3, padding=1), f=nn.Flatten(), norm=nn.BatchNorm1d(120),
            fc=nn.Linear(120, 7),
        ),
    ),
    "after a global pooling": (
        pooled,
        lambda: torch_model(
            conv=nn.Conv2d(3, 10, 3, padding=1), p=nn.AdaptiveAvgPool2d(1), f=nn.Flatten(),
            fc=nn.Linear(10, 10),
        ),
    ),
    "of a series": (
        series,
        lambda: torch_model(conv=nn.Conv1d(3, 4, 3), f=nn.Flatten(), fc=nn.Linear(24, 7)),
    ),
    "before a reshape": (
        decoder,
        lambda: torch_model(
            fc=nn.Linear(6, 60), norm=nn.BatchNorm1d(60), r=nn.ReLU(), u=nn.Unflatten(1, (5, 4, 3)),
            up=nn.ConvTranspose2d(5, 2, 3),
        ),
    ),
    "after a model in the model": (
        nested,
        lambda: torch_model(
            body=torch_model(conv=nn.Conv2d(3, 5, 3)), f=nn.Flatten(), fc=nn.Linear(40, 7)
        ),
    ),
}  # fmt: skip


def randomise(model: Any) -> None:
    """Every weight and every statistic anew."""
    rng = np.random.default_rng(5)
    model.set_weights([
        rng.uniform(0.5, 1.5, w.shape) if "variance" in v.name else rng.normal(0, 0.4, w.shape)
        for v, w in zip(model.weights, model.get_weights(), strict=True)
    ])  # fmt: skip


def saved(model: Any, folder: Path, ending: str) -> str:
    path = str(folder / f"model{ending}")
    model.save(path)
    return path


def to_torch(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if x.ndim > 2 else x


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() < 1e-5 * np.abs(expected).max())


def outputs(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(np.ascontiguousarray(to_torch(x)))).numpy()


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_flattened_pictures_comes_from_the_configuration(
    name: str, library: str, ending: str, tmp_path: Path
) -> None:
    k = LIBRARIES[library]
    k.utils.set_random_seed(3)
    make_keras, make_torch = MODELS[name]
    twin, model = make_keras(k), make_torch()
    randomise(twin)
    x = np.random.default_rng(7).normal(size=(2, *twin.input_shape[1:])).astype("f4")
    expected = to_torch(np.asarray(twin(x)))
    fresh = str(tmp_path / "fresh.pth")
    torch.save(model.state_dict(), fresh)

    source, made = saved(twin, tmp_path, ending), str(tmp_path / "made.pth")
    wtool.convert(source, made, to="torch", like=fresh, allow=("extras", "metadata"))
    model.load_state_dict(torch.load(made, weights_only=True))
    assert close(outputs(model, x), expected)
    if name == "after a global pooling":
        return

    # The weights in the order of the file itself fit, and compute something else.
    plain = {n: np.asarray(t.load()) for n, t in wtool.open(source).tensors.items()}
    state = model.state_dict()
    state["fc.weight"] = torch.tensor(plain["fc/kernel"].T.copy())
    model.load_state_dict(state)
    assert not close(outputs(model, x), expected)

    # And back, on the file that its author saved before training.
    weights = [np.zeros_like(w) for w in twin.get_weights()]
    twin.set_weights(weights)
    template, again = saved(twin, tmp_path, ending), str(tmp_path / "again.weights.h5")
    again = again if ending == ".keras" else str(tmp_path / "again.h5")
    wtool.convert(made, again, to="keras", like=template, force=True)
    twin.load_weights(again)
    assert close(to_torch(np.asarray(twin(x))), expected)


def gru_files(folder: Path, ending: str, *, after: bool, bias: bool) -> tuple[Any, Any, str, str]:
    L = keras.layers
    cell = L.GRU(4, reset_after=after, use_bias=bias, return_sequences=True, name="gru")
    twin = chain(keras, (5, 3), cell, L.Dense(4, name="fc"))
    randomise(twin)
    model = nn.Sequential()
    model.add_module("gru", Outputs(nn.GRU(3, 4, bias=bias, batch_first=True)))
    model.add_module("fc", nn.Linear(4, 4))
    fresh = str(folder / "fresh.pth")
    torch.save({n.replace("gru.gru", "gru"): t for n, t in model.state_dict().items()}, fresh)
    path = str(folder / f"gru{ending}")
    (twin.save_weights if ending == ".weights.h5" else twin.save)(path)
    return twin, model, path, fresh


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_gru_without_a_bias_that_resets_after_the_product_is_known(
    ending: str, tmp_path: Path
) -> None:
    twin, model, path, fresh = gru_files(tmp_path, ending, after=True, bias=False)
    made = str(tmp_path / "made.pth")
    report = wtool.convert(path, made, to="torch", like=fresh, allow=("extras", "metadata"))
    assert not any("resets before or after" in note for note in report.notes)
    state = torch.load(made, weights_only=True)
    model.load_state_dict({n.replace("gru.", "gru.gru.", 1): t for n, t in state.items()})
    x = np.random.default_rng(2).normal(size=(2, 5, 3)).astype("f4")
    with torch.no_grad():
        assert close(model(torch.tensor(x)).numpy(), np.asarray(twin(x)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_gru_that_resets_before_the_product_is_refused(
    ending: str, bias: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, path, fresh = gru_files(tmp_path, ending, after=False, bias=bias)
    mapping = tmp_path / "gru.toml"
    mapping.write_text(
        '[mapping]\nname = "gru"\na = { framework = "torch" }\nb = { framework = "keras" }\n'
        '[[layer]]\nkind = "gru"\na = "gru"\nb = "gru/gru_cell"\n'
        '[[layer]]\nkind = "linear"\na = "fc"\nb = "fc"\n'
    )
    found = wtool.map(path, fresh)
    cells = [row for row in found.rows if row.get("kind") == "gru"]
    assert {row["grade"] for row in cells} == {"ambiguous"}
    assert all("reset_after=False by the configuration" in row["evidence"] for row in cells)
    arguments = [path, str(tmp_path / "made.pth"), "--to", "torch", "--like", fresh]
    assert run(["convert", *arguments, "--map", str(mapping)]) == 4
    assert "resets before the matrix product (reset_after=False" in capsys.readouterr().err
    assert run(["convert", *arguments]) == 4
    assert not (tmp_path / "made.pth").exists()


def test_the_bias_states_how_a_gru_resets_where_no_configuration_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, path, fresh = gru_files(tmp_path, ".weights.h5", after=False, bias=True)
    assert run(["convert", path, str(tmp_path / "m.pth"), "--to", "torch", "--like", fresh]) == 4
    assert "reset_after=False: its bias is one row" in capsys.readouterr().err
    assert {row["grade"] for row in wtool.map(path, fresh).rows if row["kind"] == "gru"} == {
        "ambiguous"
    }


def test_a_gru_without_a_bias_or_a_configuration_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for after in (False, True):
        _, _, path, fresh = gru_files(tmp_path, ".weights.h5", after=after, bias=False)
        arguments = [path, str(tmp_path / "m.pth"), "--to", "torch", "--like", fresh]
        assert run(["convert", *arguments]) == 4
        assert "no file says if it resets before or after" in capsys.readouterr().err
        draft = tmp_path / "draft.toml"
        rows = wtool.map(path, fresh, save=str(draft), force=True).rows
        assert {row["grade"] for row in rows if row["kind"] == "gru"} == {"ambiguous"}
        assert '# kind = "gru"' in draft.read_text()


def flattened_input(k: Any) -> Any:
    L = k.layers
    return chain(k, PICTURE, L.Flatten(), L.Dense(7, name="fc"))


def transposed(k: Any) -> Any:
    L = k.layers
    return chain(
        k, PICTURE, L.Conv2D(5, 3, padding="same", name="conv"), L.Permute((3, 1, 2)), L.Flatten(),
        L.Dense(7, name="fc"),
    )  # fmt: skip


def joined(k: Any) -> Any:
    L = k.layers
    image = k.Input(PICTURE)
    x = L.Conv2D(5, 3, padding="same", name="conv")(image)
    x = L.Concatenate()([L.Flatten()(x), L.GlobalAveragePooling2D()(x)])
    return k.Model(image, L.Dense(7, name="fc")(x))


@pytest.mark.parametrize("make", [flattened_input, transposed, joined])
def test_what_the_configuration_leaves_open_is_asked(
    make: Callable[[Any], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = make(keras)
    path, made = saved(twin, tmp_path, ".keras"), str(tmp_path / "made.pth")
    assert run(["convert", path, made, "--to", "torch", *LOSSES]) == 4
    assert "'fc' (its inputs are pictures whose order the configuration leaves open: give chw" in (
        capsys.readouterr().err
    )
    shape = twin.get_layer("fc").kernel.shape
    state = {"fc.weight": torch.zeros(shape[1], shape[0]), "fc.bias": torch.zeros(shape[1])}
    if make is not flattened_input:
        state |= {"conv.weight": torch.zeros(5, 3, 3, 3), "conv.bias": torch.zeros(5)}
    torch.save(state, tmp_path / "fresh.pth")
    rows = wtool.map(path, str(tmp_path / "fresh.pth")).rows
    (row,) = [row for row in rows if row["source"] == "fc/kernel"]
    assert row["grade"] == "ambiguous"
    assert "the configuration leaves open" in row["evidence"]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ('kind = "linear"', "is called linear, and its inputs are pictures [5, 2, 3], flattened"),
        (
            'kind = "linear_flatten"\nchw = [10, 1, 3]',
            "is called linear_flatten with chw = [10, 1, 3], and its inputs are pictures [5, 2, 3]",
        ),
        ('kind = "linear_flatten"\nchw = [5, 3, 2]', ""),
    ],
)
def test_a_mapping_that_the_configuration_contradicts_is_refused(
    block: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = saved(after_pool(keras), tmp_path, ".keras"), tmp_path / "made.pth"
    mapping = tmp_path / "case.toml"
    mapping.write_text(
        '[mapping]\nname = "c"\na = { framework = "torch" }\nb = { framework = "keras" }\n'
        '[[layer]]\nkind = "conv"\na = "conv"\nb = "conv"\n'
        f'[[layer]]\n{block}\na = "fc"\nb = "fc"\n'
    )
    code = run(["convert", path, str(made), "--to", "torch", "--map", str(mapping),
                *LOSSES])  # fmt: skip
    captured = capsys.readouterr()
    assert code == (4 if problem else 0)
    assert problem in captured.err
    assert made.exists() == (not problem)
    assert "chw is in no file" not in captured.out


def test_a_broken_configuration_states_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(after_pool(keras), tmp_path, ".keras")
    broken = str(tmp_path / "broken.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            text = b"{" if name == "config.json" else old.read(name)
            new.writestr(name, text)
    made = str(tmp_path / "made.pth")
    assert run(["convert", broken, made, "--to", "torch"]) == 4
    assert "'fc' (may follow Flatten, whose order differs" in capsys.readouterr().err


def test_a_class_of_the_authors_own_called_flatten_states_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(after_pool(keras), tmp_path, ".keras")
    own = str(tmp_path / "own.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(own, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                for layer in config["config"]["layers"]:
                    if layer["class_name"] == "Flatten":
                        layer |= {"module": "mine", "registered_name": "mine>Flatten"}
                data = json.dumps(config).encode()
            new.writestr(name, data)
    assert run(["convert", own, str(tmp_path / "made.pth"), "--to", "torch"]) == 4
    assert "'fc' (may follow Flatten, whose order differs" in capsys.readouterr().err


def test_pictures_with_channels_first_lie_as_in_pytorch() -> None:
    L = keras.layers

    def orders(**flatten: str) -> object:
        image = keras.Input((3, 4, 6))
        x = L.Conv2D(5, 3, padding="same", data_format="channels_first", name="conv")(image)
        x = L.Dense(7, name="fc")(L.Flatten(**flatten)(x))
        return orders_of(json.loads(keras.Model(image, x).to_json())).flattened["fc"]

    # Flatten itself moves the channels last where it is told that they are first.
    assert orders(data_format="channels_last") == ()
    assert orders(data_format="channels_first") == (5, 4, 6)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("after a pooling", "may follow Flatten, whose order differs"),
        ("a norm between", "may follow Flatten, whose order differs"),
        ("before a reshape", "may come before a Reshape to pictures"),
    ],
)
def test_without_a_configuration_what_stands_beside_pictures_is_asked(
    name: str, question: str, ordered: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_keras, make_torch = MODELS[name]
    twin, model = make_keras(keras), make_torch()
    randomise(twin)
    source = str(tmp_path / ("source.pth" if ordered else "source.safetensors"))
    if ordered:
        torch.save(model.state_dict(), source)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), source)
    like, made = str(tmp_path / "like.weights.h5"), tmp_path / "made.weights.h5"
    twin.save_weights(like)
    for files in ((source, str(made), "--to", "keras"), (like, str(made), "--to", "torch")):
        other = like if files[0] == source else source
        assert run(["convert", *files, "--like", other]) == 4
        assert question in capsys.readouterr().err
        assert not made.exists()
    rows = {row["source"]: row for row in wtool.map(source, like).rows}
    assert rows["fc.weight"]["grade"] == "ambiguous"
    assert "pictures" in rows["fc.weight"]["evidence"]


@pytest.mark.parametrize("name", ["after a pooling", "before a reshape", "a norm between"])
def test_the_same_trained_weights_say_how_pictures_lie(name: str, tmp_path: Path) -> None:
    make_keras, make_torch = MODELS[name]
    twin, model = make_keras(keras), make_torch()
    randomise(twin)
    source, made = saved(twin, tmp_path, ".keras"), str(tmp_path / "made.pth")
    torch.save(model.state_dict(), tmp_path / "fresh.pth")
    wtool.convert(
        source, made, to="torch", like=str(tmp_path / "fresh.pth"), allow=("extras", "metadata")
    )
    twin.save_weights(tmp_path / "twin.weights.h5")
    report = wtool.map(made, str(tmp_path / "twin.weights.h5"))
    kinds = {row["source"]: (row["kind"], row["evidence"]) for row in report.rows}
    kind = "linear_unflatten" if name == "before a reshape" else "linear_flatten"
    assert kinds["fc.weight"] == (kind, "same values")
