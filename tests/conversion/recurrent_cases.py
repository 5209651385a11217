"""Recurrent layers as pairs of real models: cells, both directions, several layers in one."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from layer_cases import Apply, Case, layer
from torch import nn

# Kind -> PyTorch's module, Keras's layer and its cell, and what makes the two compute the same.
RECURRENT: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "rnn": ("RNN", "SimpleRNN", "simple_rnn_cell", {}),
    "lstm": ("LSTM", "LSTM", "lstm_cell", {}),
    "gru": ("GRU", "GRU", "gru_cell", {"reset_after": True}),
}


def keras_layer(k: Any, kind: str, **options: Any) -> Any:
    """A Keras layer of the kind, 6 units wide."""
    return getattr(k.layers, RECURRENT[kind][1])(6, **RECURRENT[kind][3], **options)


def first(module: Apply, *inputs: torch.Tensor) -> torch.Tensor:
    """The outputs of every step, without the last state."""
    return module.m(*inputs)[0]


def time_first(module: Apply, x: torch.Tensor) -> torch.Tensor:
    """As `first`, of a module that takes steps first, which is PyTorch's default."""
    return module.m(x.transpose(0, 1))[0].transpose(0, 1)


def lost(kind: str, bias: bool, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The two biases of each cell, of which Keras keeps the sum; a GRU keeps both."""
    if kind == "gru" or not bias:
        return ()
    return tuple(f"m.bias_{which}{suffix}" for suffix in suffixes for which in ("ih", "hh"))


def recurrent(kind: str, bias: bool = True, batch_first: bool = True) -> Case:
    """One layer in one direction."""
    torch_name, _, cell, _ = RECURRENT[kind]
    return Case(
        kind + ("" if bias else "-nobias") + ("" if batch_first else "-time-first"),
        layer(kind, b=f"m/{cell}"),
        lambda: Apply(
            getattr(nn, torch_name)(5, 6, batch_first=batch_first, bias=bias),
            first if batch_first else time_first,
        ),
        lambda k, x: keras_layer(k, kind, return_sequences=True, use_bias=bias, name="m")(x),
        ((4, 5),),
        lossy=lost(kind, bias, ("_l0",)),
    )


class TwoSteps(nn.Module):
    """nn.LSTMCell or its like, from one step to the next: at the first its state is nothing."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.m = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.m(x[:, 1], self.m(x[:, 0]))
        return state[0] if isinstance(state, tuple) else state


def single_cell(kind: str, bias: bool = True) -> Case:
    """A cell alone; its names have no suffix."""
    torch_name, _, cell, _ = RECURRENT[kind]
    return Case(
        f"{kind}-cell" + ("" if bias else "-nobias"),
        layer(kind, b=f"m/{cell}", suffix=""),
        lambda: TwoSteps(getattr(nn, f"{torch_name}Cell")(5, 6, bias=bias)),
        lambda k, x: keras_layer(k, kind, use_bias=bias, name="m")(x),
        ((2, 5),),
        lossy=lost(kind, bias, ("",)),
    )


def bidirectional(kind: str, bias: bool = True) -> Case:
    """One layer in both directions."""
    torch_name, _, cell, _ = RECURRENT[kind]
    return Case(
        f"{kind}-bidirectional" + ("" if bias else "-nobias"),
        layer(kind, b=f"m/forward_{kind}/{cell}")
        + layer(kind, b=f"m/backward_{kind}/{cell}", suffix="_l0_reverse"),
        lambda: Apply(
            getattr(nn, torch_name)(5, 6, batch_first=True, bidirectional=True, bias=bias), first
        ),
        lambda k, x: k.layers.Bidirectional(
            keras_layer(k, kind, return_sequences=True, use_bias=bias, name=kind), name="m"
        )(x),
        ((4, 5),),
        lossy=lost(kind, bias, ("_l0", "_l0_reverse")),
    )


def stacked(kind: str, layers: int, both: bool, bias: bool) -> Case:
    """num_layers = n: one module of PyTorch, n layers of Keras."""
    torch_name, _, cell, _ = RECURRENT[kind]
    ways = ("", "_reverse") if both else ("",)
    if both:
        mapping = layer(kind, b=f"m{{n}}/forward_{kind}/{cell}", suffix="_l{n:int}")
        mapping += layer(kind, b=f"m{{n}}/backward_{kind}/{cell}", suffix="_l{n:int}_reverse")
    else:
        mapping = layer(kind, b=f"m{{n}}/{cell}", suffix="_l{n:int}")

    def keras(k: Any, x: Any) -> Any:
        for n in range(layers):
            name = kind if both else f"m{n}"
            one = keras_layer(k, kind, return_sequences=True, use_bias=bias, name=name)
            x = (k.layers.Bidirectional(one, name=f"m{n}") if both else one)(x)
        return x

    return Case(
        f"{kind}-{layers}-layers"
        + ("-bidirectional" if both else "")
        + ("" if bias else "-nobias"),
        mapping,
        lambda: Apply(
            getattr(nn, torch_name)(
                5, 6, num_layers=layers, batch_first=True, bidirectional=both, bias=bias
            ),
            first,
        ),
        keras,
        ((4, 5),),
        lossy=lost(kind, bias, tuple(f"_l{n}{way}" for n in range(layers) for way in ways)),
    )


RECURRENT_CASES = (
    *(recurrent(kind, bias) for kind, bias in product(RECURRENT, (True, False))),
    *(recurrent(kind, batch_first=False) for kind in RECURRENT),
    *(single_cell(kind, bias) for kind, bias in product(RECURRENT, (True, False))),
    *(bidirectional(kind, bias) for kind, bias in product(RECURRENT, (True, False))),
    *(
        stacked(kind, 2, both, bias)
        for kind, both, bias in product(RECURRENT, (False, True), (True, False))
    ),
)
