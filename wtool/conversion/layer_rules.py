"""How each kind of layer is laid out in each framework, and what turns one layout into the other.

The table of every layer that was checked by running both frameworks on the same input (torch 2.13,
Keras 3.15, tf_keras 2.21, TF1 cells of TensorFlow 2.21). Operations are written towards Keras; the
way back follows. "..." in a permutation is the axes that are not named: the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Column = Literal["torch", "keras", "tf1"]


@dataclass(frozen=True)
class Row:
    """One part of a layer. left, right: leaf names in the columns' frameworks, option values in {}.

    A leaf "1:weight" belongs to the second path of a layer that has several. legacy: the right
    side's leaves in Keras 2 and TensorFlow 1, where they differ from Keras 3.
    steps: from left to right. only: the column that has the part; the other has no counterpart.
    """

    part: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    steps: tuple[str, ...] = ()
    required: bool = True
    legacy: tuple[str, ...] = ()
    only: Literal["left", "right"] | None = None


@dataclass(frozen=True)
class Layer:
    """A kind of layer between two columns.

    width: (part, axis): the axis, in the left layout, that a bias or a scale is as long as.
    options: name -> default; None where it must be given. paths: how many paths the left side has.
    """

    rows: tuple[Row, ...]
    width: tuple[str, int] | None = None
    options: tuple[tuple[str, object], ...] = ()
    paths: int = 1


def _weight(*steps: str, legacy: str = "") -> Row:
    return Row("weight", ("weight",), ("kernel",), steps, legacy=(legacy,) if legacy else ())


_BIAS = Row("bias", ("bias",), ("bias",), required=False)
# The elements of a vector that is a flattened picture.
ELEMENTS = ("unflatten 0 chw", "permute spatial 0", "flatten 0 last")
# A transposed matrix whose inputs are one.
INPUTS = ("unflatten 1 chw", "permute window 1 0", "flatten 0 last")
_CONV_STEPS = ("permute ... 1 0",)
_DEPTHWISE_STEPS = ("flatten 0 1 of -1 1", "unflatten 0 -1 multiplier", "permute ... 0 1")
_NORM = (
    Row("weight", ("weight",), ("gamma",)),
    Row("bias", ("bias",), ("beta",), required=False),
)
_IH, _HH = "weight_ih{suffix}", "weight_hh{suffix}"
_BIASES = ("bias_ih{suffix}", "bias_hh{suffix}")
_SUFFIX = (("suffix", "_l0"),)
_SUMMED_CELL = (
    Row("weight", (_IH,), ("kernel",), ("transpose",)),
    Row("recurrent", (_HH,), ("recurrent_kernel",), ("transpose",)),
    Row("bias", _BIASES, ("bias",), ("sum",), required=False),
)
_QKV = ("query", "key", "value")
_QKV_BIAS = Row(
    "bias",
    ("in_proj_bias",),
    tuple(f"{q}/bias" for q in _QKV),
    ("split 0 3", "unflatten 0 heads -1"),
    required=False,
)
_OUT = (
    Row(
        "out_weight",
        ("out_proj.weight",),
        ("attention_output/kernel",),
        ("transpose", "unflatten 0 heads -1"),
    ),
    Row("out_bias", ("out_proj.bias",), ("attention_output/bias",), required=False),
)
_HEADS = (("heads", None),)

# Kind -> its layout in PyTorch (left) and Keras (right).
TORCH_KERAS: dict[str, Layer] = {
    "linear": Layer((_weight("transpose"), _BIAS), ("weight", 0)),
    # The first Linear after Flatten: PyTorch flattens (C, H, W), Keras (H, W, C).
    "linear_flatten": Layer(
        (_weight(*INPUTS), _BIAS),
        ("weight", 0),
        (("chw", None),),
    ),
    # The Linear before a Reshape to pictures: its outputs are in the same two orders.
    "linear_unflatten": Layer(
        (
            _weight("unflatten 0 chw", "permute rank spatial 0", "flatten 1 rank"),
            replace(_BIAS, steps=ELEMENTS),
        ),
        ("weight", 0),
        (("chw", None),),
    ),
    # GPT-2's Conv1D: a dense layer that PyTorch stores as Keras does, (in, out).
    "conv1d_linear": Layer((_weight(), _BIAS), ("weight", 1)),
    "conv": Layer((_weight(*_CONV_STEPS), _BIAS), ("weight", 0)),
    # (I, O, k..) becomes (k.., O, I) by the same permutation, and nothing is flipped.
    "conv_transpose": Layer((_weight(*_CONV_STEPS), _BIAS), ("weight", 1)),
    "depthwise": Layer(
        (_weight(*_DEPTHWISE_STEPS, legacy="depthwise_kernel"), _BIAS),
        ("weight", 0),
        (("multiplier", 1),),
    ),
    "separable": Layer(
        (
            Row("weight", ("0:weight",), ("depthwise_kernel",), _DEPTHWISE_STEPS),
            Row("pointwise", ("1:weight",), ("pointwise_kernel",), _CONV_STEPS),
            Row("bias", ("1:bias",), ("bias",), required=False),
        ),
        ("pointwise", 0),
        (("multiplier", 1),),
        paths=2,
    ),
    "batchnorm": Layer(
        (
            Row("weight", ("weight",), ("gamma",)),
            Row("bias", ("bias",), ("beta",)),
            Row("mean", ("running_mean",), ("moving_mean",)),
            Row("variance", ("running_var",), ("moving_variance",)),
            Row("counter", ("num_batches_tracked",), (), required=False, only="left"),
        ),
        ("mean", 0),
    ),
    "layernorm": Layer(_NORM),
    "groupnorm": Layer(_NORM),
    "instancenorm": Layer(_NORM),
    "rmsnorm": Layer((Row("weight", ("weight",), ("scale",)),)),
    "embedding": Layer((Row("weight", ("weight",), ("embeddings",)),)),
    "prelu": Layer(
        (Row("weight", ("weight",), ("alpha",), ("vector shape",)),), options=(("shape", ()),)
    ),
    "rnn": Layer(_SUMMED_CELL, options=_SUFFIX),
    # Gates i, f, g, o on rows; i, f, c, o on columns: the same order.
    "lstm": Layer(_SUMMED_CELL, options=_SUFFIX),
    # Gates r, z, n; Keras z, r, h, with reset_after=True.
    "gru": Layer(
        (
            Row("weight", (_IH,), ("kernel",), ("gates 0 1 0 2", "transpose")),
            Row("recurrent", (_HH,), ("recurrent_kernel",), ("gates 0 1 0 2", "transpose")),
            Row("bias", _BIASES, ("bias",), ("gates 0 1 0 2", "stack 0 2"), required=False),
        ),
        options=_SUFFIX,
    ),
    "mha": Layer(
        (
            Row(
                "weight",
                ("in_proj_weight",),
                tuple(f"{q}/kernel" for q in _QKV),
                ("split 0 3", "transpose", "unflatten 1 heads -1"),
            ),
            _QKV_BIAS,
            *_OUT,
        ),
        options=_HEADS,
    ),
    # nn.MultiheadAttention with kdim or vdim.
    "mha_separate": Layer(
        (
            *(
                Row(
                    f"{q}_weight",
                    (f"{q[0]}_proj_weight",),
                    (f"{q}/kernel",),
                    ("transpose", "unflatten 1 heads -1"),
                )
                for q in _QKV
            ),
            _QKV_BIAS,
            *_OUT,
        ),
        options=_HEADS,
    ),
}

# Cells of TensorFlow 1: one kernel for input and state, (d + u, gates * u), input rows first.
_TF1_FORGET = (("forget_bias", None),)
TORCH_TF1: dict[str, Layer] = {
    "rnn": Layer(
        (
            Row("weight", (_IH, _HH), ("kernel",), ("join-cell 1 1", "transpose")),
            Row("bias", _BIASES, ("bias",), ("sum",)),
        ),
        options=_SUFFIX,
    ),
    # Gates i, j, f, o; the cell adds forget_bias to f when it runs, which no file says.
    "lstm": Layer(
        (
            Row(
                "weight",
                (_IH, _HH),
                ("kernel",),
                ("gates 0 0 2 1 3", "join-cell 4 1", "transpose"),
            ),
            Row("bias", _BIASES, ("bias",), ("sum", "gates 0 0 2 1 3", "shift 2 4 -forget_bias")),
        ),
        options=(*_SUFFIX, *_TF1_FORGET),
    ),
}
KERAS_TF1: dict[str, Layer] = {
    "rnn": Layer(
        (
            Row("weight", ("kernel", "recurrent_kernel"), ("kernel",), ("join-cell 1 0",)),
            Row("bias", ("bias",), ("bias",)),
        )
    ),
    "lstm": Layer(
        (
            Row(
                "weight",
                ("kernel", "recurrent_kernel"),
                ("kernel",),
                ("join-cell 4 0", "gates 1 0 2 1 3"),
            ),
            Row("bias", ("bias",), ("bias",), ("gates 0 0 2 1 3", "shift 2 4 -forget_bias")),
        ),
        options=_TF1_FORGET,
    ),
    # Keras GRU(reset_after=False), gates z, r, h; TF1 r, u and the candidate apart.
    "gru": Layer(
        (
            Row(
                "weight",
                ("kernel", "recurrent_kernel"),
                ("gates/kernel", "candidate/kernel"),
                ("join-cell 3 0", "gates 1 1 0 2", "split 1 2:1"),
            ),
            Row(
                "bias",
                ("bias",),
                ("gates/bias", "candidate/bias"),
                ("gates 0 1 0 2", "split 0 2:1"),
            ),
        )
    ),
}
# Kinds that exist on one side only between two frameworks, with the reason.
IMPOSSIBLE: dict[tuple[str, Column, Column], str] = {
    ("gru", "torch", "tf1"): (
        "TensorFlow 1's GRU cell resets before the matrix product, torch's after: no weights of "
        "one make the other"
    ),
}
TABLES: dict[tuple[Column, Column], dict[str, Layer]] = {
    ("torch", "keras"): TORCH_KERAS,
    ("torch", "tf1"): {**TORCH_KERAS, **TORCH_TF1},
    ("keras", "tf1"): KERAS_TF1,
}
KINDS = tuple(TORCH_KERAS)
CELLS = ("rnn", "lstm", "gru")
# Kinds with a number for each channel, or for each element of a flattened picture.
NORMS = ("batchnorm", "layernorm", "groupnorm", "instancenorm", "rmsnorm")
# Kinds whose weight may be stored as magnitude and direction, and how each torch names the two.
WEIGHT_NORM_KINDS = (
    "linear", "linear_flatten", "linear_unflatten", "conv", "conv_transpose", "depthwise",
)  # fmt: skip
WEIGHT_NORM_LEAVES = {
    "parametrizations": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    "hook": ("weight_g", "weight_v"),
}
