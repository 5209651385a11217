"""Layouts that fit every shape and are wrong: the judge of the layer tests sees each of them."""

from __future__ import annotations

import pytest
import torch
from layer_cases import HEAD, build_keras, error, inputs_of, randomise, run_keras, run_torch
from recurrent_cases import RECURRENT
from test_layer_outputs import ALL_CASES, KERAS, SUFFIX

import wtool
from wtool.conversion.mapping import parse_mapping
from wtool.conversion.verification import convert_layouts
from wtool.writers import save


def _swapped_directions(kind: str, cell: str) -> list[tuple[object, object, list[str]]]:
    gate = ["gates 0 1 0 2"] if kind == "gru" else []
    rules: list[tuple[object, object, list[str]]] = []
    for suffix, path in (("_l0", "backward"), ("_l0_reverse", "forward")):
        base = f"m/{path}_{kind}/{cell}"
        biases = [f"m.bias_ih{suffix}", f"m.bias_hh{suffix}"]
        rules += [
            (f"m.weight_ih{suffix}", f"{base}/kernel", [*gate, "transpose"]),
            (f"m.weight_hh{suffix}", f"{base}/recurrent_kernel", [*gate, "transpose"]),
            (biases, f"{base}/bias", [*gate, "stack 0 2"] if gate else ["sum"]),
        ]
    return rules


def _swapped_layers(
    kind: str, cell: str, bias: list[str]
) -> list[tuple[object, object, list[str]]]:
    """The state's weights of two layers change places: they are of one shape."""
    gate = [bias[0]] if kind == "gru" else []
    rules: list[tuple[object, object, list[str]]] = []
    for n in range(2):
        rules += [
            (f"m.weight_ih_l{n}", f"m{n}/{cell}/kernel", [*gate, "transpose"]),
            (f"m.weight_hh_l{n}", f"m{1 - n}/{cell}/recurrent_kernel", [*gate, "transpose"]),
            ([f"m.bias_ih_l{n}", f"m.bias_hh_l{n}"], f"m{n}/{cell}/bias", bias),
        ]
    return rules


FLAT = ["flatten 0 1 of -1 1"]
WRONG = {
    "linear": [("m.weight", "m/kernel", []), ("m.bias", "m/bias", [])],
    "conv1d_linear": [("m.weight", "m/kernel", ["transpose"]), ("m.bias", "m/bias", [])],
    **{
        f"{kind}-bidirectional": _swapped_directions(kind, cell)
        for kind, (_, _, cell, _) in RECURRENT.items()
    },
    # Input gate, forget gate, output, candidate: as other libraries have them.
    "lstm": [
        ("m.weight_ih_l0", "m/lstm_cell/kernel", ["gates 0 0 1 3 2", "transpose"]),
        ("m.weight_hh_l0", "m/lstm_cell/recurrent_kernel", ["gates 0 0 1 3 2", "transpose"]),
        (["m.bias_ih_l0", "m.bias_hh_l0"], "m/lstm_cell/bias", ["sum", "gates 0 0 1 3 2"]),
    ],
    "lstm-2-layers": _swapped_layers("lstm", "lstm_cell", ["sum"]),
    "gru-2-layers": _swapped_layers("gru", "gru_cell", ["gates 0 1 0 2", "stack 0 2"]),
    # Output channel j * C + c instead of c * m + j.
    "depthwise2d-2": [
        ("m.weight", "m/{depthwise}", [*FLAT, "unflatten 0 2 4", "permute 2 3 1 0"]),
        ("m.bias", "m/bias", []),
    ],
    # Rows and columns of the window.
    "depthwise2d-1": [
        ("m.weight", "m/{depthwise}", [*FLAT, "unflatten 0 4 1", "permute 3 2 0 1"]),
        ("m.bias", "m/bias", []),
    ],
    "separable2d": [
        ("m.weight", "m/depthwise_kernel", [*FLAT, "unflatten 0 2 4", "permute 2 3 1 0"]),
        ("pointwise.weight", "m/pointwise_kernel", ["permute 2 3 1 0"]),
        ("pointwise.bias", "m/bias", []),
    ],
    "layernorm": [("m.weight", "m/beta", []), ("m.bias", "m/gamma", [])],
    "groupnorm": [("m.weight", "m/beta", []), ("m.bias", "m/gamma", [])],
    "embedding": [("m.weight", "m/embeddings", ["transpose"])],
    "gru": [
        ("m.weight_ih_l0", "m/gru_cell/kernel", ["transpose"]),
        ("m.weight_hh_l0", "m/gru_cell/recurrent_kernel", ["transpose"]),
        (["m.bias_ih_l0", "m.bias_hh_l0"], "m/gru_cell/bias", ["stack 0 2"]),
    ],
    "linear-after-flatten": [
        ("m.weight", "m/kernel", ["transpose"]),
        ("m.bias", "m/bias", []),
    ],
    "linear-before-reshape": [
        ("m.weight", "m/kernel", ["transpose"]),
        ("m.bias", "m/bias", []),
    ],
    "batchnorm-after-flatten": [
        ("m.weight", "m/gamma", []),
        ("m.bias", "m/beta", []),
        ("m.running_mean", "m/moving_mean", []),
        ("m.running_var", "m/moving_variance", []),
    ],
    "batchnorm": [
        ("m.weight", "m/gamma", []),
        ("m.bias", "m/beta", []),
        ("m.running_mean", "m/moving_variance", []),
        ("m.running_var", "m/moving_mean", []),
    ],
    "mha": [
        (
            "m.in_proj_weight",
            ["m/query/kernel", "m/key/kernel", "m/value/kernel"],
            ["split 0 3", "transpose", "unflatten 1 4 2", "permute 0 2 1"],
        ),
        (
            "m.in_proj_bias",
            ["m/query/bias", "m/key/bias", "m/value/bias"],
            ["split 0 3", "unflatten 0 2 4"],
        ),
        ("m.out_proj.weight", "m/attention_output/kernel", ["transpose", "unflatten 0 2 4"]),
        ("m.out_proj.bias", "m/attention_output/bias", []),
    ],
}


def wrong_mapping(name: str, framework: str):
    depthwise = "kernel" if framework == "keras" else "depthwise_kernel"
    text = HEAD.format(framework=framework)
    for a, b, op in WRONG[name]:
        if isinstance(b, str):
            b = b.replace("{depthwise}", depthwise)
        text += f"[[rule]]\na = {a!r}\nb = {b!r}\nop = {op!r}\n"
        text += 'lossy = "sum-of-biases"\n' if "sum" in op else ""
    if name.startswith("batchnorm"):
        text += '[[ignore]]\nside = "a"\nname = "m.num_batches_tracked"\nreason = "a counter"\n'
    return parse_mapping(text)


@pytest.mark.parametrize("framework", KERAS)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layout_of_the_same_shape_computes_something_else(name, framework, tmp_path):
    """Shapes fit, coverage is complete, the way back is exact, and outputs differ, either way."""
    case = next(case for case in ALL_CASES if case.name == name)
    rules = wrong_mapping(name, framework)
    module = randomise(case.torch_model())
    model = build_keras(KERAS[framework], case)
    if name == "batchnorm":
        module.m.running_mean.abs_().add_(0.5)
        model.set_weights([abs(weight) + 0.5 for weight in model.get_weights()])
    inputs = inputs_of(case)
    torch.save(module.state_dict(), tmp_path / "torch.pth")
    fresh, converted = (tmp_path / f"{n}{SUFFIX[framework]}" for n in ("fresh", "converted"))
    model.save_weights(fresh)
    keras_computes = run_keras(model, case, inputs)
    torch_computes = run_torch(module, case, inputs)
    source, template = wtool.open(tmp_path / "torch.pth"), wtool.open(fresh)

    outcome = convert_layouts(source, rules, to="b", template=template)
    save(outcome.checkpoint(), converted, template=fresh)
    model.load_weights(converted)
    assert error(run_keras(model, case, inputs), torch_computes) > 0.05
    back = convert_layouts(template, rules, to="a")
    save(back.checkpoint(), tmp_path / "back.pth")
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    module.load_state_dict(state, strict=name != "batchnorm")
    assert error(run_torch(module, case, inputs), keras_computes) > 0.05
