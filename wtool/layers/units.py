"""Output units of a weight: their norms, those that are dead, those that repeat another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wtool.checkpoint import Tensor
from wtool.extents import boxes
from wtool.layers.layouts import unit_box

if TYPE_CHECKING:
    import numpy as np

# Elements that are read at once.
BLOCK = 1 << 18
# Multipliers of the fingerprint: steps of splitmix64 (Steele, Lea and Flood 2014), made odd.
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MIX = (0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)


@dataclass(frozen=True, slots=True)
class Units:
    """The slices of a tensor along one axis or several, over their finite values.

    norms: Euclidean norm of each, (units,) float64. dead: how many hold nothing but zeros.
    duplicate: how many hold exactly the values of an earlier one, dead ones not counted.
    constant: whether the whole tensor holds one value.
    """

    norms: np.ndarray
    dead: int
    duplicate: int
    constant: bool


def measure_units(tensor: Tensor, axes: tuple[int, ...]) -> Units:
    """The units of a tensor of real numbers, read once; repeated units are read again and compared.

    axes: those along which units lie, one behind the other, as of `layouts.output_axes`. Memory is
    one block and three numbers a unit.
    """
    import numpy as np

    count = math.prod(tensor.shape[axis] for axis in axes)
    squares = np.zeros(count)
    alive = np.zeros(count, bool)
    prints = np.zeros(count, np.uint64)
    first: float | None = None
    constant = True
    for start, inner_start, block in _blocks(tensor, axes):  # (outer, units, inner)
        with np.errstate(over="ignore"):
            wide = block.astype(np.float64)
        if first is None:
            first = float(wide.flat[0])
        constant = constant and bool((wide == first).all())
        outer, units, inner = wide.shape
        here = slice(start[1], start[1] + units)
        # -0.0 counts as 0.0; the fingerprint is of the values, not of how they are stored.
        bits = (wide + 0.0).view(np.uint64)
        depth = math.prod(tensor.shape[axes[-1] + 1 :])
        places = (np.arange(start[0], start[0] + outer) * depth)[:, None] + np.arange(
            inner_start, inner_start + inner
        )
        prints[here] += (bits * _multipliers(places)[:, None, :]).sum(axis=(0, 2), dtype=np.uint64)
        alive[here] |= (wide != 0).any(axis=(0, 2))
        finite = np.where(np.isfinite(wide), wide, 0.0)
        squares[here] += (finite * finite).sum(axis=(0, 2))
    return Units(
        np.sqrt(squares),
        int(count - alive.sum()),
        _count_repeated(tensor, axes, prints, alive),
        constant and tensor.count > 1,
    )


def _blocks(
    tensor: Tensor, axes: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], int, np.ndarray]]:
    """((first outer index, first unit), first inner index, values (outer, units, inner))."""
    outer = math.prod(tensor.shape[: axes[0]])
    units = math.prod(tensor.shape[axes[0] : axes[-1] + 1])
    inner = math.prod(tensor.shape[axes[-1] + 1 :])
    many = max(1, BLOCK // max(1, units * inner))
    wide = units if units * inner <= BLOCK else max(1, BLOCK // max(1, inner))
    long = inner if inner <= BLOCK else BLOCK
    for o in range(0, outer, many):
        slices = min(many, outer - o)
        for u in range(0, units, wide):
            width = min(wide, units - u)
            for i in range(0, inner, long):
                length = min(long, inner - i)
                start = (o * units + u) * inner + i
                values = tensor.read(start, start + slices * width * length)
                yield (o, u), i, values.reshape(slices, width, length)


def _multipliers(places: np.ndarray) -> np.ndarray:
    """A fixed odd number for each place: int64 -> uint64 of the same shape."""
    import numpy as np

    x = places.astype(np.uint64) * np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


def _count_repeated(
    tensor: Tensor, axes: tuple[int, ...], prints: np.ndarray, alive: np.ndarray
) -> int:
    """How many living units equal an earlier one; equal fingerprints only name the candidates."""
    earlier: dict[int, list[int]] = {}
    repeated = 0
    for unit, fingerprint in enumerate(prints.tolist()):
        if not alive[unit]:
            continue
        originals = earlier.setdefault(fingerprint, [])
        if any(_equal(tensor, axes, original, unit) for original in originals):
            repeated += 1
        else:
            originals.append(unit)
    return repeated


def _equal(tensor: Tensor, axes: tuple[int, ...], a: int, b: int) -> bool:
    """Whether two units hold the same values, NaN equal to NaN; read in pieces of BLOCK."""
    import numpy as np

    shape = tuple(1 if axis in axes else n for axis, n in enumerate(tensor.shape))
    for first in range(0, math.prod(shape), BLOCK):
        last = min(first + BLOCK, math.prod(shape))
        for starts, stops, _, _ in boxes(shape, first, last):
            one, other = (_read_unit(tensor, axes, unit, starts, stops) for unit in (a, b))
            if not np.array_equal(one, other, equal_nan=True):
                return False
    return True


def _read_unit(
    tensor: Tensor,
    axes: tuple[int, ...],
    unit: int,
    starts: tuple[int, ...],
    stops: tuple[int, ...],
) -> np.ndarray:
    """Values of a box of one unit as float64; starts and stops say 0 and 1 along its axes."""
    import numpy as np

    first, _ = unit_box(tensor.shape, axes, unit)
    low = [start + place for start, place in zip(starts, first, strict=True)]
    high = [stop + place for stop, place in zip(stops, first, strict=True)]
    sizes = [stop - start for start, stop in zip(low, high, strict=True)]
    out = np.empty(sizes, tensor.dtype.carrier)
    tensor.extent.read_box(low, high, out)
    return out.astype(np.float64)
