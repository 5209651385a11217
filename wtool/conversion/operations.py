"""Reversible operations on layouts: what is done to a tensor's axes between two frameworks.

Each takes a tuple of extents and gives a tuple of extents, lazily. `inverse` undoes it; an
operation that cannot be undone bit for bit says so in `lossy`, one that cannot be undone at all has
no inverse. None falls back to a reshape that merely fits: a tensor of another form is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from wtool.conversion.derived import Derived, Joined, Sliced
from wtool.errors import UnsupportedError
from wtool.extents import Extent

if TYPE_CHECKING:
    import numpy as np

Extents = tuple[Extent, ...]
# Sizes of the axes as far as the text of an operation tells; None where only the tensor does.
Sizes = list[int | None]


class Operation(Protocol):
    """One step. text: as written in a mapping file. lossy: what it loses, "" for nothing."""

    @property
    def text(self) -> str: ...
    @property
    def lossy(self) -> str: ...
    def apply(self, inputs: Extents) -> Extents:
        """The outputs; UnsupportedError where a shape or the number of inputs does not fit."""
        ...

    def inverse(self) -> Operation | None:
        """The operation that undoes this one, None where there is none."""
        ...

    def trace(self, sizes: Sizes) -> Sizes | None:
        """Sizes after the operation, None where it cannot apply to that rank."""
        ...


def apply_all(operations: Sequence[Operation], inputs: Extents) -> Extents:
    """The operations one after another."""
    for operation in operations:
        inputs = operation.apply(inputs)
    return inputs


def invert_all(operations: Sequence[Operation]) -> tuple[Operation, ...] | None:
    """What undoes the operations, None where one of them cannot be undone."""
    inverses = [operation.inverse() for operation in reversed(operations)]
    return None if None in inverses else tuple(op for op in inverses if op is not None)


def complete(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations with the sizes of every `flatten` known where the steps before tell them.

    One size may stay open: it follows from the tensor. Where more are open the flatten is kept as
    it is, and has no inverse.
    """
    if not any(isinstance(op, Flatten) for op in operations):
        return tuple(operations)
    results = {tuple(r) for rank in range(9) if (r := _trace_rank(operations, rank)) is not None}
    return results.pop() if len(results) == 1 else tuple(operations)


def _trace_rank(operations: Sequence[Operation], rank: int) -> list[Operation] | None:
    sizes: Sizes | None = [None] * rank
    done: list[Operation] = []
    for operation in operations:
        if isinstance(operation, Flatten) and sizes is not None and operation.last < len(sizes):
            known = tuple(
                -1 if n is None else n for n in sizes[operation.first : operation.last + 1]
            )
            if not operation.sizes and known.count(-1) <= 1:
                operation = replace(operation, sizes=known)
        done.append(operation)
        sizes = operation.trace(sizes) if sizes is not None else None
        if sizes is None:
            return None
    return done


def _single(inputs: Extents, text: str) -> Extent:
    if len(inputs) != 1:
        raise UnsupportedError(f"'{text}' takes one tensor", found=len(inputs))
    return inputs[0]


def refuse_shape(text: str, expected: object, shape: Sequence[int]) -> UnsupportedError:
    return UnsupportedError(f"'{text}' does not fit", expected=expected, found=list(shape))


def _derive(
    base: Extent, shape: Sequence[int], compute: Callable[..., np.ndarray], text: str
) -> Extent:
    return Derived(base.dtype, tuple(shape), (base,), compute, (text, tuple(shape)))


@dataclass(frozen=True)
class Permute:
    """Axes in another order. axes: source axes; ... stands for all that are not named, in order.

    A rank other than that of the text is refused. undo: the inverse order is meant.
    """

    axes: tuple[int, ...]
    rest_at: int | None = None
    undo: bool = False
    lossy = ""

    @property
    def text(self) -> str:
        words = [str(axis) for axis in self.axes]
        if self.rest_at is not None:
            words.insert(self.rest_at, "...")
        return f"{'unpermute' if self.undo else 'permute'} {' '.join(words)}"

    def order(self, rank: int) -> tuple[int, ...] | None:
        """Source axis of each axis of the result, None for a rank that does not fit."""
        if self.rest_at is None:
            axes = list(self.axes)
        else:
            rest = [axis for axis in range(rank) if axis not in self.axes]
            axes = [*self.axes[: self.rest_at], *rest, *self.axes[self.rest_at :]]
        if sorted(axes) != list(range(rank)):
            return None
        return tuple(axes.index(i) for i in range(rank)) if self.undo else tuple(axes)

    def apply(self, inputs: Extents) -> Extents:
        """See Operation; each of several tensors is permuted."""
        return tuple(self._permute(extent) for extent in inputs)

    def _permute(self, extent: Extent) -> Extent:
        order = self.order(len(extent.shape))
        if order is None:
            raise refuse_shape(self.text, f"rank {len(self.axes)}", extent.shape)
        if order == tuple(range(len(order))):
            return extent
        shape = [extent.shape[axis] for axis in order]
        text = f"permute {' '.join(map(str, order))}"
        return _derive(extent, shape, lambda values: values.transpose(order), text)

    def inverse(self) -> Operation:
        """See Operation."""
        return replace(self, undo=not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        order = self.order(len(sizes))
        return None if order is None else [sizes[axis] for axis in order]


@dataclass(frozen=True)
class Unflatten:
    """One axis becomes several; one of `sizes` may be -1."""

    axis: int
    sizes: tuple[int, ...]
    lossy = ""

    @property
    def text(self) -> str:
        return f"unflatten {self.axis} {' '.join(map(str, self.sizes))}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation; each of several tensors is reshaped."""
        return tuple(self._reshape(extent) for extent in inputs)

    def _reshape(self, extent: Extent) -> Extent:
        shape = extent.shape
        if self.axis >= len(shape):
            raise refuse_shape(self.text, f"more than {self.axis} axes", shape)
        sizes = _fit(self.sizes, shape[self.axis])
        if sizes is None:
            raise refuse_shape(
                self.text, f"axis {self.axis} of {' x '.join(map(str, self.sizes))}", shape
            )
        target = (*shape[: self.axis], *sizes, *shape[self.axis + 1 :])
        return _derive(extent, target, lambda values: values.reshape(target), "reshape")

    def inverse(self) -> Operation:
        """See Operation."""
        return Flatten(self.axis, self.axis + len(self.sizes) - 1, self.sizes)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if self.axis >= len(sizes):
            return None
        made = [None if n < 0 else n for n in self.sizes]
        return [*sizes[: self.axis], *made, *sizes[self.axis + 1 :]]


@dataclass(frozen=True)
class Flatten:
    """Axes first to last become one. sizes: theirs, where known; one may be -1."""

    first: int
    last: int
    sizes: tuple[int, ...] = ()
    lossy = ""

    @property
    def text(self) -> str:
        sizes = f" of {' '.join(map(str, self.sizes))}" if self.sizes else ""
        return f"flatten {self.first} {self.last}{sizes}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation; each of several tensors is reshaped."""
        return tuple(self._reshape(extent) for extent in inputs)

    def _reshape(self, extent: Extent) -> Extent:
        shape = extent.shape
        if self.last >= len(shape):
            raise refuse_shape(self.text, f"more than {self.last} axes", shape)
        found = shape[self.first : self.last + 1]
        if self.sizes and any(n not in (-1, m) for n, m in zip(self.sizes, found, strict=True)):
            raise refuse_shape(self.text, f"axes {' x '.join(map(str, self.sizes))}", shape)
        target = (*shape[: self.first], math.prod(found), *shape[self.last + 1 :])
        return _derive(extent, target, lambda values: values.reshape(target), "reshape")

    def inverse(self) -> Operation | None:
        """See Operation; None where the sizes are not known."""
        return Unflatten(self.first, self.sizes) if self.sizes else None

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if self.last >= len(sizes):
            return None
        merged: int | None = 1
        for size in sizes[self.first : self.last + 1]:
            merged = None if merged is None or size is None else merged * size
        return [*sizes[: self.first], merged, *sizes[self.last + 1 :]]


@dataclass(frozen=True)
class Reshape:
    """From one shape that is spelled out to another; -1 once in each, for the same size."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    lossy = ""

    @property
    def text(self) -> str:
        return f"reshape {' '.join(map(str, self.source))} to {' '.join(map(str, self.target))}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation; each of several tensors is reshaped."""
        return tuple(self._reshape(extent) for extent in inputs)

    def _reshape(self, extent: Extent) -> Extent:
        shape = extent.shape
        fits = len(shape) == len(self.source) and all(
            n in (-1, m) for n, m in zip(self.source, shape, strict=True)
        )
        target = _fit(self.target, extent.count) if fits else None
        if target is None:
            raise refuse_shape(self.text, f"shape {list(self.source)}", shape)
        return _derive(extent, target, lambda values: values.reshape(target), "reshape")

    def inverse(self) -> Operation:
        """See Operation."""
        return Reshape(self.target, self.source)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if len(sizes) != len(self.source):
            return None
        return [None if n < 0 else n for n in self.target]


@dataclass(frozen=True)
class Vector:
    """A vector takes a shape in which one axis at most is longer than 1, or loses it.

    shape: of the shaped side; None where only the way back to a vector is wanted.
    """

    shape: tuple[int, ...] | None
    undo: bool = False
    lossy = ""

    @property
    def text(self) -> str:
        shown = "" if self.shape is None else " " + " ".join(map(str, self.shape))
        return f"{'ravel' if self.undo else 'vector'}{shown}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        extent = _single(inputs, self.text)
        shape = extent.shape
        if self.undo:
            if sum(n != 1 for n in shape) > 1:
                raise refuse_shape(self.text, "one axis longer than 1", shape)
            sizes: tuple[int, ...] = (extent.count,)
        else:
            if self.shape is None:
                raise UnsupportedError(
                    "the shape of the target is not known", hint="give shape = [...] in the layer"
                )
            target = _fit(self.shape, extent.count) if len(shape) == 1 else None
            if target is None or sum(n != 1 for n in target) > 1:
                raise refuse_shape(self.text, f"a vector for {list(self.shape)}", shape)
            sizes = target
        return (_derive(extent, sizes, lambda values: values.reshape(sizes), "reshape"),)

    def inverse(self) -> Operation:
        """See Operation."""
        return replace(self, undo=not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if self.undo:
            return [None]
        return None if self.shape is None else [None if n < 0 else n for n in self.shape]


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
        extent = _single(inputs, self.text)
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
        return self._unstack(_single(inputs, self.text)) if self.undo else self._stack(inputs)

    def _stack(self, inputs: Extents) -> Extents:
        if len(inputs) != self.parts or self.axis > len(inputs[0].shape):
            raise UnsupportedError(f"'{self.text}' takes {self.parts} tensors", found=len(inputs))
        check_same_rest(inputs, None, self.text)
        shape = (*inputs[0].shape[: self.axis], 1, *inputs[0].shape[self.axis :])
        lifted = [
            _derive(extent, shape, lambda values: values.reshape(shape), "reshape")
            for extent in inputs
        ]
        return (Joined(lifted, self.axis),)

    def _unstack(self, extent: Extent) -> Extents:
        shape = extent.shape
        if self.axis >= len(shape) or shape[self.axis] != self.parts:
            raise refuse_shape(self.text, f"axis {self.axis} of {self.parts}", shape)
        rest = (*shape[: self.axis], *shape[self.axis + 1 :])
        return tuple(
            _derive(
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


def _fit(sizes: Sequence[int], count: int) -> tuple[int, ...] | None:
    """`sizes` with -1 filled in so that their product is `count`, None where none fits."""
    known = math.prod(n for n in sizes if n >= 0)
    if -1 not in sizes:
        return tuple(sizes) if known == count else None
    if not known or count % known:
        return None
    return tuple(count // known if n < 0 else n for n in sizes)


def slice_axis(extent: Extent, axis: int, start: int, size: int) -> Extent:
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
