"""Shapes behind Keras layers that reshape, join or step through their input, without the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wtool.dialects.keras_graph import Shape


def size_of(value: Any) -> int | None:
    """A size that a configuration states; None where it is none."""
    return value if type(value) is int and value >= 0 else None


def count_of(shape: Shape | None) -> int | None:
    """How many elements; None where a size is not stated."""
    count = 1
    for size in shape if shape is not None else (None,):
        if size is None:
            return None
        count *= size
    return count


def reshaped(given: Any, shape: Shape | None) -> Shape | None:
    """The shape that a Reshape gives; None where it does not say."""
    if type(given) is not list or not all(type(n) is int and n >= -1 for n in given):
        return None
    if -1 not in given or len(given) == 1:
        return tuple(given)
    total, rest = count_of(shape), count_of(tuple(n for n in given if n != -1))
    if given.count(-1) > 1 or total is None or not rest or total % rest:
        return None
    return tuple(total // rest if n == -1 else n for n in given)


def joined(shapes: list[Shape], axis: Any) -> Shape | None:
    """The shape of values joined along an axis, which counts the batch."""
    rank = len(shapes[0])
    axis = rank if axis == -1 else axis
    if type(axis) is not int or not 1 <= axis <= rank or {len(s) for s in shapes} != {rank}:
        return None
    sizes = [shape[axis - 1] for shape in shapes]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return (*shapes[0][: axis - 1], total, *shapes[0][axis:])


def recurrent_shape(config: Mapping[str, Any], shape: Shape | None) -> Shape | None:
    """The shape behind a recurrent layer: the last step, or all of them."""
    units = size_of(config.get("units"))
    if units is None:
        return None
    if config.get("return_sequences") is not True:
        return (units,)
    return None if not shape else (*shape[:-1], units)
