"""The same module paths in both frameworks: converted by layer rules, judged by outputs."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tf_keras
import torch
from layer_cases import error, randomise
from torch import nn

import wtool
from wtool.cli import run

SUFFIX = {"keras": ".weights.h5", "tf_keras": ".h5"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.dw = nn.Conv2d(4, 8, 3, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.mix = nn.Conv2d(8, 8, 1, bias=False)
        self.ln = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.up(self.dw(torch.relu(self.bn(self.stem(x))))))
        return self.fc(self.ln(x.mean((2, 3))))


def build(library):
    layers = library.layers
    x = inputs = library.Input((9, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=1e-5, name="bn")(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="dw")(x)
    x = layers.Conv2DTranspose(8, 2, name="up")(x)
    x = layers.Conv2D(8, 1, use_bias=False, name="mix")(x)
    x = layers.LayerNormalization(epsilon=1e-5, name="ln")(layers.GlobalAveragePooling2D()(x))
    return library.Model(inputs, layers.Dense(8, name="fc")(x))


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_model_with_the_same_paths_converts_without_a_mapping(library, tmp_path):
    """Half of its matrices are square; the target's file states what each is."""
    framework = "tf_keras" if library is tf_keras else "keras"
    module, model = randomise(Net()), build(library)
    source, back = str(tmp_path / "m.pth"), str(tmp_path / "back.pth")
    fresh = str(tmp_path / f"fresh{SUFFIX[framework]}")
    target = str(tmp_path / f"target{SUFFIX[framework]}")
    torch.save(module.state_dict(), source)
    model.save_weights(fresh)
    assert run(["convert", source, target, "--to", "keras", "--like", fresh]) == 0
    model.load_weights(target)
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype("f")
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert error(np.asarray(model(np.moveaxis(x, 1, -1))), expected) < 1e-5
    assert run(["convert", target, back, "--to", "torch", "--like", source]) == 0
    state = torch.load(back, weights_only=True)
    assert list(wtool.open(back).tensors) == list(state)
    for name, tensor in module.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(state[name], tensor), name


def test_a_dense_layer_after_flatten_is_refused_in_both_directions(tmp_path, capsys):
    inputs = keras.Input((5, 5, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, name="c")(inputs))
    keras.Model(inputs, keras.layers.Dense(2, name="fc")(x)).save_weights(tmp_path / "k.weights.h5")
    torch.save(
        nn.ModuleDict({"c": nn.Conv2d(3, 4, 3), "fc": nn.Linear(36, 2)}).state_dict(),
        tmp_path / "t.pth",
    )
    k, t, out = (str(tmp_path / name) for name in ("k.weights.h5", "t.pth", "out.pth"))
    for arguments in ([t, k, "keras"], [k, t, "torch"]):
        source, like, to = arguments
        assert run(["convert", source, out, "--to", to, "--like", like]) == 4
        assert "'fc' (may follow Flatten" in capsys.readouterr().err
    assert run(["convert", k, out, "--to", "torch"]) == 4
    error = capsys.readouterr().err
    assert "'fc' (may follow Flatten" in error
    assert "--assume 'fc=linear_flatten' --set chw=C,H,W, or 'fc=linear'" in error
    facts = ["--assume", "fc=linear_flatten", "--set", "chw=4,3,3"]
    assert run(["convert", k, out, "--to", "torch", "--like", t, *facts]) == 0
    kernel = wtool.open(k)["fc/kernel"].load().reshape(3, 3, 4, 2).transpose(3, 2, 0, 1)
    assert np.array_equal(torch.load(out)["fc.weight"].numpy(), kernel.reshape(2, 36))


def transposed(folder, groups: int, bias: bool) -> str:
    path = str(folder / f"t{groups}{bias}.pth")
    up = nn.ConvTranspose2d(8, 4, 3, groups=groups, bias=bias)
    torch.save({f"up.{name}": value for name, value in up.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("assume", [[], ["--assume", "up=conv_transpose"]])
def test_a_transposed_convolution_in_groups_is_refused(library, groups, assume, tmp_path, capsys):
    """Its weight is (I, O / groups, ...): only what says O shows it."""
    source = transposed(tmp_path, groups, bias=False)
    suffix = SUFFIX["tf_keras" if library is tf_keras else "keras"]
    like, out = str(tmp_path / f"k{suffix}"), str(tmp_path / f"out{suffix}")
    inputs = library.Input((5, 5, 8))
    layer = library.layers.Conv2DTranspose(4, 3, use_bias=False, name="up")
    model = library.Model(inputs, layer(inputs))
    model.save_weights(like)
    code = run(["convert", source, out, "--to", "keras", "--like", like, *assume])
    errors = capsys.readouterr().err
    if groups == 1:
        assert code == 0
        model.load_weights(out)
        weight = torch.load(source)["up.weight"].numpy()
        assert np.array_equal(model.get_weights()[0], weight.transpose(2, 3, 1, 0))
    else:
        assert code == 4
        if assume or library is keras:
            assert f"'up' (a transposed convolution in {groups} groups" in errors
    if groups > 1:
        arguments = ["convert", like, str(tmp_path / "o.pth"), "--to", "torch", "--like", source]
        assert run([*arguments, *assume]) == 4


def test_a_transposed_convolution_without_bias_or_target_is_not_taken_on_trust(tmp_path, capsys):
    out = str(tmp_path / "out.safetensors")
    facts = ["--to", "keras", "--assume", "up=conv_transpose"]
    for groups in (1, 2):
        assert run(["convert", transposed(tmp_path, groups, bias=False), out, *facts]) == 4
        assert "nothing shows that it is not in groups" in capsys.readouterr().err
    assert run(["convert", transposed(tmp_path, 2, bias=True), out, *facts]) == 4
    assert "in 2 groups, which Keras does not have" in capsys.readouterr().err
    assert run(["convert", transposed(tmp_path, 1, bias=True), out, *facts]) == 0


@pytest.mark.parametrize("shape", [(3, 3, 4, 1), (3, 3, 4, 4)])
def test_a_class_that_wtool_guesses_itself_is_no_evidence(shape, tmp_path, capsys):
    """Keras 3 calls the kernels of Conv2D, DepthwiseConv2D and Conv2DTranspose alike."""
    source, out = str(tmp_path / "k.npz"), str(tmp_path / "out.pth")
    np.savez(source, **{"dw/kernel": np.ones(shape, "f"), "dw/bias": np.ones(shape[-1], "f")})
    assert run(["convert", source, out, "--to", "torch"]) == 4
    assert "'dw' (the file does not state its class)" in capsys.readouterr().err
    assert run(["convert", source, out, "--to", "torch", "--assume", "dw=conv"]) == 0


def test_what_the_user_states_is_used_or_refused(tmp_path, capsys):
    source, like, out = (str(tmp_path / n) for n in ("s.pth", "l.weights.h5", "o.weights.h5"))
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(4, 3))
    model.add_module("other", nn.Linear(3, 2))
    torch.save(model.state_dict(), source)
    image = keras.Input((4,))
    x = keras.layers.Dense(2, name="renamed")(keras.layers.Dense(3, name="fc")(image))
    keras.Model(image, x).save_weights(like)
    files = ["convert", source, out, "--to", "keras", "--like", like]
    # What map finds between the two would take no notice of an assumption.
    assert run([*files, "--assume", "fc=conv1d_linear"]) == 4
    assert "'other' (the target has no module of that name)" in capsys.readouterr().err
    assert run([*files, "--assume", "nothing*=linear"]) == 2
    assert "no layer is called 'nothing*': found fc, other" in capsys.readouterr().err
    (tmp_path / "m.toml").write_text(
        '[mapping]\nname = "m"\na = { framework = "torch" }\nb = { framework = "keras" }\n'
        '[[layer]]\nkind = "linear"\na = "{p**}"\nb = "{p**}"\n'
    )
    given = ["--map", str(tmp_path / "m.toml")]
    assert run([*files, *given, "--assume", "fc=linear"]) == 2
    assert "--assume goes without --map" in capsys.readouterr().err
    assert run([*files[:-1], source]) == 2
    assert "has the names of PyTorch, as the source" in capsys.readouterr().err
    assert run([*files, "--set", "chw=4,2,2"]) == 2
    assert "nothing takes the constant 'chw'" in capsys.readouterr().err
    assert run(files) == 0


def test_a_few_names_of_a_preset_are_no_model_of_its_family(tmp_path):
    source, out = str(tmp_path / "s.pth"), str(tmp_path / "o.safetensors")
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 5, 3))
    model.add_module("bn1", nn.BatchNorm2d(5))
    model.add_module("fc", nn.Linear(5, 4))
    torch.save(model.state_dict(), source)
    report = wtool.convert(source, out, to="keras")
    assert "same module paths" in report.footer[0]
    assert {t.name.split("/")[0] for t in wtool.open(out)} == {"conv1", "bn1", "fc"}
