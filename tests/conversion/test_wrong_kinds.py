"""A kind that fits every shape and is wrong: what the files say against it stops the conversion.

Each case is complete, balanced and bit-equal on the way back, and would compute something else.
What no file says is listed as the mapping's word alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import torch
from layer_cases import HEAD, gpt2_dense, layer
from torch import nn

import wtool
from wtool.cli import run
from wtool.conversion.dense_axes import stored_in_out
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.units import cut
from wtool.conversion.verification import convert_layouts
from wtool.writers import save

K = keras.layers


@dataclass(frozen=True)
class Wrong:
    """A torch module and a Keras layer, both called m, and what a mapping wrongly says of them."""

    module: Callable[[], nn.Module]
    keras: Callable[[], Any]
    inputs: tuple[int, ...]
    kind: str
    problem: str
    b: str = "m"
    options: dict[str, object] = field(default_factory=dict)


def conv(*sizes: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*sizes, **options)


def up(*sizes: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.ConvTranspose2d(*sizes, **options)


NO_BIAS = {"bias": False}
PLAIN = {"use_bias": False, "name": "m"}
WRONG = {
    "a transposed convolution called conv": Wrong(
        up(4, 4, 3), lambda: K.Conv2DTranspose(4, 3, name="m"), (5, 5, 4), "conv",
        "is called conv, and the {keras} states that it is transposed_conv",
    ),
    "a convolution called conv_transpose": Wrong(
        conv(4, 4, 3), lambda: K.Conv2D(4, 3, name="m"), (5, 5, 4), "conv_transpose",
        "is called conv_transpose, and the {keras} states that it is conv",
    ),
    "a convolution of one channel called depthwise": Wrong(
        conv(1, 4, 3), lambda: K.Conv2D(4, 3, name="m"), (5, 5, 1), "depthwise",
        "is called depthwise, and the {keras} states that it is conv", options={"multiplier": 4},
    ),
    "a depthwise convolution called conv": Wrong(
        conv(1, 4, 3), lambda: K.DepthwiseConv2D(3, depth_multiplier=4, name="m"), (5, 5, 1),
        "conv", "is called conv, and the {keras} states that it is depthwise",
    ),
    "a Dense called embedding": Wrong(
        lambda: nn.Linear(4, 4, **NO_BIAS), lambda: K.Dense(4, **PLAIN), (4,), "embedding",
        "is called embedding, and the {keras} states that it is dense",
        options={"b_names": {"embeddings": "kernel"}},
    ),
    "an Embedding called linear": Wrong(
        lambda: nn.Embedding(4, 4), lambda: K.Embedding(4, 4, name="m"), (3,), "linear",
        "is called linear, and the {keras} states that it is embedding",
        options={"b_names": {"kernel": "embeddings"}},
    ),
    "a GRU called lstm": Wrong(
        lambda: nn.GRU(5, 6, **NO_BIAS), lambda: K.GRU(6, **PLAIN), (4, 5), "lstm",
        "is called lstm, which has 4 gates; 'm.weight_hh_l0' [18, 6] has 3, gru's",
        b="m/gru_cell",
    ),
    "a GRU called rnn": Wrong(
        lambda: nn.GRU(5, 6, **NO_BIAS), lambda: K.GRU(6, **PLAIN), (4, 5), "rnn",
        "is called rnn, which has 1 gates; 'm.weight_hh_l0' [18, 6] has 3, gru's",
        b="m/gru_cell",
    ),
    # 4 x 6 rows are three parts of 8.
    "an LSTM called gru": Wrong(
        lambda: nn.LSTM(5, 6, **NO_BIAS), lambda: K.LSTM(6, **PLAIN), (4, 5), "gru",
        "is called gru, which has 3 gates; 'm.weight_hh_l0' [24, 6] has 4, lstm's",
        b="m/lstm_cell",
    ),
    "a transposed convolution in groups": Wrong(
        up(8, 4, 3, groups=2, **NO_BIAS), lambda: K.Conv2DTranspose(4, 3, **PLAIN), (5, 5, 8),
        "conv_transpose", "is a transposed convolution in 2 groups, which Keras does not have",
    ),
    "a transposed convolution in groups, with a bias": Wrong(
        up(8, 4, 3, groups=4), lambda: K.Conv2DTranspose(4, 3, name="m"), (5, 5, 8),
        "conv_transpose", "is a transposed convolution in 4 groups, which Keras does not have",
    ),
    "a depthwise transposed convolution": Wrong(
        up(8, 8, 3, groups=8, **NO_BIAS), lambda: K.Conv2DTranspose(8, 3, **PLAIN), (5, 5, 8),
        "conv_transpose", "is a transposed convolution in 8 groups, which Keras does not have",
    ),
}  # fmt: skip


def mapping_of(text: str, framework: str = "keras"):
    return parse_mapping(HEAD.format(framework=framework) + text)


def wrong_mapping(case: Wrong):
    options = {name: value for name, value in case.options.items() if name != "b_names"}
    text = layer(case.kind, b=case.b, **options)
    for leaf, name in case.options.get("b_names", {}).items():
        text += f'b_names = {{ {leaf} = "{name}" }}\n'
    return mapping_of(text)


@pytest.mark.parametrize("name", WRONG)
def test_a_kind_that_the_files_contradict_is_refused_in_both_directions(name, tmp_path):
    case = WRONG[name]
    state = {f"m.{key}": value for key, value in case.module().state_dict().items()}
    torch.save(state, tmp_path / "t.pth")
    inputs = keras.Input(case.inputs)
    keras.Model(inputs, case.keras()(inputs)).save_weights(tmp_path / "k.weights.h5")
    files = wtool.open(tmp_path / "t.pth"), wtool.open(tmp_path / "k.weights.h5")
    for to, source, like in (("b", *files), ("a", *reversed(files))):
        outcome = convert_layouts(source, wrong_mapping(case), to=to, template=like)
        keras_is = "target" if to == "b" else "source"
        wanted = case.problem.format(keras=keras_is)
        assert any(wanted in str(item) for item in outcome.open), [str(i) for i in outcome.open]


@pytest.mark.parametrize("name", ["a GRU called lstm", "an LSTM called gru"])
def test_gates_tell_a_cell_without_a_file_of_the_target(name, tmp_path):
    case = WRONG[name]
    state = {f"m.{key}": value for key, value in case.module().state_dict().items()}
    torch.save(state, tmp_path / "t.pth")
    outcome = convert_layouts(wtool.open(tmp_path / "t.pth"), wrong_mapping(case), to="b")
    assert any(case.problem in str(item) for item in outcome.open)


def test_an_lstm_with_a_projection_is_refused_by_name(tmp_path):
    for sizes in ({"proj_size": 3}, {"proj_size": 3, "bidirectional": True}):
        module = nn.LSTM(5, 6, **sizes)
        state = {f"m.{key}": value for key, value in module.state_dict().items()}
        torch.save(state, tmp_path / "t.pth")
        rules = mapping_of(layer("lstm", b="m/lstm_cell"))
        outcome = convert_layouts(wtool.open(tmp_path / "t.pth"), rules, to="b")
        found = [str(item) for item in outcome.open]
        assert any("is an LSTM with proj_size, which Keras does not have" in f for f in found)
        assert any("'m.weight_hr_l0' has no rule" in f for f in found)


def test_extra_parts_of_attention_are_no_one_s(tmp_path):
    module = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    state = {f"m.{key}": value for key, value in module.state_dict().items()}
    torch.save(state, tmp_path / "t.pth")
    rules = mapping_of(layer("mha", heads=2))
    outcome = convert_layouts(wtool.open(tmp_path / "t.pth"), rules, to="b")
    assert {i.tensor for i in outcome.open} == {"m.bias_k", "m.bias_v"}


def gpt2(proof: int | None) -> dict[str, torch.Tensor]:
    """A square c_proj; beside it c_attn, whose bias is as long as axis `proof`."""
    state = {f"m.c_proj.{k}": v for k, v in gpt2_dense().m.state_dict().items()}
    if proof is not None:
        shape = (6, 18) if proof == 1 else (18, 6)
        state |= {"m.c_attn.weight": torch.randn(shape), "m.c_attn.bias": torch.randn(18)}
    return state


@pytest.mark.parametrize(
    ("kind", "proof", "problem"),
    [
        ("linear", 1, "'m.c_attn.weight' [6, 18] is stored (in, out), by the length of its bias"),
        ("conv1d_linear", 0, "'m.c_attn.weight' [18, 6] is stored (out, in)"),
        ("linear", 0, None),
        ("conv1d_linear", 1, None),
        ("linear", None, None),
    ],
)
def test_a_square_matrix_of_gpt2_is_stored_as_its_siblings_are(kind, proof, problem, tmp_path):
    torch.save(gpt2(proof), tmp_path / "t.pth")
    text = layer(kind, "m.c_proj", "m/c_proj")
    if proof is not None:
        text += layer("conv1d_linear" if proof else "linear", "m.c_attn", "m/c_attn")
    source = wtool.open(tmp_path / "t.pth")
    outcome = convert_layouts(source, mapping_of(text), to="b")
    found = "; ".join(map(str, outcome.open))
    assert (problem in found) if problem else not found
    if problem:
        # The other way round the file of the target model shows it.
        other = "linear" if kind == "conv1d_linear" else "conv1d_linear"
        right = mapping_of(text.replace(f'"{kind}"', f'"{other}"', 1))
        save(convert_layouts(source, right, to="b").checkpoint(), tmp_path / "k.npz")
        back = convert_layouts(
            wtool.open(tmp_path / "k.npz"), mapping_of(text), to="a", template=source
        )
        assert problem in "; ".join(map(str, back.open))


def test_a_tf1_cell_is_of_the_kind_that_it_is_named_after(tmp_path):
    """Its joined kernel (40, 24) may be an RNN of 24 units or an LSTM of 6."""
    arrays = {"m/basic_lstm_cell/kernel": np.ones((40, 24), "f")}
    arrays["m/basic_lstm_cell/bias"] = np.ones(24, "f")
    np.savez(tmp_path / "k.npz", **arrays)
    source = wtool.open(tmp_path / "k.npz")
    rules = mapping_of(layer("rnn", b="m/basic_lstm_cell"), "tf1")
    outcome = convert_layouts(source, rules, to="a")
    assert "is named after lstm" in "; ".join(map(str, outcome.open))
    lstm = layer("lstm", b="m/basic_lstm_cell", forget_bias=1.0)
    assert not convert_layouts(source, mapping_of(lstm, "tf1"), to="a").open


def test_the_command_stops_and_writes_nothing(tmp_path, capsys):
    case = WRONG["a GRU called lstm"]
    state = {f"m.{key}": value for key, value in case.module().state_dict().items()}
    torch.save(state, tmp_path / "t.pth")
    (tmp_path / "m.toml").write_text(HEAD.format(framework="keras") + layer(case.kind, b=case.b))
    t, m, out = (str(tmp_path / name) for name in ("t.pth", "m.toml", "out.safetensors"))
    assert run(["convert", t, out, "--map", m]) == 4
    assert "is called lstm, which has 4 gates" in capsys.readouterr().err
    assert not os.path.exists(out)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


SHAPE = "its shape may be a convolution, a transposed one, or one in groups"
NARROW = "it may be depthwise, of one channel, or transposed in groups"
CELL = {"weight_ih_l0": randn(18, 5), "weight_hh_l0": randn(18, 6)}
ATTENTION = {
    "in_proj_weight": randn(24, 8), "in_proj_bias": randn(24),
    "out_proj.weight": randn(8, 8), "out_proj.bias": randn(8),
}  # fmt: skip
LSTM = {
    "weight_ih_l0": randn(24, 5), "weight_hh_l0": randn(24, 6),
    "bias_ih_l0": randn(24), "bias_hh_l0": randn(24),
}  # fmt: skip
# What a mapping file says, without a file of the target: (tensors, kind, options, reason or None).
ALONE = {
    "a square matrix": (
        {"weight": randn(4, 4), "bias": randn(4)}, "linear", {},
        "a square matrix, which fits transposed too",
    ),
    "a square matrix of GPT-2": (
        {"weight": randn(4, 4), "bias": randn(4)}, "conv1d_linear", {},
        "a square matrix, which fits transposed too",
    ),
    "a matrix without a bias": (
        {"weight": randn(4, 5)}, "linear", {}, "nothing shows which axis is which",
    ),
    "a matrix with a bias": ({"weight": randn(4, 5), "bias": randn(4)}, "linear", {}, None),
    "a Linear after Flatten": (
        {"weight": randn(4, 36), "bias": randn(4)}, "linear_flatten", {"chw": [4, 3, 3]},
        "the order of chw is in no file",
    ),
    "a table": ({"weight": randn(4, 5)}, "embedding", {}, "without a bias it may be a Linear"),
    "a square kernel": ({"weight": randn(4, 4, 3, 3), "bias": randn(4)}, "conv", {}, SHAPE),
    "a kernel without a bias": ({"weight": randn(4, 3, 3, 3)}, "conv", {}, SHAPE),
    "a kernel with a bias": ({"weight": randn(4, 3, 3, 3), "bias": randn(4)}, "conv", {}, None),
    "a kernel of one channel": (
        {"weight": randn(4, 1, 3, 3), "bias": randn(4)}, "conv", {}, NARROW,
    ),
    "a depthwise kernel": (
        {"weight": randn(4, 1, 3, 3), "bias": randn(4)}, "depthwise", {}, NARROW,
    ),
    "transposed, without a bias": ({"weight": randn(8, 2, 3, 3)}, "conv_transpose", {}, SHAPE),
    "transposed, with a bias": (
        {"weight": randn(8, 2, 3, 3), "bias": randn(2)}, "conv_transpose", {}, None,
    ),
    "a GRU without a bias": (
        CELL, "gru", {}, "whether the cell resets before or after the product",
    ),
    "a GRU": ({**CELL, "bias_ih_l0": randn(18), "bias_hh_l0": randn(18)}, "gru", {}, None),
    "attention": (ATTENTION, "mha", {"heads": 2}, "heads is in no file"),
    "an LSTM": (LSTM, "lstm", {}, None),
    "a norm": ({"weight": randn(4), "bias": randn(4)}, "layernorm", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_what_no_file_says_is_said_to_be_the_mapping_s_word(name, tmp_path):
    tensors, kind, options, reason = ALONE[name]
    torch.save({f"m.{leaf}": value for leaf, value in tensors.items()}, tmp_path / "t.pth")
    outcome = convert_layouts(
        wtool.open(tmp_path / "t.pth"), mapping_of(layer(kind, **options)), to="b"
    )
    assert outcome.open == ()
    report = outcome.report()
    notes = [note for note in report.notes if "the mapping's word alone decides" in note]
    alone = [row for row in report.rows if "its word alone: " in row["evidence"]]
    first = f"m.{next(iter(tensors))}"
    if reason is None:
        assert (notes, alone) == ([], [])
    else:
        assert [row["source"].split(", ")[0] for row in alone] == [first]
        assert reason in alone[0]["evidence"]
        assert len(notes) == 1
        assert first in notes[0]
        assert reason in notes[0]


def test_a_file_of_the_target_settles_what_it_states(tmp_path):
    """Classes, names and shapes of the Keras file; a square matrix stays the mapping's word."""
    inputs = keras.Input((6, 6, 4))
    x = K.Conv2D(4, 3, use_bias=False, name="c")(inputs)
    x = K.DepthwiseConv2D(3, name="d")(x)
    x = K.Conv2DTranspose(4, 3, use_bias=False, name="u")(x)
    x = K.Dense(5, use_bias=False, name="f")(x)
    keras.Model(inputs, K.Dense(5, name="s")(x)).save_weights(tmp_path / "k.weights.h5")
    modules = {
        "c": nn.Conv2d(4, 4, 3, bias=False),
        "d": nn.Conv2d(4, 4, 3, groups=4),
        "u": nn.ConvTranspose2d(4, 4, 3, bias=False),
        "f": nn.Linear(4, 5, bias=False),
        "s": nn.Linear(5, 5),
    }
    torch.save(nn.ModuleDict(modules).state_dict(), tmp_path / "t.pth")
    kinds = {"c": "conv", "d": "depthwise", "u": "conv_transpose", "f": "linear", "s": "linear"}
    rules = mapping_of("".join(layer(kind, name, name) for name, kind in kinds.items()))
    files = wtool.open(tmp_path / "t.pth"), wtool.open(tmp_path / "k.weights.h5")
    for to, source, like in (("b", *files), ("a", *reversed(files))):
        outcome = convert_layouts(source, rules, to=to, template=like)
        assert outcome.open == ()
        (note,) = outcome.report().notes
        assert "the mapping's word alone decides" in note
        assert ("s.weight" if to == "b" else "s/kernel") in note.split(":")[0]


def test_an_order_of_axes_that_a_rule_states_is_its_word_where_another_fits(tmp_path):
    torch.save({"m": randn(3, 4, 4), "n": randn(3, 4, 5)}, tmp_path / "t.pth")
    text = "".join(f'[[rule]]\na = "{name}"\nb = "{name}"\nop = "permute 2 1 0"\n' for name in "mn")
    outcome = convert_layouts(wtool.open(tmp_path / "t.pth"), mapping_of(text), to="b")
    (note,) = outcome.report().notes
    assert note.startswith("the mapping's word alone decides m: two of its axes are of one length")
    same = mapping_of(text, "torch").sides
    assert same["a"].framework == same["b"].framework
    renamed = convert_layouts(wtool.open(tmp_path / "t.pth"), mapping_of(text, "torch"), to="b")
    assert renamed.report().notes == []


def test_forget_bias_is_the_mapping_s_word(tmp_path):
    torch.save({f"m.{leaf}": value for leaf, value in LSTM.items()}, tmp_path / "t.pth")
    rules = mapping_of(layer("lstm", b="m/lstm_cell", forget_bias=1.0), "tf1")
    (note,) = convert_layouts(wtool.open(tmp_path / "t.pth"), rules, to="b").report().notes
    assert note.endswith("m.bias_ih_l0, m.bias_hh_l0: forget_bias is in no file")


def test_presets_and_equal_paths_have_evidence_of_their_own(tmp_path, capsys):
    torch.save({"m.weight": randn(4, 4), "m.bias": randn(4)}, tmp_path / "t.pth")
    inputs = keras.Input((4,))
    keras.Model(inputs, K.Dense(4, name="m")(inputs)).save_weights(tmp_path / "k.weights.h5")
    t, k = str(tmp_path / "t.pth"), str(tmp_path / "k.weights.h5")
    arguments = ["convert", t, str(tmp_path / "o.weights.h5"), "--to", "keras", "--like", k]
    assert run([*arguments, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "class stated by the target" in out
    assert "word alone" not in out


class Dense(nn.Module):
    """GPT-2's Conv1D under any name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def dense_files(folder: Any, **modules: nn.Module) -> tuple[nn.Module, Any, str, str]:
    """The modules in a row, and Keras's Dense layers of the same names; files of both."""
    model = nn.Sequential()
    layers = [keras.Input((6,))]
    for name, module in modules.items():
        model.add_module(name, module)
        layers.append(K.Dense(module.bias.shape[0], name=name))
    twin = keras.Sequential(layers)
    source, like = str(folder / "gpt.pth"), str(folder / "gpt.weights.h5")
    torch.save(model.state_dict(), source)
    twin.save_weights(like)
    return model.eval(), twin, source, like


def test_a_conv1d_is_known_by_its_bias_and_a_square_one_by_its_like(tmp_path: Any) -> None:
    parts = {"c_fc": Dense(6, 12), "c_proj": Dense(12, 6)}
    attention = nn.Sequential()
    attention.add_module("c_proj", Dense(6, 6))
    model, twin, source, like = dense_files(tmp_path, **parts)
    made = str(tmp_path / "made.weights.h5")
    rows = {row["source"]: row for row in wtool.map(source, like).rows}
    # By shape alone (6, 12) is the other layer's.
    assert rows["c_fc.weight"]["target"] == "c_fc/kernel"
    assert {row["kind"] for row in rows.values()} == {"conv1d_linear"}
    wtool.convert(source, made, to="keras", like=like)
    twin.load_weights(made)
    x = np.random.default_rng(1).normal(size=(2, 6)).astype("f4")
    with torch.no_grad():
        expected = model(torch.tensor(x)).numpy()
    assert np.abs(np.asarray(twin(x)) - expected).max() < 1e-5 * np.abs(expected).max()
    # A square one of the same last name is stored as its like.
    torch.save(
        {f"h.{n}": v for n, v in model.state_dict().items()}
        | {f"h.attn.{n}": v for n, v in attention.state_dict().items()},
        source,
    )
    assert stored_in_out(cut(wtool.open(source)))["h.attn.c_proj"] is True


@pytest.mark.parametrize(
    "modules",
    [
        {"c_proj": Dense(6, 6)},
        {"up": Dense(6, 12), "down": Dense(12, 6), "square": Dense(6, 6)},
    ],
)
def test_a_square_matrix_that_may_be_a_conv1d_is_asked(
    modules: dict[str, nn.Module], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, source, like = dense_files(tmp_path, **modules)
    made = tmp_path / "made.weights.h5"
    assert run(["convert", source, str(made), "--to", "keras", "--like", like]) == 4
    assert "may be GPT-2's Conv1D" in capsys.readouterr().err
    assert not made.exists()
    rows = {row["source"]: row for row in wtool.map(source, like).rows}
    last = list(modules)[-1]
    assert rows[f"{last}.weight"]["grade"] == "ambiguous"
    # The same trained weights decide.
    mapping = tmp_path / "m.toml"
    mapping.write_text(
        HEAD.format(framework="keras")
        + "".join(layer("conv1d_linear", a=name, b=name) for name in modules)
    )
    wtool.convert(source, str(made), map=str(mapping), like=like)
    report = wtool.map(source, str(made))
    assert {(row["kind"], row["evidence"]) for row in report.rows} == {
        ("conv1d_linear", "same values")
    }
