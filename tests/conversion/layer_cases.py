"""Layers of the layout table as pairs of real models: PyTorch's and Keras's, with their mapping."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

HEAD = """
[mapping]
name = "case"
a = {{ framework = "torch" }}
b = {{ framework = "{framework}" }}
"""


@dataclass(frozen=True)
class Case:
    """torch_model: a Module whose forward takes the inputs. keras: (keras, inputs) -> outputs.

    shapes: of the inputs as PyTorch takes them, without the batch. channels: whether axis 1 is the
    channels, which Keras has last. keras3_only: the layer is not in Keras 2.
    lossy: names of tensors whose values do not come back. back: whether there is a way back.
    """

    name: str
    mapping: str
    torch_model: Callable[[], nn.Module]
    keras: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    channels: bool = False
    integers: int = 0
    keras3_only: bool = False
    lossy: tuple[str, ...] = ()
    back: bool = True


def layer(kind: str, a: str = "m", b: str = "m", **options: object) -> str:
    """One [[layer]] of a mapping file."""
    lines = ["[[layer]]", f'kind = "{kind}"', f"a = {a!r}", f'b = "{b}"']
    for key, value in options.items():
        lines.append(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return "\n".join(lines) + "\n"


class Apply(nn.Module):
    """A module called m, and what is done with its output."""

    def __init__(self, m: nn.Module, then: Callable[..., Any] | None = None, **more: nn.Module):
        super().__init__()
        self.m = m
        for name, module in more.items():
            self.add_module(name, module)
        self.then = then

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.then(self, *inputs) if self.then else self.m(*inputs)


class Attention(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.m = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.m(q, k, v, need_weights=False)[0]


def encoder(norm_first: bool, activation: str) -> Case:
    def keras(k: Any, x: Any) -> Any:
        layers = k.layers
        attention = layers.MultiHeadAttention(2, 4, name="self_attn")
        norm1 = layers.LayerNormalization(epsilon=1e-5, name="norm1")
        norm2 = layers.LayerNormalization(epsilon=1e-5, name="norm2")
        gelu = (
            (lambda v: k.activations.gelu(v, approximate=False)) if activation == "gelu" else None
        )
        up = layers.Dense(16, activation=gelu or "relu", name="linear1")
        down = layers.Dense(8, name="linear2")
        add = layers.add
        if norm_first:
            y = norm1(x)
            x = add([x, attention(y, y)])
            return add([x, down(up(norm2(x)))])
        x = norm1(add([x, attention(x, x)]))
        return norm2(add([x, down(up(x))]))

    return Case(
        f"transformer_encoder_layer-{'pre' if norm_first else 'post'}-{activation}",
        layer("mha", "m.self_attn", "self_attn", heads=2)
        + layer("linear", "m.linear{i:int}", "linear{i}")
        + layer("layernorm", "m.norm{i:int}", "norm{i}"),
        lambda: Apply(
            nn.TransformerEncoderLayer(
                8, 2, 16, batch_first=True, norm_first=norm_first, activation=activation
            )
        ),
        keras,
        ((5, 8),),
    )


def conv(dim: int, kind: str = "conv", **options: Any) -> Case:
    side = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}[dim]
    window = {1: (3,), 2: (3, 2), 3: (3, 2, 2)}[dim]
    name = f"{kind}{dim}d" + "".join(f"-{k}{v}" for k, v in options.items())
    torch_name = f"Conv{dim}d" if kind == "conv" else f"ConvTranspose{dim}d"
    keras_name = f"Conv{dim}D" if kind == "conv" else f"Conv{dim}DTranspose"
    keras_options = {"dilation_rate" if k == "dilation" else k: v for k, v in options.items()}
    return Case(
        name,
        layer(kind),
        lambda: Apply(getattr(nn, torch_name)(4, 6, window, **options)),
        lambda k, x: getattr(k.layers, keras_name)(6, window, name="m", **keras_options)(x),
        ((4, *side),),
        channels=True,
    )


def separable(dim: int) -> Case:
    torch_conv = {1: nn.Conv1d, 2: nn.Conv2d}[dim]
    return Case(
        f"separable{dim}d",
        layer("separable", ["m", "pointwise"], multiplier=2),
        lambda: Apply(
            torch_conv(4, 8, 3, groups=4, bias=False),
            lambda self, x: self.pointwise(self.m(x)),
            pointwise=torch_conv(8, 5, 1),
        ),
        lambda k, x: getattr(k.layers, f"SeparableConv{dim}D")(5, 3, depth_multiplier=2, name="m")(
            x
        ),
        ((4, *(7,) * dim),),
        channels=True,
    )


def depthwise(dim: int, multiplier: int) -> Case:
    window = (3, 3) if dim == 2 else 3
    return Case(
        f"depthwise{dim}d-{multiplier}",
        layer("depthwise", multiplier=multiplier),
        lambda: Apply(getattr(nn, f"Conv{dim}d")(4, 4 * multiplier, window, groups=4)),
        lambda k, x: getattr(k.layers, f"DepthwiseConv{dim}D")(
            window, depth_multiplier=multiplier, name="m"
        )(x),
        ((4, *(7,) * dim),),
        channels=True,
    )


def flatten_linear(k: Any, x: Any) -> Any:
    return k.layers.Dense(5, name="m")(k.layers.Flatten()(x))


def gpt2_dense() -> nn.Module:
    """GPT-2's own Conv1D, square: its shape does not tell that it is stored (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return Apply(Conv1D(6, 6))


def weight_norm(model: nn.Module) -> nn.Module:
    return torch.nn.utils.parametrizations.weight_norm(model)


def normed(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same with the weight of its layer in two: magnitude and direction."""

    def make() -> nn.Module:
        module = model()
        weight_norm(module.m)
        return module

    return make


def hooked_weight_norm(model: nn.Module) -> nn.Module:
    """As torch did it before 2.0; checkpoints of that time name the two weight_g and weight_v."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(model)


def hooked_conv(dim: int) -> Case:
    plain = conv(dim)
    return replace(
        plain,
        name=f"weight-norm-hook-{plain.name}",
        mapping=layer("conv", weight_norm="hook"),
        torch_model=lambda: Apply(hooked_weight_norm(getattr(nn, f"Conv{dim}d")(4, 6, 3))),
        keras=lambda k, x: getattr(k.layers, f"Conv{dim}D")(6, 3, name="m")(x),
        back=False,
    )


AFTER_FLATTEN = Case(
    "linear-after-flatten",
    layer("linear_flatten", chw=[4, 3, 5]),
    lambda: Apply(nn.Linear(60, 5), lambda self, x: self.m(x.flatten(1))),
    flatten_linear,
    ((4, 3, 5),),
    channels=True,
)


BEFORE_RESHAPE = Case(
    "linear-before-reshape",
    layer("linear_unflatten", chw=[4, 3, 5]),
    lambda: Apply(
        nn.Linear(6, 60), lambda self, x: self.m(x).unflatten(1, (4, 3, 5)).movedim(1, -1)
    ),
    lambda k, x: k.layers.Reshape((3, 5, 4))(k.layers.Dense(60, name="m")(x)),
    ((6,),),
)
NORM_AFTER_FLATTEN = Case(
    "batchnorm-after-flatten",
    layer("batchnorm", chw=[4, 3, 5]),
    lambda: Apply(nn.BatchNorm1d(60, eps=1e-3), lambda self, x: self.m(x.flatten(1)).view_as(x)),
    lambda k, x: k.layers.Reshape((3, 5, 4))(
        k.layers.BatchNormalization(name="m")(k.layers.Flatten()(x))
    ),
    ((4, 3, 5),),
    channels=True,
    lossy=("m.num_batches_tracked",),
)


CASES = (
    Case(
        "linear",
        layer("linear"),
        lambda: Apply(nn.Linear(6, 6)),
        lambda k, x: k.layers.Dense(6, name="m")(x),
        ((6,),),
    ),
    Case(
        "conv1d_linear",
        layer("conv1d_linear"),
        gpt2_dense,
        lambda k, x: k.layers.Dense(6, name="m")(x),
        ((5, 6),),
    ),
    *(conv(dim) for dim in (1, 2, 3)),
    *(conv(dim, dilation=2) for dim in (1, 2, 3)),
    *(conv(dim, groups=2) for dim in (1, 2)),
    *(conv(dim, "conv_transpose") for dim in (1, 2, 3)),
    depthwise(2, 1),
    depthwise(2, 2),
    depthwise(1, 2),
    Case(
        "depthwise-as-conv",
        layer("conv"),
        lambda: Apply(nn.Conv2d(4, 8, 3, groups=4)),
        lambda k, x: k.layers.Conv2D(8, 3, groups=4, name="m")(x),
        ((4, 7, 7),),
        channels=True,
    ),
    separable(1),
    separable(2),
    # Keras keeps its kernels alike, whichever axis holds the channels.
    Case(
        "conv2d-channels-first",
        layer("conv"),
        lambda: Apply(nn.Conv2d(4, 6, (3, 2))),
        lambda k, x: k.layers.Conv2D(6, (3, 2), data_format="channels_first", name="m")(x),
        ((4, 9, 8),),
        keras3_only=True,
    ),
    Case(
        "batchnorm",
        layer("batchnorm"),
        lambda: Apply(nn.BatchNorm2d(4)),
        lambda k, x: k.layers.BatchNormalization(epsilon=1e-5, name="m")(x),
        ((4, 5, 5),),
        channels=True,
        lossy=("m.num_batches_tracked",),
    ),
    Case(
        "batchnorm-not-affine",
        layer("batchnorm", scale=False, center=False),
        lambda: Apply(nn.BatchNorm2d(4, affine=False)),
        lambda k, x: k.layers.BatchNormalization(epsilon=1e-5, scale=False, center=False, name="m")(
            x
        ),
        ((4, 5, 5),),
        channels=True,
        lossy=("m.num_batches_tracked",),
    ),
    Case(
        "layernorm",
        layer("layernorm"),
        lambda: Apply(nn.LayerNorm(6)),
        lambda k, x: k.layers.LayerNormalization(epsilon=1e-5, name="m")(x),
        ((5, 6),),
    ),
    Case(
        "layernorm-two-axes",
        layer("layernorm"),
        lambda: Apply(nn.LayerNorm((5, 6))),
        lambda k, x: k.layers.LayerNormalization(axis=(1, 2), epsilon=1e-5, name="m")(x),
        ((5, 6),),
    ),
    Case(
        "groupnorm",
        layer("groupnorm"),
        lambda: Apply(nn.GroupNorm(2, 4)),
        lambda k, x: k.layers.GroupNormalization(2, epsilon=1e-5, name="m")(x),
        ((4, 5, 5),),
        channels=True,
    ),
    Case(
        "instancenorm",
        layer("instancenorm"),
        lambda: Apply(nn.InstanceNorm2d(4, affine=True)),
        lambda k, x: k.layers.GroupNormalization(-1, epsilon=1e-5, name="m")(x),
        ((4, 5, 5),),
        channels=True,
    ),
    Case(
        "rmsnorm",
        layer("rmsnorm"),
        lambda: Apply(nn.RMSNorm(6, eps=1e-6)),
        lambda k, x: k.layers.RMSNormalization(epsilon=1e-6, name="m")(x),
        ((5, 6),),
        keras3_only=True,
    ),
    Case(
        "embedding",
        layer("embedding"),
        lambda: Apply(nn.Embedding(7, 7)),
        lambda k, x: k.layers.Embedding(7, 7, name="m")(x),
        ((5,),),
        integers=7,
    ),
    Case(
        "prelu",
        layer("prelu", shape=[1, 1, -1]),
        lambda: Apply(nn.PReLU(4)),
        lambda k, x: k.layers.PReLU(shared_axes=[1, 2], name="m")(x),
        ((4, 5, 5),),
        channels=True,
    ),
    Case(
        "prelu-one",
        layer("prelu", shape=[1, 1, 1]),
        lambda: Apply(nn.PReLU()),
        lambda k, x: k.layers.PReLU(shared_axes=[1, 2, 3], name="m")(x),
        ((4, 5, 5),),
        channels=True,
    ),
    Case(
        "mha",
        layer("mha", heads=2),
        Attention,
        lambda k, q, key, v: k.layers.MultiHeadAttention(2, 4, name="m")(q, v, key),
        ((5, 8), (7, 8), (7, 8)),
    ),
    Case(
        "mha-nobias",
        layer("mha", heads=2),
        lambda: Attention(bias=False),
        lambda k, q, key, v: k.layers.MultiHeadAttention(2, 4, use_bias=False, name="m")(q, v, key),
        ((5, 8), (7, 8), (7, 8)),
    ),
    Case(
        "mha-kdim",
        layer("mha_separate", heads=2),
        lambda: Attention(kdim=6, vdim=5),
        lambda k, q, key, v: k.layers.MultiHeadAttention(2, 4, name="m")(q, v, key),
        ((5, 8), (7, 6), (7, 5)),
    ),
    *(encoder(pre, act) for pre in (False, True) for act in ("relu", "gelu")),
    AFTER_FLATTEN,
    BEFORE_RESHAPE,
    NORM_AFTER_FLATTEN,
    Case(
        "weight-norm-linear",
        layer("linear", weight_norm="parametrizations"),
        lambda: Apply(weight_norm(nn.Linear(6, 6))),
        lambda k, x: k.layers.Dense(6, name="m")(x),
        ((6,),),
        back=False,
    ),
    *(
        replace(
            case,
            name=f"weight-norm-{case.name}",
            mapping=case.mapping + 'weight_norm = "parametrizations"\n',
            torch_model=normed(case.torch_model),
            back=False,
        )
        for case in (conv(1), conv(2), conv(3), depthwise(2, 2), AFTER_FLATTEN)
    ),
    Case(
        "weight-norm-conv-transpose",
        layer("conv_transpose", weight_norm="parametrizations"),
        lambda: Apply(weight_norm(nn.ConvTranspose2d(4, 6, 3))),
        lambda k, x: k.layers.Conv2DTranspose(6, 3, name="m")(x),
        ((4, 5, 5),),
        channels=True,
        back=False,
    ),
    *(hooked_conv(dim) for dim in (1, 2, 3)),
    Case(
        "weight-norm-hook-linear",
        layer("linear", weight_norm="hook"),
        lambda: Apply(hooked_weight_norm(nn.Linear(6, 6))),
        lambda k, x: k.layers.Dense(6, name="m")(x),
        ((6,),),
        back=False,
    ),
    Case(
        "weight-norm-hook-conv-transpose",
        layer("conv_transpose", weight_norm="hook"),
        lambda: Apply(hooked_weight_norm(nn.ConvTranspose2d(4, 6, 3))),
        lambda k, x: k.layers.Conv2DTranspose(6, 3, name="m")(x),
        ((4, 5, 5),),
        channels=True,
        back=False,
    ),
)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and every buffer at random, so that no two are alike; variances positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dtype.is_floating_point:
            values = torch.randn(tensor.shape, generator=generator) * 0.5
            tensor.copy_(values.abs() + 0.5 if "var" in name or "original0" in name else values)
        else:
            tensor.fill_(37)
    return model.eval()


def inputs_of(case: Case, seed: int = 1) -> list[np.ndarray]:
    """Random inputs as PyTorch takes them, a batch of 3."""
    random = np.random.default_rng(seed)
    if case.integers:
        return [random.integers(0, case.integers, (3, *shape)) for shape in case.shapes]
    return [random.standard_normal((3, *shape)).astype("float32") for shape in case.shapes]


def build_keras(keras: Any, case: Case) -> Any:
    """The Keras model of a case, weights at random."""
    inputs = []
    for shape in case.shapes:
        turned = (*shape[1:], shape[0]) if case.channels else shape
        dtype = "int32" if case.integers else "float32"
        inputs.append(keras.Input(turned, dtype=dtype))
    model = keras.Model(inputs, case.keras(keras, *inputs))
    random = np.random.default_rng(2)
    weights = []
    for value in model.get_weights():
        new = random.standard_normal(value.shape) * 0.5
        weights.append(new.astype(value.dtype))
    for index, variable in enumerate(model.weights):
        name = getattr(variable, "path", variable.name)
        if "variance" in name:
            weights[index] = np.abs(weights[index]) + np.float32(0.5)
    model.set_weights(weights)
    return model


def run_torch(model: nn.Module, case: Case, inputs: list[np.ndarray]) -> np.ndarray:
    """Outputs, channels last where the case has channels."""
    with torch.no_grad():
        output = model(*(torch.from_numpy(x) for x in inputs)).numpy()
    return np.moveaxis(output, 1, -1) if case.channels and output.ndim > 2 else output


def run_keras(model: Any, case: Case, inputs: list[np.ndarray]) -> np.ndarray:
    """Outputs for the same inputs, moved to channels last."""
    turned = [np.moveaxis(x, 1, -1) if case.channels else x for x in inputs]
    return np.asarray(model(turned))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
