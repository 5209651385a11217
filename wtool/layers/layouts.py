"""Which axis of a weight means what: layout, output axis, fans.

Sources: torch 2.13 `nn/init.py` `_calculate_fan_in_and_fan_out`; Keras 3
`initializers/random_initializers.py` `compute_fans`; the layouts study, checked in both frameworks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from wtool.layers.names import split_leaf

if TYPE_CHECKING:
    from wtool.checkpoint import Checkpoint, Tensor

Layout = Literal["torch", "keras", "unknown"]

# Last components that only one family of frameworks uses.
_KERAS_LEAVES = frozenset(
    (
        "kernel",
        "recurrent_kernel",
        "depthwise_kernel",
        "pointwise_kernel",
        "depthwise_weights",
        "pointwise_weights",
        "embeddings",
    )
)
_TORCH_LEAVES = frozenset(("weight", "in_proj_weight", "weight_orig", "weight_v", "weight_g"))
_TORCH_STARTS = ("weight_ih", "weight_hh", "weight.original", "q_proj_weight", "k_proj_weight")
_KERAS_FORMATS = ("keras", "tensorflow", "tf", "hdf5", "h5", "saved_model", "savedmodel")
_METADATA_LAYOUTS: dict[str, Layout] = {"pt": "torch", "tf": "keras", "flax": "keras"}
# GPT-2's "Conv1D": a dense layer stored (in, out) under PyTorch names. Where its own bias cannot
# tell (square weights), a sibling of the same block does: last component -> siblings.
_CONV1D = {"c_proj": ("c_attn", "c_fc"), "c_attn": (), "c_fc": (), "q_attn": ("c_attn",)}


def layout_of(tensor: Tensor, checkpoint: Checkpoint) -> Layout:
    """Axis convention of a weight: "torch" (out, in, k..), "keras" (k.., in, out), or "unknown".

    Decided by the last component of the name, a bias by that of its weight, then by the file's
    format. A dense weight of a PyTorch file whose bias is as long as its last axis, not its first,
    is stored (in, out): GPT-2's Conv1D. PyTorch's dotted names keep their layout in a TensorFlow
    file. The law: the answer depends on names and shapes only, never on values.
    """
    module, leaf = split_leaf(tensor.name)
    if leaf in _KERAS_LEAVES:
        return "keras"
    if leaf == "weight" and len(tensor.shape) == 2:
        return _matrix_layout(module, tensor, checkpoint)
    if leaf in _TORCH_LEAVES or leaf.startswith(_TORCH_STARTS):
        return "torch"
    # PyTorch joins the names of modules by dots, Keras and TensorFlow by slashes.
    if "/" in tensor.name or (leaf == "bias" and _is_beside_kernel(tensor, checkpoint)):
        return "keras"
    return _format_layout(checkpoint)


def output_axes(tensor: Tensor, checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """Axes whose slices are the output units of a tensor, one after the other; None if not known.

    One axis as a rule. Two in Keras, where a unit is a channel and a filter of it, or a head and a
    place in it: a depthwise kernel (k.., channels, multiplier), a projection of attention (in,
    heads, width). Embeddings: the rows. A rank-1 tensor: its only axis. Units count in C order.
    None for a transposed convolution in groups: a unit is a channel of some rows, not of all.
    """
    rank = len(tensor.shape)
    if rank <= 1:
        return (0,) if rank else None
    if tensor.kind == "embedding":
        return (0,)
    layout = layout_of(tensor, checkpoint)
    if layout == "unknown":
        return None
    if layout == "torch":
        if tensor.kind == "transposed_conv":
            return None if _is_grouped(tensor, checkpoint) else (1,)
        return (0,)
    leaf = split_leaf(tensor.name)[1]
    if leaf.startswith("depthwise_") or (tensor.kind == "depthwise" and leaf[:10] != "pointwise_"):
        return (rank - 2, rank - 1) if tensor.shape[-1] > 1 else (rank - 2,)
    if tensor.kind == "transposed_conv":
        return (rank - 2,)
    if _is_projection(tensor, layout) and not _is_output(tensor):
        return 1, 2
    return (rank - 1,)


def unit_box(
    shape: tuple[int, ...], axes: tuple[int, ...], unit: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(first index, index behind the last) of one output unit along `axes`."""
    low, high = [0] * len(shape), list(shape)
    for axis in reversed(axes):
        unit, low[axis] = divmod(unit, shape[axis])
        high[axis] = low[axis] + 1
    return tuple(low), tuple(high)


def fans(tensor: Tensor, checkpoint: Checkpoint) -> tuple[int, int] | None:
    """(fan_in, fan_out) of a weight as its framework counts them; None where they are not known.

    None for vectors, empty tensors and unknown layouts. Convolutions multiply by the kernel's size;
    groups show in the stored shape, so fan_in is per group. Transposed convolutions count as their
    framework does: both take the axis that a plain convolution would have for input, which here is
    the output. Recurrent weights count per gate, the packed projection of attention per
    projection, Keras' attention kernels over all heads.
    """
    shape = tensor.shape
    if len(shape) < 2 or not tensor.count:
        return None
    layout = layout_of(tensor, checkpoint)
    if layout == "unknown":
        return None
    leaf = split_leaf(tensor.name)[1]
    if tensor.kind == "recurrent" and len(shape) == 2:
        gates = _gates(leaf, tensor, checkpoint)
        fan_in, fan_out = (shape[1], shape[0]) if layout == "torch" else shape
        return fan_in, fan_out // gates
    if leaf == "in_proj_weight":
        return shape[1], shape[0] // 3
    if _is_projection(tensor, layout):
        if _is_output(tensor):
            return shape[0] * shape[1], shape[2]
        return shape[0], shape[1] * shape[2]
    return initialiser_fans(shape, layout)


def _is_projection(tensor: Tensor, layout: Layout) -> bool:
    """Whether a tensor is a kernel of Keras' attention: (in, heads, width), (heads, width, out)."""
    return tensor.kind == "attention" and layout == "keras" and len(tensor.shape) == 3


def _is_grouped(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """Whether a transposed kernel (in, out / groups, k..) has groups, as far as its bias tells."""
    module, _ = split_leaf(tensor.name)
    bias = checkpoint.tensors.get(f"{module}.bias")
    return bias is not None and bias.count != tensor.shape[1]


def _is_output(tensor: Tensor) -> bool:
    return "output" in split_leaf(tensor.name)[0].rpartition("/")[2]


def initialiser_fans(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """(fan_in, fan_out) that an initialiser of the framework computes from the shape alone."""
    if layout == "keras":
        window = math.prod(shape[:-2])
        return shape[-2] * window, shape[-1] * window
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _is_beside_kernel(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """Whether the layer of a bias has a weight that only Keras calls so, in whichever container."""
    module, leaf = split_leaf(tensor.name)
    prefix = tensor.name[: len(module) + 1] if module else ""
    suffix = tensor.name[len(prefix) + len(leaf) :]
    return any(f"{prefix}{other}{suffix}" in checkpoint.tensors for other in _KERAS_LEAVES)


def _matrix_layout(module: str, tensor: Tensor, checkpoint: Checkpoint) -> Layout:
    """Layout of a rank-2 `weight`: PyTorch's, unless it is a Conv1D."""
    rows, columns = tensor.shape
    separator = "/" if "/" in module else "."
    parent, _, last = module.rpartition(separator)
    bias = checkpoint.tensors.get(f"{module}{separator}bias")
    if bias is not None and len(bias.shape) == 1 and rows != columns:
        if bias.count == columns:
            return "keras"
        return "torch" if bias.count == rows else "unknown"
    if last not in _CONV1D:
        if "." in tensor.name and "/" not in tensor.name:
            return "torch"
        return "torch" if _format_layout(checkpoint) != "keras" else "keras"
    for sibling in (*_CONV1D[last], last):
        other = checkpoint.tensors.get(f"{parent}{separator}{sibling}{separator}weight")
        if other is not None and len(other.shape) == 2 and other.shape[0] != other.shape[1]:
            wide = other.shape[1] > other.shape[0]
            # c_attn, c_fc widen: (n, 3n) and (n, 4n) when stored (in, out).
            return "keras" if wide != (sibling == "c_proj") else "torch"
    return "unknown"


def _format_layout(checkpoint: Checkpoint) -> Layout:
    """The layout that the format of a file implies."""
    name = checkpoint.format.lower()
    if any(part in name for part in _KERAS_FORMATS):
        return "keras"
    if "torch" in name:
        return "torch"
    return _METADATA_LAYOUTS.get(str(checkpoint.metadata.get("format", "")), "unknown")


def _gates(leaf: str, tensor: Tensor, checkpoint: Checkpoint) -> int:
    """Gates stacked in a recurrent weight, 4 (LSTM), 3 (GRU) or 1, from the recurrent shape."""
    hidden = hidden_size(tensor, checkpoint)
    outputs = tensor.shape[0] if leaf.startswith("weight") else tensor.shape[-1]
    return outputs // hidden if hidden and outputs % hidden == 0 else 1


def hidden_size(tensor: Tensor, checkpoint: Checkpoint) -> int | None:
    """Units of the recurrent layer that `tensor` is of, None where its sibling is not there."""
    module, leaf = split_leaf(tensor.name)
    separator = "/" if "/" in tensor.name else "."
    prefix = f"{module}{separator}" if module else ""
    tensors = checkpoint.tensors
    if not leaf.startswith(("weight_", "bias_")):
        own = tensors.get(f"{prefix}recurrent_kernel")
        return own.shape[0] if own is not None and len(own.shape) == 2 else None
    hidden = leaf.replace("bias_", "weight_", 1).replace("_ih", "_hh", 1)
    # With a projection (proj_size) the recurrent weight is as wide as the projection.
    for name in (hidden.replace("_hh", "_hr", 1), hidden):
        own = tensors.get(prefix + name)
        if own is not None and len(own.shape) == 2:
            return own.shape[1]
    return None
