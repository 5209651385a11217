"""Reversible operations between one tensor and several: split, concatenated, stacked, reordered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wtool.conversion.derived import Joined, Sliced
from wtool.conversion.operations import (
    Extents,
    Operation,
    Sizes,
    derive,
    refuse_shape,
    take_single,
)
from wtool.errors import UnsupportedError
from wtool.extents import Extent


@dataclass(frozen=True)
class Split:
    """One tensor becomes several along `axis`, in the proportions `shares`."""

    axis: int
    shares: tuple[int, ...]
    lossy = ""

    @property
    def text(self) -> str:
        return f"split {self.axis} {':'.join(map(str, self.shares))}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        extent = take_single(inputs, self.text)
        shape = extent.shape
        total = sum(self.shares)
        if self.axis >= len(shape) or shape[self.axis] % total:
            raise refuse_shape(self.text, f"axis {self.axis} divisible by {total}", shape)
        unit = shape[self.axis] // total
        pieces: list[Extent] = []
        origin = 0
        for share in self.shares:
            pieces.append(slice_axis(extent, self.axis, origin, share * unit))
            origin += share * unit
        return tuple(pieces)

    def inverse(self) -> Operation:
        """See Operation."""
        return Concat(self.axis, self.shares)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation: sizes of each part."""
        return _open_axis(sizes, self.axis)


@dataclass(frozen=True)
class Concat:
    """Several tensors in the proportions `shares` become one along `axis`."""

    axis: int
    shares: tuple[int, ...]
    lossy = ""

    @property
    def text(self) -> str:
        return f"concat {self.axis} {':'.join(map(str, self.shares))}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        if len(inputs) != len(self.shares):
            raise UnsupportedError(
                f"'{self.text}' takes {len(self.shares)} tensors", found=len(inputs)
            )
        check_same_rest(inputs, self.axis, self.text)
        total = sum(extent.shape[self.axis] for extent in inputs)
        for extent, share in zip(inputs, self.shares, strict=True):
            if extent.shape[self.axis] * sum(self.shares) != total * share:
                raise refuse_shape(
                    self.text, f"axis {self.axis} in these proportions", extent.shape
                )
        return (Joined(inputs, self.axis),)

    def inverse(self) -> Operation:
        """See Operation."""
        return Split(self.axis, self.shares)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return _open_axis(sizes, self.axis)


@dataclass(frozen=True)
class Stack:
    """`parts` tensors of one shape along a new axis; undo: the tensors along that axis."""

    axis: int
    parts: int
    undo: bool = False
    lossy = ""

    @property
    def text(self) -> str:
        return f"{'unstack' if self.undo else 'stack'} {self.axis} {self.parts}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        return self._unstack(take_single(inputs, self.text)) if self.undo else self._stack(inputs)

    def _stack(self, inputs: Extents) -> Extents:
        if len(inputs) != self.parts or self.axis > len(inputs[0].shape):
            raise UnsupportedError(f"'{self.text}' takes {self.parts} tensors", found=len(inputs))
        check_same_rest(inputs, None, self.text)
        shape = (*inputs[0].shape[: self.axis], 1, *inputs[0].shape[self.axis :])
        lifted = [
            derive(extent, shape, lambda values: values.reshape(shape), "reshape")
            for extent in inputs
        ]
        return (Joined(lifted, self.axis),)

    def _unstack(self, extent: Extent) -> Extents:
        shape = extent.shape
        if self.axis >= len(shape) or shape[self.axis] != self.parts:
            raise refuse_shape(self.text, f"axis {self.axis} of {self.parts}", shape)
        rest = (*shape[: self.axis], *shape[self.axis + 1 :])
        return tuple(
            derive(
                slice_axis(extent, self.axis, i, 1),
                rest,
                lambda values: values.reshape(rest),
                "reshape",
            )
            for i in range(self.parts)
        )

    def inverse(self) -> Operation:
        """See Operation."""
        return replace(self, undo=not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if self.axis > len(sizes) - self.undo:
            return None
        if self.undo:
            return [*sizes[: self.axis], *sizes[self.axis + 1 :]]
        return [*sizes[: self.axis], self.parts, *sizes[self.axis :]]


@dataclass(frozen=True)
class Gates:
    """Equal blocks along `axis` in another order: block i of the result is block order[i]."""

    axis: int
    order: tuple[int, ...]
    lossy = ""

    @property
    def text(self) -> str:
        return f"gates {self.axis} {' '.join(map(str, self.order))}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation; each of several tensors is reordered."""
        return tuple(self._reorder(extent) for extent in inputs)

    def _reorder(self, extent: Extent) -> Extent:
        blocks = Split(self.axis, (1,) * len(self.order)).apply((extent,))
        return Joined([blocks[i] for i in self.order], self.axis)

    def inverse(self) -> Operation:
        """See Operation."""
        return Gates(self.axis, tuple(self.order.index(i) for i in range(len(self.order))))

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return sizes if self.axis < len(sizes) else None


def slice_axis(extent: Extent, axis: int, start: int, size: int) -> Extent:
    """`size` places of one axis, from `start` on."""
    starts = [0] * len(extent.shape)
    starts[axis] = start
    return Sliced(extent, starts, (*extent.shape[:axis], size, *extent.shape[axis + 1 :]))


def check_same_rest(inputs: Extents, axis: int | None, text: str) -> None:
    """UnsupportedError unless all inputs have one type, and one shape but for `axis`."""
    first = inputs[0]
    if axis is not None and axis >= len(first.shape):
        raise refuse_shape(text, f"more than {axis} axes", first.shape)
    for extent in inputs:
        if extent.dtype is not first.dtype:
            raise UnsupportedError(
                f"'{text}' takes tensors of one type",
                expected=first.dtype.name,
                found=extent.dtype.name,
            )
        same = len(extent.shape) == len(first.shape) and all(
            i == axis or n == m
            for i, (n, m) in enumerate(zip(extent.shape, first.shape, strict=False))
        )
        if not same:
            raise refuse_shape(text, f"shapes like {list(first.shape)}", extent.shape)


def _open_axis(sizes: Sizes, axis: int) -> Sizes | None:
    return None if axis >= len(sizes) else [*sizes[:axis], None, *sizes[axis + 1 :]]
