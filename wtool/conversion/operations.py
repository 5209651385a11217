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

from wtool.conversion.derived import Derived
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


def take_single(inputs: Extents, text: str) -> Extent:
    """The one input; UnsupportedError where there are more."""
    if len(inputs) != 1:
        raise UnsupportedError(f"'{text}' takes one tensor", found=len(inputs))
    return inputs[0]


def refuse_shape(text: str, expected: object, shape: Sequence[int]) -> UnsupportedError:
    """The error of a tensor whose form an operation does not take."""
    return UnsupportedError(f"'{text}' does not fit", expected=expected, found=list(shape))


def derive(
    base: Extent, shape: Sequence[int], compute: Callable[..., np.ndarray], text: str
) -> Extent:
    """An extent of another shape over all values of `base`."""
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
        return derive(extent, shape, lambda values: values.transpose(order), text)

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
        return derive(extent, target, lambda values: values.reshape(target), "reshape")

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
        return derive(extent, target, lambda values: values.reshape(target), "reshape")

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
        return derive(extent, target, lambda values: values.reshape(target), "reshape")

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
        extent = take_single(inputs, self.text)
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
        return (derive(extent, sizes, lambda values: values.reshape(sizes), "reshape"),)

    def inverse(self) -> Operation:
        """See Operation."""
        return replace(self, undo=not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        if self.undo:
            return [None]
        return None if self.shape is None else [None if n < 0 else n for n in self.shape]


def _fit(sizes: Sequence[int], count: int) -> tuple[int, ...] | None:
    """`sizes` with -1 filled in so that their product is `count`, None where none fits."""
    known = math.prod(n for n in sizes if n >= 0)
    if -1 not in sizes:
        return tuple(sizes) if known == count else None
    if not known or count % known:
        return None
    return tuple(count // known if n < 0 else n for n in sizes)
