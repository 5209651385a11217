"""What a layer is, from the names and shapes of its tensors.

Shapes decide little: 16 to 28 % of the weights of common models are square. What they leave open is
decided by a name or by the layer before, or stays "unknown". The error rates of every rule against
`named_modules()` of torchvision, timm and transformers models: `tests/bench/score_layers.py`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
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

# A depthwise kernel (N, 1, k..) follows a layer that is N wide; how many layers back one may lie
# (branches of a block are stored before it).
_BACK = 8

# What the name of a layer suggests, in the order in which it is asked, whatever the case. Patterns
# are text: `re` compiles each where it is first asked for.
_HINTS = (
    ("norm", r"norm|(^|_)(bn|ln|gn)\d*($|_)|^ln_|^grn$"),
    ("depthwise", r"depthwise|(^|_)dw|dw(_|$|conv)"),
    ("transposed", r"deconv|transpose|^up_?conv|(^|_)convt(_|$)"),
    ("dense", r"proj|^embed_out$|unembed|^lm_head$"),
    (
        "embedding",
        (
            r"embed|^(wte|wpe|shared|emb|codebook)$|(^|_)emb$|^(tok|pos|word)_emb|_tokens?$|lookup|"
            r"^relative_attention_bias$"
        ),
    ),
    (
        "dense",
        (
            r"linear|dense|logits|classifier|predictions|pooler|mlp|ffn|qkv|reduction|router|gate|"
            r"^decoder$|head$|^(fc|ff|ffw?)\d*(_.*)?$|(^|_)(query|key|value|attn|attention)\d*(_.*)?$|"
            r"^to_|^(lm|head|score|up|down)\d*(_.*)?$|^(out|output)\d*$|^[qkvo]$|^w[123qkvo]$|"
            r"^qk$|^wi(_\d)?$|^lora_[AB]$"
        ),
    ),
)
_RECURRENT_CELL = (
    r"(basic_|layer_norm_basic_)?"
    r"(lstm|gru|rnn|lstm_block|coupled_input_forget_gate_lstm)_cell(_\d+)?"
)
_RESAMPLE = r"(up|down)_?(sampl|scal)"
_ATTENTION_PART = r"(query|key|value|attention_output|output)(_dense)?"
_EMBEDDING_LEAF = r".*embeddings?(_table)?"
# Names that a reparametrised weight goes by, the one with the weight's own shape.
_REPARAMETRISED = (
    "weight.original1",
    "weight.original",
    "weight_orig",
    "weight_v",
    "qweight_unpacked",
)


@dataclass(slots=True)
class KindFinder:
    """Kinds of the layers of one file, asked for in stored order.

    modules: every module of the file by path. widths: outputs of the layers just passed.
    hints: last component of a path -> what it suggests, kept because names repeat.
    """

    modules: Mapping[str, Members]
    widths: deque[int] = field(default_factory=lambda: deque(maxlen=_BACK))
    hints: dict[str, str] = field(default_factory=dict)

    def find(self, layer: str, members: Members) -> str:
        """Kind of the layer that holds `members`, one of KINDS."""
        if "weight" in members:
            return self._torch_kind(layer, members, "weight")
        if "kernel" in members:
            return self._keras_kind(layer, members, "kernel")
        if "in_proj_weight" in members or "in_proj_bias" in members:
            return "attention"
        if "running_mean" in members or "moving_mean" in members:
            return "norm"
        return self._kind_by_leaves(layer, members)

    def hint(self, layer: str) -> str:
        """What the last component of `layer` that is not a number suggests; "" for nothing."""
        separator = "/" if "/" in layer else "."
        last = layer
        while True:
            rest, _, last = last.rpartition(separator)
            if not last.isdigit() or not rest:
                break
            last = rest
        known = self.hints.get(last)
        if known is None:
            known = next(
                (hint for hint, pattern in _HINTS if re.search(pattern, last, re.IGNORECASE)), ""
            )
            self.hints[last] = known
        return known

    def _kind_by_leaves(self, layer: str, members: Members) -> str:
        """Kind of a layer without a plain weight or kernel, from what its tensors are called."""
        if "embeddings" in members:
            return "embedding"
        if "depthwise_kernel" in members or "depthwise_weights" in members:
            # With a pointwise kernel, a separable convolution; see kind_of_leaf.
            parts = ("pointwise_kernel", "pointwise_weights")
            return "conv" if any(part in members for part in parts) else "depthwise"
        if "gamma" in members and "beta" in members:
            return "norm"
        for leaf in _REPARAMETRISED:
            if leaf in members:
                return self._torch_kind(layer, members, leaf)
        if "weights" in members:
            return self._keras_kind(layer, members, "weights")
        for leaf in members:
            if leaf.startswith(("weight_ih", "weight_hh")):
                return "recurrent"
            if leaf in ("gamma", "beta", "scale") and self.hint(layer) == "norm":
                return "norm"
        return "unknown"

    def _torch_kind(self, layer: str, members: Members, leaf: str) -> str:
        """Kind of a layer with a `weight` in PyTorch's sense: (out, in, k..)."""
        shape = members[leaf].extent.shape
        rank = len(shape)
        bias = members.get("bias")
        if rank == 1:
            if "running_mean" in members or (bias is not None and bias.extent.shape == shape):
                return "norm"
            return "norm" if self.hint(layer) == "norm" else "unknown"
        if rank == 2:
            self.widths.append(shape[0])
            return self._torch_matrix_kind(layer, shape, bias)
        if 3 <= rank <= 5:
            if bias is not None and bias.extent.shape == shape:
                return "norm"
            if rank == 3 and ("experts" in layer or shape[2] > self._longest_window(layer)):
                return "unknown"  # matrices of a mixture, stacked
            if rank == 3 and _is_bilinear(layer, shape):
                return "unknown"
            return self._torch_conv_kind(layer, shape, bias)
        return "unknown"

    def _longest_window(self, layer: str) -> int:
        """Taps of a 1-D kernel up to which a layer of this name may be a convolution."""
        return 64 if self.hint(layer) == "dense" else 512

    def _torch_matrix_kind(self, layer: str, shape: tuple[int, ...], bias: Tensor | None) -> str:
        if bias is not None:
            if bias.extent.shape == shape:
                return "norm"
            if layer.endswith(".out_proj"):
                parent = self.modules.get(layer[:-9])
                if parent is not None and ("in_proj_bias" in parent or "in_proj_weight" in parent):
                    return "attention"
            return "dense"
        hint = self.hint(layer)
        return hint if hint in ("dense", "embedding") else "unknown"

    def _torch_conv_kind(self, layer: str, shape: tuple[int, ...], bias: Tensor | None) -> str:
        """Kind of a kernel that is (out, in / groups, k..) or (in, out / groups, k..)."""
        seen = list(self.widths)
        self.widths.append(shape[0])
        width = None if bias is None else bias.extent.count
        if width is not None and width != shape[0]:
            self.widths[-1] = width
            return "transposed_conv" if shape[1] and width % shape[1] == 0 else "unknown"
        hint = self.hint(layer)
        square = shape[0] == shape[1]
        if hint == "transposed" and (square or bias is None):
            self.widths[-1] = shape[1]
            return "transposed_conv"
        if shape[1] == 1 and shape[0] > 1:
            if hint != "depthwise" and _is_doubtful(layer, shape[2:]):
                return "unknown"
            if hint == "depthwise" or any(n and shape[0] % n == 0 and n > 1 for n in seen):
                return "depthwise"
            return "unknown" if seen else "conv"
        if square and _is_upsampling(shape[2:]):
            return "unknown"
        return "conv"

    def _keras_kind(self, layer: str, members: Members, leaf: str) -> str:
        """Kind of a layer with a Keras or TensorFlow kernel: (k.., in, out)."""
        shape = members[leaf].extent.shape
        rank = len(shape)
        last = layer.rpartition("/")[2] if "/" in layer else layer.rpartition(".")[2]
        if "recurrent_kernel" in members:
            return "recurrent"
        if rank == 2:
            if last in ("gates", "candidate"):
                last = layer.split("/")[-2] if "/" in layer else last
            return "recurrent" if re.fullmatch(_RECURRENT_CELL, last) else "dense"
        if rank == 3 and re.fullmatch(_ATTENTION_PART, last):
            return "attention"
        if not 3 <= rank <= 5:
            return "unknown"
        bias = members.get("bias") or members.get("biases")
        hint = self.hint(layer)
        width = None if bias is None else bias.extent.count
        if width is not None and width != shape[-1]:
            if width != shape[-2] * shape[-1]:
                return "transposed_conv" if width == shape[-2] else "unknown"
            if shape[-1] > 1:
                return "depthwise"
            # (k.., C, 1) with C biases: depthwise, or transposed with one input channel.
            return "transposed_conv" if hint == "transposed" else "depthwise"
        if hint == "transposed":
            return "transposed_conv"
        return "depthwise" if hint == "depthwise" else "conv"


def kind_of_leaf(leaf: str, tensor: Tensor, kind: str) -> str:
    """Kind of one tensor of a layer of that kind.

    A separable convolution is a depthwise and a plain one. A tensor may be a layer of its own:
    TensorFlow's bare `word_embeddings`.
    """
    if kind == "conv" and leaf.startswith("depthwise_"):
        return "depthwise"
    if kind == "unknown" and len(tensor.extent.shape) == 2 and re.fullmatch(_EMBEDDING_LEAF, leaf):
        return "embedding"
    return kind


def _is_doubtful(layer: str, window: tuple[int, ...]) -> bool:
    """Whether (N, 1, k..) may as well be a convolution of one channel, or a transposed one.

    A window of one place, one with even sides (patches), or a layer that resamples.
    """
    patches = len(window) > 1 and all(side % 2 == 0 for side in window)
    return patches or max(window) == 1 or re.search(_RESAMPLE, layer, re.IGNORECASE) is not None


def _is_bilinear(layer: str, shape: tuple[int, ...]) -> bool:
    """Whether (N, a, b) may be a form in two vectors, nn.Bilinear's: called so, or of two alike.

    A kernel of a convolution has no more taps than 16 where it has as many as channels.
    """
    named = re.search(r"bilinear|biaffine", layer, re.IGNORECASE) is not None
    return named or shape[1] == shape[2] > 16


def _is_upsampling(window: tuple[int, ...]) -> bool:
    """Whether a kernel has sides of 2 or 4: usual for patches and for transposed convolutions."""
    return all(side in (2, 4) for side in window)
