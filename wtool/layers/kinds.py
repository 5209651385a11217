"""What a layer is, from the names and shapes of its tensors.

Rules and their error rates: `reference/conversion.md` 3a (94 torchvision, 190 timm, 339 transformers
models). Shapes decide little: what they leave open is decided by a name, or stays "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

# Last component of a name -> tensor, for the tensors of one module.
Members = dict[str, "Tensor"]

KINDS = (
    "dense",
    "conv",
    "depthwise",
    "transposed_conv",
    "embedding",
    "norm",
    "attention",
    "recurrent",
    "unknown",
)

_RECURRENT_CELL = re.compile(
    r"(basic_)?(lstm|gru|rnn|layer_norm_basic_lstm|lstm_block|coupled_input_forget_gate_lstm)_cell(_\d+)?"
)
_NORM_NAME = re.compile(r"norm|(^|_)(bn|ln|gn)\d*($|_)|^ln_?\d|_ln$", re.IGNORECASE)
_EMBEDDING_NAME = re.compile(
    r"embed|^(wte|wpe|tok_emb|pos_emb|word_emb|shared|relative_attention_bias|emb)$|_emb$|lookup",
    re.IGNORECASE,
)
_DENSE_NAME = re.compile(
    r"proj|linear|dense|logits|classifier|predictions|pooler|mlp|qkv|reduction|decoder$|router|gate|"
    r"(^|_|\.)(fc|head|query|key|value|attn|attention|to|lm|out|output|up|down|score)(\d*|_.*)$|"
    r"^[qkvo]$|^w[123qkvo]$|^wi(_\d)?$|^wo$|head$",
    re.IGNORECASE,
)
_TRANSPOSED_NAME = re.compile(
    r"deconv|transpos|upconv|up_?conv|conv_?up|upsampl|upscal|^up\d*$", re.I
)
_DEPTHWISE_NAME = re.compile(r"depthwise|(^|_)dw|dw(_|$|conv)", re.IGNORECASE)
_ATTENTION_PART = re.compile(r"(query|key|value|attention_output|output)(_dense)?")


def find_kind(layer: str, members: Members, modules: Mapping[str, Members]) -> str:
    """Kind of the layer that holds `members`, one of KINDS; `modules` are all modules of the file."""
    if not layer and len(members) > 12:
        return "unknown"
    if "running_mean" in members or "moving_mean" in members:
        return "norm"
    if "in_proj_weight" in members or "in_proj_bias" in members:
        return "attention"
    if "kernel" in members:
        return _keras_kind(layer, members, "kernel")
    if "weight" in members:
        return _torch_kind(layer, members, modules)
    return _kind_by_leaves(layer, members)


def last_component(layer: str) -> str:
    """Last component of a layer's path that is not a number; "" where there is none."""
    for part in reversed(re.split(r"[./]", layer)):
        if part and not part.isdigit():
            return part
    return ""


def _kind_by_leaves(layer: str, members: Members) -> str:
    """Kind of a layer without a plain weight or kernel, from what its tensors are called."""
    if any(leaf.startswith(("weight_ih", "weight_hh")) for leaf in members):
        return "recurrent"
    if "embeddings" in members:
        return "embedding"
    if "depthwise_kernel" in members or "depthwise_weights" in members:
        return "depthwise"
    if "gamma" in members and "beta" in members:
        return "norm"
    if "weights" in members:
        return _keras_kind(layer, members, "weights")
    if ("gamma" in members or "beta" in members or "scale" in members) and _NORM_NAME.search(
        last_component(layer)
    ):
        return "norm"
    for leaf in ("original", "original1", "weight_orig", "weight_v"):
        if leaf in members:
            return _torch_shape_kind(layer, members[leaf], members.get("bias"))
    return "unknown"


def _torch_kind(layer: str, members: Members, modules: Mapping[str, Members]) -> str:
    """Kind of a layer with a `weight` in PyTorch's sense."""
    parent = layer.rpartition(".")[0]
    if layer.endswith(".out_proj") and "in_proj_bias" in modules.get(parent, ()):
        return "attention"
    return _torch_shape_kind(layer, members["weight"], members.get("bias"))


def _torch_shape_kind(layer: str, weight: Tensor, bias: Tensor | None) -> str:
    shape = weight.extent.shape
    rank = len(shape)
    last = last_component(layer)
    if bias is not None and bias.extent.shape == shape and rank:
        return "norm"
    if rank == 1:
        return "norm" if _NORM_NAME.search(last) else "unknown"
    if rank == 2:
        if _NORM_NAME.search(last) and not bias:
            return "unknown"
        if bias is not None:
            return "dense"
        if _EMBEDDING_NAME.search(last):
            return "embedding"
        return "dense" if _DENSE_NAME.search(last) else "unknown"
    if 3 <= rank <= 5:
        return _torch_conv_kind(last, shape, None if bias is None else bias.extent.count)
    return "unknown"


def _torch_conv_kind(last: str, shape: tuple[int, ...], bias: int | None) -> str:
    """Kind of a (out, in, k..) or (in, out, k..) kernel."""
    if bias is not None and bias != shape[0]:
        return "transposed_conv" if shape[1] and bias % shape[1] == 0 else "unknown"
    if _TRANSPOSED_NAME.search(last):
        return "transposed_conv"
    if shape[1] == 1 and shape[0] > 1:
        return "depthwise"
    return "conv"


def _keras_kind(layer: str, members: Members, leaf: str) -> str:
    """Kind of a layer with a Keras or TensorFlow kernel, (k.., in, out)."""
    shape = members[leaf].extent.shape
    rank = len(shape)
    last = last_component(layer)
    if "recurrent_kernel" in members:
        return "recurrent"
    if rank == 2:
        cell = layer.rpartition("/")[2]
        if cell in ("gates", "candidate"):
            cell = layer.rpartition("/")[0].rpartition("/")[2]
        return "recurrent" if _RECURRENT_CELL.fullmatch(cell) else "dense"
    if rank == 3 and _ATTENTION_PART.fullmatch(last):
        return "attention"
    if not 3 <= rank <= 5:
        return "unknown"
    bias = members.get("bias") or members.get("biases")
    count = None if bias is None else bias.extent.count
    if count is not None and count != shape[-1]:
        if count == shape[-2] * shape[-1] and shape[-1] == 1:
            return "transposed_conv" if _TRANSPOSED_NAME.search(last) else "depthwise"
        if count == shape[-2]:
            return "transposed_conv"
        return "depthwise" if count == shape[-2] * shape[-1] else "unknown"
    if _TRANSPOSED_NAME.search(last):
        return "transposed_conv"
    if _DEPTHWISE_NAME.search(last):
        return "depthwise"
    return "conv"
