"""Fresh tensors drawn by the frameworks' own initialisers, and models trained on real digits.

Used by test_initialisation.py and by tests/bench/score_init.py. A case is a checkpoint, the name of
the tensor in question and the scheme that drew it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from wtool.checkpoint import Checkpoint, Tensor, build
from wtool.dtypes import DTYPES
from wtool.extents import Strided
from wtool.layers import assign_roles
from wtool.sources import BytesSource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DENSE = ((32, 16), (64, 10), (128, 128), (784, 100), (1000, 512), (2048, 1000))
CONV = ((32, 3, 3, 3), (64, 32, 1, 1), (64, 64, 3, 3), (256, 128, 3, 3), (512, 512, 3, 3))
DEPTHWISE = ((128, 1, 3, 3), (512, 1, 5, 5))
TABLES = ((100, 16), (1000, 64), (20000, 48))


@dataclass(frozen=True)
class Case:
    """One fresh tensor: `name` in `checkpoint` was drawn by `scheme` of `framework`."""

    framework: str
    scheme: str
    checkpoint: Checkpoint
    name: str

    @property
    def tensor(self) -> Tensor:
        """The tensor in question."""
        return self.checkpoint[self.name]


def in_memory(arrays: dict[str, np.ndarray], format: str) -> Checkpoint:
    """A checkpoint of `arrays` with roles assigned, as a reader of `format` would give it."""
    tensors = []
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        source = BytesSource(data, f"memory of {name}")
        extent = Strided(source, 0, len(data), DTYPES[array.dtype.name], array.shape)
        tensors.append(Tensor(name, name, extent))
    checkpoint = build("memory", format, tensors)
    assign_roles(checkpoint)
    return checkpoint


def torch_cases(seeds: Iterable[int], dtype: str = "float32") -> Iterator[Case]:
    """Every torch initialiser on every shape, once a seed, stored as `dtype`."""
    import torch
    from torch.nn import init

    def fan(weight: torch.Tensor) -> int:
        return weight[0].numel()

    schemes: dict[str, Callable[[torch.Tensor], object]] = {
        "torch_default": lambda w: init.kaiming_uniform_(w, a=5**0.5),
        "xavier_uniform": init.xavier_uniform_,
        "xavier_normal": init.xavier_normal_,
        "he_uniform": lambda w: init.kaiming_uniform_(w, nonlinearity="relu"),
        "he_normal": lambda w: init.kaiming_normal_(w, nonlinearity="relu"),
        "he_uniform_fan_out": lambda w: init.kaiming_uniform_(w, mode="fan_out"),
        "he_normal_fan_out": lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
        "lecun_uniform": lambda w: init.kaiming_uniform_(w, nonlinearity="linear"),
        "lecun_normal": lambda w: init.kaiming_normal_(w, nonlinearity="linear"),
        "xavier_uniform_gain_1.41": lambda w: init.xavier_uniform_(w, init.calculate_gain("relu")),
        "xavier_normal_gain_1.41": lambda w: init.xavier_normal_(w, init.calculate_gain("relu")),
        "xavier_uniform_gain_1.67": lambda w: init.xavier_uniform_(w, init.calculate_gain("tanh")),
        "xavier_uniform_gain_0.71": lambda w: init.xavier_uniform_(w, 2**-0.5),
        "normal_0.001": lambda w: init.normal_(w, std=0.001),
        "normal_0.01": lambda w: init.normal_(w, std=0.01),
        "normal_0.02": lambda w: init.trunc_normal_(w, std=0.02),
        "orthogonal": init.orthogonal_,
        "zeros": init.zeros_,
    }
    # kaiming_uniform_ defaults to leaky_relu with a = 0, whose gain is that of relu.
    for seed in seeds:
        torch.manual_seed(seed)
        for scheme, draw in schemes.items():
            for shape in (*DENSE, *CONV, *DEPTHWISE):
                weight = torch.empty(*reversed(shape)) if len(shape) == 2 else torch.empty(*shape)
                draw(weight)
                arrays = {"layer.weight": weight, "layer.bias": torch.zeros(weight.shape[0])}
                yield Case("torch", scheme, _torch_checkpoint(arrays, dtype), "layer.weight")
        for shape in TABLES:
            table = {"embed.weight": torch.nn.Embedding(*shape, padding_idx=0).weight}
            yield Case("torch", "normal_1", _torch_checkpoint(table, dtype), "embed.weight")
        for name, layer in _torch_layers(torch).items():
            state = {f"layer.{key}": value for key, value in layer.state_dict().items()}
            checkpoint = _torch_checkpoint(state, dtype)
            for key in state:
                if key.endswith("weight") or "weight_" in key:
                    yield Case("torch", name, checkpoint, key)


def _torch_layers(torch) -> dict[str, object]:
    """Layers as their constructors leave them, by the scheme of their weights."""
    nn = torch.nn
    return {
        "torch_default": nn.Sequential(
            nn.Linear(300, 50), nn.Conv1d(16, 40, 5), nn.ConvTranspose2d(32, 16, 4)
        ),
        "torch_rnn_default": nn.ModuleList(
            [nn.LSTM(24, 40, bidirectional=True, num_layers=2), nn.GRU(30, 64), nn.RNN(40, 40)]
        ),
    }


def _torch_checkpoint(arrays, dtype: str) -> Checkpoint:
    stored = {name: _as_dtype(value.detach().numpy(), dtype) for name, value in arrays.items()}
    return in_memory(stored, "torch zip")


def _as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(DTYPES[dtype].carrier)


def keras_cases(seeds: Iterable[int], dtype: str = "float32") -> Iterator[Case]:
    """Every Keras initialiser on every shape, once a seed, stored as `dtype`."""
    from keras import initializers as init

    schemes = {
        "xavier_uniform": init.GlorotUniform,
        "truncated_xavier_normal": init.GlorotNormal,
        "he_uniform": init.HeUniform,
        "truncated_he_normal": init.HeNormal,
        "lecun_uniform": init.LecunUniform,
        "truncated_lecun_normal": init.LecunNormal,
        "normal_0.05": init.RandomNormal,
        "uniform_0.05": init.RandomUniform,
        "truncated_normal_0.05": init.TruncatedNormal,
        "truncated_normal_0.02": lambda seed: init.TruncatedNormal(stddev=0.02, seed=seed),
        "orthogonal": init.Orthogonal,
    }
    for seed in seeds:
        for scheme, make in schemes.items():
            for shape in (*DENSE, *(shape[2:] + shape[1::-1] for shape in CONV)):
                kernel = np.asarray(make(seed=seed)(shape))
                arrays = {"layer/kernel": kernel, "layer/bias": np.zeros(shape[-1], np.float32)}
                stored = {name: _as_dtype(value, dtype) for name, value in arrays.items()}
                yield Case("keras", scheme, in_memory(stored, "keras"), "layer/kernel")
        for shape in TABLES:
            table = np.asarray(init.RandomUniform(seed=seed)(shape))
            stored = {"embed/embeddings": _as_dtype(table, dtype)}
            yield Case("keras", "uniform_0.05", in_memory(stored, "keras"), "embed/embeddings")
        yield from _keras_recurrent(seed, dtype)


def _keras_recurrent(seed: int, dtype: str) -> Iterator[Case]:
    """LSTM and GRU as Keras builds them: Glorot, orthogonal, and the forget gate's ones."""
    import keras

    for layer in (keras.layers.LSTM(32), keras.layers.GRU(40)):
        keras.utils.set_random_seed(seed)
        layer.build((None, 10, 24))
        arrays = {f"rnn/{v.name}": _as_dtype(np.asarray(v), dtype) for v in layer.weights}
        checkpoint = in_memory(arrays, "keras")
        yield Case("keras", "xavier_uniform", checkpoint, "rnn/kernel")
        yield Case("keras", "orthogonal", checkpoint, "rnn/recurrent_kernel")
        bias = "unit_forget_bias" if isinstance(layer, keras.layers.LSTM) else "zeros"
        yield Case("keras", bias, checkpoint, "rnn/bias")


def names_of(verdict: str) -> set[str]:
    """The schemes that a verdict names; empty where it is not "fresh"."""
    if not verdict.startswith("fresh: "):
        return set()
    return {name for part in verdict[7:].split(" or ") for name in part.split(" = ")}
