"""One tensor pasted together from pieces that cover it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wtool.dtypes import DType
from wtool.errors import MalformedInput, UnsupportedError
from wtool.extents.extent import Extent
from wtool.extents.shapes import check_shape
from wtool.sources import Source

if TYPE_CHECKING:
    import numpy as np

# Of all pieces of one tensor: 100,000 pieces along 3 axes, or a few along many.
MAX_CORNERS = 1 << 20


class Tiled(Extent):
    """One tensor pasted together from pieces that cover it exactly.

    pieces: (starts, extent) each; an extent's own shape says how far it reaches.

    Raises MalformedInput where the pieces overlap, leave a hole, reach outside, or differ in dtype.
    """

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], pieces: Sequence[tuple[tuple[int, ...], Extent]]
    ) -> None:
        self.dtype = dtype
        self.shape = check_shape(shape)
        self.pieces = tuple(pieces)
        covered = 0
        for starts, piece in self.pieces:
            stops = tuple(a + n for a, n in zip(starts, piece.shape, strict=False))
            inside = len(starts) == len(piece.shape) == len(self.shape) and all(
                0 <= a <= b <= n for a, b, n in zip(starts, stops, self.shape, strict=True)
            )
            if not inside:
                raise MalformedInput(
                    "slice outside its tensor",
                    expected=f"within {self.shape}",
                    found=f"{starts} to {stops}",
                )
            if piece.dtype is not dtype:
                raise MalformedInput(
                    "slice of another type", expected=dtype.name, found=piece.dtype.name
                )
            covered += piece.count
        if covered != self.count:
            raise MalformedInput(
                "slices do not cover the tensor", expected=self.count, found=f"{covered} elements"
            )
        if self._overlaps():
            raise MalformedInput("slices overlap")
        self.storage = tuple(piece.storage for _, piece in self.pieces)

    @property
    def sources(self) -> tuple[Source, ...]:
        """See Extent.sources."""
        found = {source.name: source for _, piece in self.pieces for source in piece.sources}
        return tuple(found.values())

    def _overlaps(self) -> bool:
        """Whether two pieces share an element, where their elements are as many as the tensor's.

        They share none exactly if their corners, counted with signs, cancel but for the tensor's
        own. That takes the same time for any arrangement; comparing pieces can be quadratic.
        """
        spans = [
            (starts, tuple(a + n for a, n in zip(starts, piece.shape, strict=True)))
            for starts, piece in self.pieces
            if piece.count
        ]
        if len(spans) < 2 or not self.shape:
            return len(spans) > 1
        axes = [
            i
            for i, size in enumerate(self.shape)
            if any(starts[i] != 0 or stops[i] != size for starts, stops in spans)
        ]
        if len(spans) << len(axes) > MAX_CORNERS:
            raise UnsupportedError(
                "tensor cut into too many pieces along too many dimensions",
                expected=f"at most {MAX_CORNERS} corners",
                found=len(spans) << len(axes),
            )
        whole = ((0,) * len(self.shape), self.shape)
        return _corners(spans, axes) != _corners([whole], axes)

    def read_box(self, starts: Sequence[int], stops: Sequence[int], out: np.ndarray) -> None:
        """See Extent.read_box."""
        for origin, piece in self.pieces:
            low = [max(a, o) for a, o in zip(starts, origin, strict=True)]
            high = [min(b, o + n) for b, o, n in zip(stops, origin, piece.shape, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                window = tuple(
                    slice(a - s, b - s) for a, b, s in zip(low, high, starts, strict=True)
                )
                piece.read_box(
                    [a - o for a, o in zip(low, origin, strict=True)],
                    [b - o for b, o in zip(high, origin, strict=True)],
                    out[window] if window else out,
                )


def _corners(
    spans: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], axes: Sequence[int]
) -> dict[tuple[int, ...], int]:
    """Corners of boxes (starts, stops) over `axes`, with signs; those that cancel are left out.

    +1 or -1 by how many stops a corner is made of. Equal for two sets of boxes exactly if they
    cover each element equally often.
    """
    balance: dict[tuple[int, ...], int] = {}
    for starts, stops in spans:
        signed: list[tuple[tuple[int, ...], int]] = [((), 1)]
        for axis in axes:
            signed = [
                ((*corner, place), sign * side)
                for corner, sign in signed
                for place, side in ((starts[axis], 1), (stops[axis], -1))
            ]
        for corner, sign in signed:
            left = balance.pop(corner, 0) + sign
            if left:
                balance[corner] = left
    return balance
