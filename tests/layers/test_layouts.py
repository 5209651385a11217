"""Layouts, output axes and fans against what the frameworks compute."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import torch
from initialiser_cases import in_memory
from keras.src.initializers.random_initializers import compute_fans
from torch import nn

from wtool.layers import fans, layout_of, output_axes, unit_box
from wtool.layers.layouts import hidden_size

TORCH_LAYERS = {
    "dense": (nn.Linear(5, 7, bias=False), (2, 5)),
    "square": (nn.Linear(6, 6, bias=False), (2, 6)),
    "conv": (nn.Conv2d(4, 6, 3, bias=False), (1, 4, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (1, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (1, 4, 5, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, bias=False), (1, 4, 5)),
    "upconv": (nn.ConvTranspose2d(4, 6, 2, bias=False), (1, 4, 5, 5)),
}
KERAS_LAYERS = {
    "dense": (keras.layers.Dense(7, use_bias=False), (2, 5)),
    "conv": (keras.layers.Conv2D(6, 3, use_bias=False), (1, 5, 5, 4)),
    "grouped": (keras.layers.Conv2D(6, 3, groups=2, use_bias=False), (1, 5, 5, 4)),
    "dw": (keras.layers.DepthwiseConv2D(3, use_bias=False), (1, 5, 5, 4)),
    "dw_twice": (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        (1, 5, 5, 4),
    ),
    "upconv": (keras.layers.Conv2DTranspose(6, 2, use_bias=False), (1, 5, 5, 4)),
}

KERAS_PROJECTIONS = {
    "query": (keras.layers.EinsumDense("abc,cde->abde", (None, 3, 5)), (1, 4, 6)),
    "attention_output": (keras.layers.EinsumDense("abcd,cde->abe", (None, 6)), (1, 4, 3, 5)),
}


def torch_checkpoint(name: str, weight: np.ndarray, format: str = "torch zip"):
    """(name of the weight, checkpoint) with a layer before it that is as wide."""
    before = np.zeros((weight.shape[0], 9), np.float32)
    full = f"{name}.weight"
    return full, in_memory({"first.weight": before, full: weight}, format)


def _slices(weight: np.ndarray, axes: tuple[int, ...], unit: int) -> tuple[slice, ...]:
    return tuple(map(slice, *unit_box(weight.shape, axes, unit)))


def keras_kernel(name: str) -> np.ndarray:
    """The kernel of a layer, built once."""
    layer, shape = (KERAS_LAYERS | KERAS_PROJECTIONS)[name]
    if not layer.built:
        layer.build(shape)
    return np.array(layer.kernel)


@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_a_torch_output_is_zero_where_its_unit_is(name):
    layer, shape = TORCH_LAYERS[name]
    weight = layer.weight.detach().clone().numpy()
    full, checkpoint = torch_checkpoint(name, weight)
    axes = output_axes(checkpoint[full], checkpoint)
    weight[_slices(weight, axes, 1)] = 0
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        outputs = layer(torch.rand(shape)).numpy()
    silent = [not outputs[:, channel].any() for channel in range(outputs.shape[1])]
    assert silent == [channel == 1 for channel in range(outputs.shape[1])]


def test_no_axis_holds_the_units_of_a_transposed_convolution_in_groups():
    for groups, axes in ((1, (1,)), (2, None)):
        layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
        tensors = {f"up.{name}": value.numpy() for name, value in layer.state_dict().items()}
        checkpoint = in_memory(tensors, "torch zip")
        assert checkpoint["up.weight"].kind == "transposed_conv"
        assert output_axes(checkpoint["up.weight"], checkpoint) == axes


@pytest.mark.parametrize("name", [*KERAS_LAYERS, *KERAS_PROJECTIONS])
def test_a_keras_output_is_zero_where_its_unit_is(name):
    layer, shape = (KERAS_LAYERS | KERAS_PROJECTIONS)[name]
    weight = keras_kernel(name)
    checkpoint = in_memory({f"{name}/kernel": weight}, "keras")
    axes = output_axes(checkpoint[f"{name}/kernel"], checkpoint)
    units = int(np.prod([weight.shape[axis] for axis in axes]))
    for unit in (1, units - 1):
        changed = weight.copy()
        changed[_slices(weight, axes, unit)] = 0
        layer.kernel.assign(changed)
        outputs = np.asarray(layer(np.random.default_rng(0).random(shape, np.float32)))
        outputs = outputs.reshape(-1, units)  # a head's outputs follow one another
        assert [not channel.any() for channel in outputs.T] == [n == unit for n in range(units)]


@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_torch_fans_are_those_of_its_initialisers(name):
    weight = TORCH_LAYERS[name][0].weight.detach()
    full, checkpoint = torch_checkpoint(name, weight.numpy(), "safetensors")
    truth = nn.init._calculate_fan_in_and_fan_out(weight)
    assert fans(checkpoint[full], checkpoint) == truth


@pytest.mark.parametrize("name", KERAS_LAYERS)
def test_keras_fans_are_those_of_its_initialisers(name):
    kernel = keras_kernel(name)
    checkpoint = in_memory({f"{name}/kernel": kernel}, "safetensors")
    assert fans(checkpoint[f"{name}/kernel"], checkpoint) == compute_fans(kernel.shape)


def test_recurrent_fans_are_those_of_one_gate():
    lstm = nn.LSTM(5, 6, num_layers=2, proj_size=3)
    arrays = {f"rnn.{name}": value.detach().numpy() for name, value in lstm.named_parameters()}
    checkpoint = in_memory(arrays, "torch zip")
    assert fans(checkpoint["rnn.weight_ih_l0"], checkpoint) == (5, 6)
    assert fans(checkpoint["rnn.weight_hh_l1"], checkpoint) == (3, 6)
    assert hidden_size(checkpoint["rnn.bias_ih_l1"], checkpoint) == 6
    gru = keras.layers.GRU(6)
    gru.build((None, 4, 5))
    checkpoint = in_memory({f"rnn/{v.name}": np.array(v) for v in gru.weights}, "keras")
    assert fans(checkpoint["rnn/kernel"], checkpoint) == (5, 6)
    assert fans(checkpoint["rnn/recurrent_kernel"], checkpoint) == (6, 6)


def test_attention_fans_are_those_of_one_projection():
    attention = nn.MultiheadAttention(8, 2)
    arrays = {f"a.{name}": value.detach().numpy() for name, value in attention.named_parameters()}
    checkpoint = in_memory(arrays, "torch zip")
    assert fans(checkpoint["a.in_proj_weight"], checkpoint) == (8, 8)
    layer = keras.layers.MultiHeadAttention(2, 5, name="a")
    layer.build((None, 4, 8), (None, 4, 8))
    checkpoint = in_memory({v.path: np.array(v) for v in layer.weights}, "keras")
    assert fans(checkpoint["a/query/kernel"], checkpoint) == (8, 10)
    assert fans(checkpoint["a/attention_output/kernel"], checkpoint) == (10, 8)
    assert {t.kind for t in checkpoint} == {"attention"}


def test_gpt2_conv1d_is_stored_in_by_out_under_a_torch_name():
    """Shapes of transformers' GPT2Model: Conv1D keeps (in, out), nanoGPT's Linear (out, in)."""
    width = 8

    def block(transposed: bool) -> dict[str, np.ndarray]:
        shapes = {"attn.c_attn": (3 * width, width), "attn.c_proj": (width, width)}
        shapes |= {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
        arrays = {}
        for name, (outputs, inputs) in shapes.items():
            shape = (inputs, outputs) if transposed else (outputs, inputs)
            arrays[f"h.0.{name}.weight"] = np.zeros(shape, np.float32)
            arrays[f"h.0.{name}.bias"] = np.zeros(outputs, np.float32)
        return arrays

    for transposed, layout in ((True, "keras"), (False, "torch")):
        checkpoint = in_memory(block(transposed), "torch zip")
        weights = [tensor for tensor in checkpoint if tensor.role == "weight"]
        assert [layout_of(tensor, checkpoint) for tensor in weights] == [layout] * 4
        assert [fans(tensor, checkpoint) for tensor in weights] == [
            (8, 24),
            (8, 8),
            (8, 32),
            (32, 8),
        ]


def test_a_lone_square_conv1d_has_no_layout():
    checkpoint = in_memory({"h.attn.c_proj.weight": np.zeros((8, 8), np.float32)}, "torch zip")
    tensor = checkpoint["h.attn.c_proj.weight"]
    assert layout_of(tensor, checkpoint) == "unknown"
    assert fans(tensor, checkpoint) is None
    assert output_axes(tensor, checkpoint) is None


@pytest.mark.parametrize(
    ("name", "format", "layout"),
    [
        ("a.weight", "safetensors", "torch"),
        ("a/kernel", "safetensors", "keras"),
        ("params.d1.kernel", "safetensors", "keras"),
        ("a/weights", "tensorflow bundle", "keras"),
        ("a.token", "torch zip", "torch"),
        ("a.token", "safetensors", "unknown"),
    ],
)
def test_layout_follows_the_name_then_the_format(name, format, layout):
    checkpoint = in_memory({name: np.zeros((4, 3, 2), np.float32)}, format)
    assert layout_of(checkpoint[name], checkpoint) == layout


def test_a_bias_beside_a_keras_kernel_is_keras_in_every_container():
    arrays = {
        "lstm/lstm_cell/kernel": np.zeros((16, 32), np.float32),
        "lstm/lstm_cell/bias": np.zeros(32, np.float32),
        "dense/kernel:0": np.zeros((8, 3), np.float32),
        "dense/bias:0": np.zeros(3, np.float32),
        "conv.kernel": np.zeros((3, 3, 1, 8), np.float32),
        "conv.bias": np.zeros(8, np.float32),
        "p_re_lu/alpha": np.zeros((1, 1, 5), np.float32),
    }
    for format in ("npz", "safetensors", "torch-zip", "keras_archive"):
        checkpoint = in_memory(arrays, format)
        assert {layout_of(tensor, checkpoint) for tensor in checkpoint} == {"keras"}, format


def test_dotted_names_of_torch_keep_their_layout_in_a_tensorflow_file():
    arrays = {
        "encoder.q.weight": np.zeros((8, 32), np.float32),
        "encoder/weight": np.zeros((8, 32), np.float32),
        "shared.weight": np.zeros((8, 32), np.float32),
        "weight": np.zeros((8, 32), np.float32),
    }
    checkpoint = in_memory(arrays, "tensorflow")
    layouts = [layout_of(tensor, checkpoint) for tensor in checkpoint]
    assert layouts == ["torch", "keras", "torch", "keras"]
