"""Arithmetic of shapes and strides: bounds, C order, spans, and boxes that cover a range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from wtool.errors import MalformedInput

MAX_RANK = 64
INT64_MAX = (1 << 63) - 1


def check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` as a tuple; MalformedInput beyond 64 sizes or int64, or for a negative size."""
    if len(shape) > MAX_RANK:
        raise MalformedInput(
            "too many dimensions", expected=f"at most {MAX_RANK}", found=len(shape)
        )
    count = 1  # of the sizes that are not 0: what is left must not wrap round either
    for size in shape:
        if type(size) is not int or size < 0:
            raise MalformedInput("bad dimension", expected="integers from 0 on", found=shape)
        count *= size or 1
    if count > INT64_MAX:
        raise MalformedInput("too many elements", expected="at most 2^63 - 1", found=shape)
    return tuple(shape)


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous array in C order."""
    if len(shape) == 1:
        return (1,)
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size or 1
    return tuple(reversed(strides))


def element_span(shape: Sequence[int], strides: Sequence[int], first: int) -> tuple[int, int]:
    """(lowest, highest + 1) element index that a strided view touches; equal for none."""
    low = high = first
    for size, stride in zip(shape, strides, strict=False):  # `strict` is slow; ranks are equal
        if size == 0:
            return first, first
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + 1


def boxes(
    shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """Hyper-rectangles that cover elements [start, stop) of `shape` in C order.

    Yields (starts, stops, first, last): the box, and the flat range it holds. At most 2 * rank - 1.
    """
    if not shape:
        if stop > start:
            yield (), (), start, stop
        return
    inner = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    position = start
    while position < stop:
        # The outermost axis along which a whole step starts here and fits before `stop`.
        axis = next(
            i for i in range(len(shape)) if position % inner[i] == 0 and position + inner[i] <= stop
        )
        index = [position // inner[i] % shape[i] for i in range(axis + 1)]
        steps = min((stop - position) // inner[axis], shape[axis] - index[axis])
        starts = (*index, *(0 for _ in shape[axis + 1 :]))
        stops = (*(i + 1 for i in index[:-1]), index[-1] + steps, *shape[axis + 1 :])
        last = position + steps * inner[axis]
        yield starts, stops, position, last
        position = last
