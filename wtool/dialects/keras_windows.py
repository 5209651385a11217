"""Shapes of pictures behind Keras's convolutions and poolings, where no file states them.

Legacy `.h5` files give the shape of the model's input and the settings of each layer, no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wtool.dialects.keras_graph import Shape

CONVOLUTIONS = (
    *(f"Conv{rank}D" for rank in (1, 2, 3)),
    *(f"Conv{rank}DTranspose" for rank in (1, 2, 3)),
    *(f"{kind}Conv{rank}D" for kind in ("Depthwise", "Separable") for rank in (1, 2)),
)
POOLINGS = tuple(f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3))
RESIZINGS = tuple(
    f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (1, 2, 3)
)


def is_first(config: Mapping[str, Any]) -> bool:
    """Whether the layer takes channels as the first axis."""
    return config.get("data_format") == "channels_first"


def shape_behind(class_name: str, config: Mapping[str, Any], shape: Shape) -> Shape | None:
    """What a layer of CONVOLUTIONS, POOLINGS or RESIZINGS makes of pictures of that shape, without
    the batch; None where its settings do not tell.
    """
    first = is_first(config)
    rank = int(class_name.removesuffix("Transpose")[-2])
    if len(shape) != rank + 1:
        return None
    window, channels = (shape[1:], shape[0]) if first else (shape[:-1], shape[-1])
    sizes = [_size(class_name, config, axis, rank, size) for axis, size in enumerate(window)]
    if any(size is not None and size < 0 for size in sizes):
        return None
    made = _channels(class_name, config, channels)
    return (made, *sizes) if first else (*sizes, made)


def _channels(class_name: str, config: Mapping[str, Any], channels: int | None) -> int | None:
    if class_name.startswith("Depthwise"):
        multiplier = _number(config.get("depth_multiplier"), 0)
        return channels * multiplier if channels is not None and multiplier is not None else None
    return _number(config.get("filters"), 0) if class_name in CONVOLUTIONS else channels


def _size(
    class_name: str, config: Mapping[str, Any], axis: int, rank: int, size: int | None
) -> int | None:
    """The length of one axis of the window."""
    if size is None:
        return None
    if class_name in RESIZINGS:
        return _resized(class_name, config, axis, rank, size)
    pooling = class_name in POOLINGS
    kernel = _number(config.get("pool_size" if pooling else "kernel_size"), axis)
    stride = _number(config.get("strides"), axis)
    stride = kernel if stride is None and pooling else stride
    dilation = 1 if pooling else _number(config.get("dilation_rate", 1), axis)
    if not kernel or not stride or not dilation:
        return None
    padding = config.get("padding")
    wide = (kernel - 1) * dilation + 1
    if class_name.endswith("Transpose"):
        if config.get("output_padding") is not None or dilation != 1:
            return None
        return size * stride + (max(kernel - stride, 0) if padding == "valid" else 0)
    if padding in ("same", "causal"):
        return -(-size // stride)
    return (size - wide) // stride + 1 if padding == "valid" else None


def _resized(
    class_name: str, config: Mapping[str, Any], axis: int, rank: int, size: int
) -> int | None:
    if class_name.startswith("UpSampling"):
        factor = _number(config.get("size"), axis)
        return None if factor is None else size * factor
    zero = class_name.startswith("ZeroPadding")
    given = config.get("padding" if zero else "cropping")
    pair = given if rank == 1 else given[axis] if type(given) is list and axis < len(given) else 0
    ends = [_number(pair, 0), _number(pair, 1)]
    if ends[0] is None or ends[1] is None:
        return None
    return size + (ends[0] + ends[1] if zero else -ends[0] - ends[1])


def _number(value: Any, axis: int) -> int | None:
    """A setting of one axis: a whole number, or one of a list."""
    if type(value) is list:
        value = value[axis] if axis < len(value) else None
    return value if type(value) is int and value >= 0 else None
