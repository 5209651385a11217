"""The initialisers of both frameworks as distributions: family, scale, and the rule behind each.

Sources: torch 2.13 `nn/init.py` and the `reset_parameters` of its layers; Keras 3
`initializers/random_initializers.py`; Glorot & Bengio 2010; He et al. 2015; LeCun et al. 1998.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wtool.layers.layouts import Layout, fans, hidden_size, initialiser_fans, layout_of
from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Checkpoint, Tensor

# Keras and TensorFlow cut a truncated normal at two standard deviations; what is left has this one.
TRUNCATED_AT = 2.0
_INSIDE = math.erf(TRUNCATED_AT / math.sqrt(2))
_EDGE = math.exp(-(TRUNCATED_AT**2) / 2) / math.sqrt(2 * math.pi)
_SECOND = 1 - 2 * TRUNCATED_AT * _EDGE / _INSIDE
_FOURTH = 3 * _SECOND - 2 * TRUNCATED_AT**3 * _EDGE / _INSIDE
TRUNCATED_STD = math.sqrt(_SECOND)  # 0.8796
KURTOSIS = {"uniform": 1.8, "normal": 3.0, "truncated": _FOURTH / _SECOND**2}

_REACH = {"uniform": 1.0, "normal": 6.5, "truncated": TRUNCATED_AT}

# Schemes whose scale differs by less are one scheme under two names.
SAME_SCALE = 1e-6


# Gains that xavier initialisers are given -> by what the variance is multiplied: `calculate_gain`
# of ReLU and tanh; fairseq's query, key and value (wav2vec 2.0, BART's ancestors).
XAVIER_GAINS = {"gain_1.41": 2.0, "gain_1.67": 25 / 9, "gain_0.71": 0.5}
# Layers that end a residual branch, by the last component of their path.
_RESIDUAL = re.compile(
    r"c_proj|out_proj|o_proj|down_proj|dense_4h_to_h|fc_out|wo|w2|proj|fc2|linear2|dense"
)
_NUMBERED = re.compile(r"(.*?\.)(\d+)(\..*)")


@dataclass(frozen=True)
class Scheme:
    """A zero-mean distribution that an initialiser draws from.

    name: of the scheme, several joined by " = " where they coincide. family: "uniform", "normal"
    or "truncated" (at two standard deviations). scale: bound of the uniform, standard deviation of
    the normal before any cut.
    """

    name: str
    family: str
    scale: float

    @property
    def std(self) -> float:
        """Standard deviation of the values drawn."""
        if self.family == "uniform":
            return self.scale / math.sqrt(3)
        return self.scale * (TRUNCATED_STD if self.family == "truncated" else 1.0)

    @property
    def bound(self) -> float:
        """Largest magnitude that is drawn; of a normal, what a million draws stay under."""
        return self.scale * _REACH[self.family]

    @property
    def kurtosis(self) -> float:
        """Fourth moment over the squared second."""
        return KURTOSIS[self.family]

    def cdf(self, values: np.ndarray) -> np.ndarray:
        """Probability of a draw below each of `values`, (n,) float64 in and out."""
        import numpy as np

        if self.family == "uniform":
            return np.clip(values / (2 * self.scale) + 0.5, 0, 1)
        root = self.scale * math.sqrt(2)
        below = np.array([0.5 + 0.5 * math.erf(value / root) for value in values.tolist()])
        if self.family == "truncated":
            below = np.clip((below - (1 - _INSIDE) / 2) / _INSIDE, 0, 1)
        return below

    def log_likelihood(self, count: int, energy: float) -> float:
        """Log density of `count` values within the bound whose squares sum to `energy`."""
        if self.family == "uniform":
            return -count * math.log(2 * self.scale)
        density = -count * math.log(self.scale * math.sqrt(2 * math.pi)) - energy / (
            2 * self.scale**2
        )
        return density - (count * math.log(_INSIDE) if self.family == "truncated" else 0)


def candidates(tensor: Tensor, checkpoint: Checkpoint) -> list[Scheme]:
    """Every scheme that a framework, or common practice, would start this tensor with.

    Random schemes only; zeros, ones, constants and orthogonal matrices are judged by value. A bias
    starts at a constant, at PyTorch's default, or, in vision transformers, at a normal of 1e-6.
    """
    layout = layout_of(tensor, checkpoint)
    if tensor.role == "bias":
        found = [Scheme("normal_1e-06", "normal", 1e-6)]
    else:
        found = list(_fixed_scale(tensor))
        blocks = count_blocks(tensor, checkpoint)
        if blocks:
            # GPT-2's, and of most decoders since: what ends a residual branch starts smaller.
            found.append(Scheme("gpt2_residual", "normal", 0.02 / math.sqrt(2 * blocks)))
    if len(tensor.shape) >= 2 and layout != "unknown":
        for fan_in, fan_out in _fan_pairs(tensor, checkpoint, layout):
            found.extend(_variance_scaling(fan_in, fan_out))
            if layout == "torch" and tensor.kind != "recurrent":
                found.append(Scheme("torch_default", "uniform", 1 / math.sqrt(fan_in)))
                if tensor.kind == "dense" and fan_in != fan_out:
                    # EfficientNet's classifier, in torchvision and timm.
                    found.append(Scheme("uniform_fan_out", "uniform", 1 / math.sqrt(fan_out)))
    elif tensor.role == "bias":
        inputs = bias_fan_in(tensor, checkpoint)
        if inputs:
            found.append(Scheme("torch_default", "uniform", 1 / math.sqrt(inputs)))
    if split_leaf(tensor.name)[1].startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        hidden = hidden_size(tensor, checkpoint)
        if hidden:
            found.append(Scheme("torch_rnn_default", "uniform", 1 / math.sqrt(hidden)))
    return merge(found)


def merge(schemes: list[Scheme]) -> list[Scheme]:
    """`schemes` with those that coincide (family and scale) joined into one: "a = b"."""
    merged: list[Scheme] = []
    for scheme in sorted(schemes, key=lambda s: (s.family, s.scale)):
        last = merged[-1] if merged else None
        if (
            last is None
            or last.family != scheme.family
            or scheme.scale > last.scale * (1 + SAME_SCALE)
        ):
            merged.append(scheme)
        elif scheme.name not in last.name.split(" = "):
            merged[-1] = Scheme(f"{last.name} = {scheme.name}", last.family, last.scale)
    return merged


def count_blocks(tensor: Tensor, checkpoint: Checkpoint) -> int:
    """How many numbered blocks hold a tensor like this one that ends a residual branch; else 0.

    Blocks are numbered from 0 on; where one is missing, those before or behind it may be left out.
    """
    module, leaf = split_leaf(tensor.name)
    numbered = _NUMBERED.fullmatch(tensor.name)
    if leaf != "weight" or numbered is None or not _RESIDUAL.fullmatch(module.rpartition(".")[2]):
        return 0
    before, _, behind = numbered.groups()
    # Each tensor asks: to count from 0 on would take quadratic time.
    return bisect_left(
        range(len(checkpoint)), True, key=lambda n: f"{before}{n}{behind}" not in checkpoint.tensors
    )


def bias_fan_in(tensor: Tensor, checkpoint: Checkpoint) -> int | None:
    """fan_in of the weight that a PyTorch bias belongs to, None where that weight is not there."""
    module, leaf = split_leaf(tensor.name)
    weight = checkpoint.tensors.get(f"{module}.weight" if module else "weight")
    if leaf != "bias" or weight is None or len(weight.shape) < 2 or not weight.count:
        return None
    layout = layout_of(weight, checkpoint)
    return None if layout == "unknown" else initialiser_fans(weight.shape, layout)[0]


def _fan_pairs(tensor: Tensor, checkpoint: Checkpoint, layout: Layout) -> Iterator[tuple[int, int]]:
    """What an initialiser may have taken for fans: the shape's own, and those of one gate."""
    whole = initialiser_fans(tensor.shape, layout)
    yield whole
    part = fans(tensor, checkpoint)
    if part is not None and part != whole and min(part) > 0:
        yield part
    if tensor.kind == "embedding":
        # Initialisers of both frameworks see (vocabulary, width); which is "in" differs.
        yield whole[::-1]


def _variance_scaling(fan_in: int, fan_out: int) -> Iterator[Scheme]:
    """Glorot, He and LeCun schemes: uniform, normal, and Keras' truncated normal."""
    variances = {
        "xavier": 2 / (fan_in + fan_out),
        "he": 2 / fan_in,
        "lecun": 1 / fan_in,
        "he_fan_out": 2 / fan_out,
    }
    for gain, factor in XAVIER_GAINS.items():
        std = math.sqrt(factor * variances["xavier"])
        yield Scheme(f"xavier_uniform_{gain}", "uniform", math.sqrt(3) * std)
        yield Scheme(f"xavier_normal_{gain}", "normal", std)
    for name, variance in variances.items():
        stem, _, tail = name.partition("_")
        tail = f"_{tail}" if tail else ""
        std = math.sqrt(variance)
        yield Scheme(f"{stem}_uniform{tail}", "uniform", math.sqrt(3) * std)
        yield Scheme(f"{stem}_normal{tail}", "normal", std)
        yield Scheme(f"truncated_{stem}_normal{tail}", "truncated", std / TRUNCATED_STD)


def _fixed_scale(tensor: Tensor) -> Iterator[Scheme]:
    """Schemes whose scale does not depend on the shape.

    torch's `trunc_normal_(std=0.02)` cuts at 2, a hundred deviations out: it is `normal_0.02`.
    TensorFlow's truncated normal cuts at two deviations: `truncated_normal_0.02`.
    """
    yield Scheme("normal_0.001", "normal", 0.001)
    for std in (0.01, 0.02, 0.05):
        yield Scheme(f"normal_{std}", "normal", std)
        yield Scheme(f"truncated_normal_{std}", "truncated", std)
    yield Scheme("uniform_0.05", "uniform", 0.05)
    if tensor.kind == "embedding" or len(tensor.shape) < 2 or tensor.kind == "unknown":
        yield Scheme("normal_1", "normal", 1.0)
