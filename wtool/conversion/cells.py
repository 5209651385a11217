"""Operations that recurrent cells and weight normalisation need; most of them lose something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wtool.conversion.derived import Derived, Joined
from wtool.conversion.operations import Extents, Operation, Sizes, refuse_shape
from wtool.conversion.pieces import check_same_rest, slice_axis
from wtool.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SumBiases:
    """Two biases that are only ever added become their sum; back: the sum and zeros."""

    undo: bool = False

    @property
    def text(self) -> str:
        return "bias and zeros" if self.undo else "sum"

    @property
    def lossy(self) -> str:
        return "" if self.undo else "sum-of-biases"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        if self.undo:
            return (inputs[0], _constant_like(inputs[0]))
        if len(inputs) != 2:
            raise UnsupportedError("'sum' takes two tensors", found=len(inputs))
        check_same_rest(inputs, None, self.text)
        return (Derived(inputs[0].dtype, inputs[0].shape, inputs, _add, "sum"),)

    def inverse(self) -> Operation:
        """See Operation."""
        return SumBiases(not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return sizes


def _add(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    import numpy

    # Adding nothing changes no bit: -0.0 + 0.0 would be 0.0.
    return numpy.where(other == 0, one, one + other).astype(one.dtype)


def _constant_like(extent: object) -> Derived:
    import numpy

    from wtool.extents import Extent

    if not isinstance(extent, Extent):
        raise TypeError("no extent")
    shape, carrier = extent.shape, extent.dtype.carrier
    return Derived(extent.dtype, shape, (), lambda: numpy.zeros(shape, carrier), object())


@dataclass(frozen=True)
class ShiftGate:
    """`amount` is added to block `block` of `blocks` along the only axis (TF1's forget bias)."""

    block: int
    blocks: int
    amount: float

    @property
    def text(self) -> str:
        return f"shift {self.block} {self.blocks} {self.amount:g}"

    @property
    def lossy(self) -> str:
        return "forget-bias" if self.amount else ""

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        if len(inputs) != 1:
            raise UnsupportedError(f"'{self.text}' takes one tensor", found=len(inputs))
        extent = inputs[0]
        if len(extent.shape) != 1 or extent.shape[0] % self.blocks:
            raise refuse_shape(self.text, f"a vector of {self.blocks} blocks", extent.shape)
        if not self.amount:
            return inputs
        size = extent.shape[0] // self.blocks
        first, amount = self.block * size, self.amount

        def compute(values: np.ndarray) -> np.ndarray:
            shifted = values.copy()
            # In double precision: rounded once.
            wide = shifted[first : first + size].astype("float64") + amount
            shifted[first : first + size] = wide.astype(values.dtype)
            return shifted

        return (Derived(extent.dtype, extent.shape, inputs, compute, self.text),)

    def inverse(self) -> Operation:
        """See Operation; rounding may differ in the last bit."""
        return ShiftGate(self.block, self.blocks, -self.amount)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return sizes if len(sizes) == 1 else None


@dataclass(frozen=True)
class JoinCell:
    """Input and recurrent weights (g*u, d) and (g*u, u) become (g*u, d + u), input first.

    undo: taken apart again; u is known from the g gates. axis: 1 as described, 0 for transposes.
    """

    gates: int
    axis: int = 1
    undo: bool = False
    lossy = ""

    @property
    def text(self) -> str:
        return f"{'unjoin-cell' if self.undo else 'join-cell'} {self.gates} {self.axis}"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        if self.undo:
            return self._split(inputs)
        if len(inputs) != 2:
            raise UnsupportedError(f"'{self.text}' takes two tensors", found=len(inputs))
        check_same_rest(inputs, self.axis, self.text)
        hidden = inputs[1].shape
        if len(hidden) != 2 or hidden[1 - self.axis] != self.gates * hidden[self.axis]:
            raise refuse_shape(self.text, f"{self.gates} gates as wide as the state", hidden)
        return (Joined(inputs, self.axis),)

    def _split(self, inputs: Extents) -> Extents:
        extent = inputs[0]
        shape = extent.shape
        if len(inputs) != 1 or len(shape) != 2 or shape[1 - self.axis] % self.gates:
            raise refuse_shape(self.text, f"a matrix of {self.gates} gates", shape)
        units = shape[1 - self.axis] // self.gates
        width = shape[self.axis] - units
        if width < 0:
            raise refuse_shape(self.text, f"at least {units} along axis {self.axis}", shape)
        return (
            slice_axis(extent, self.axis, 0, width),
            slice_axis(extent, self.axis, width, units),
        )

    def inverse(self) -> Operation:
        """See Operation."""
        return JoinCell(self.gates, self.axis, not self.undo)

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return [None, None] if len(sizes) == 2 else None


@dataclass(frozen=True)
class FoldWeightNorm:
    """Magnitude g and direction v become the weight g * v / norm(v); there is no way back.

    The norm is over the axes along which g has one element, as `torch._weight_norm` takes it.
    """

    lossy = "weight-norm"
    text = "fold-weight-norm"

    def apply(self, inputs: Extents) -> Extents:
        """See Operation."""
        if len(inputs) != 2:
            raise UnsupportedError("'fold-weight-norm' takes two tensors", found=len(inputs))
        magnitude, direction = inputs
        fits = magnitude.dtype is direction.dtype and (
            magnitude.shape == ()
            or (
                len(magnitude.shape) == len(direction.shape)
                and all(n in (1, m) for n, m in zip(magnitude.shape, direction.shape, strict=True))
            )
        )
        if not fits:
            raise refuse_shape(self.text, f"shapes like {list(direction.shape)}", magnitude.shape)
        shape = direction.shape
        return (Derived(direction.dtype, shape, inputs, _fold, self.text),)

    def inverse(self) -> None:
        """None: many pairs fold to one weight."""

    def trace(self, sizes: Sizes) -> Sizes | None:
        """See Operation."""
        return sizes


def _fold(magnitude: np.ndarray, direction: np.ndarray) -> np.ndarray:
    import numpy

    axes = tuple(i for i in range(direction.ndim) if magnitude.ndim == 0 or magnitude.shape[i] == 1)
    square = numpy.square(direction, dtype=numpy.float64).sum(axis=axes, keepdims=True)
    scale = magnitude.astype(numpy.float64) / numpy.sqrt(square)
    return (direction * scale).astype(direction.dtype)
