"""Which output units of a weight may be zero, or equal to another: from a few values of each.

The first PROBE values of every unit become one number while the weight is measured. Units whose
numbers are equal, or 0, are suspects; the rules compare those whole. So a weight is read a second
time only where there may be something to find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

PROBE = 16


class Suspects(NamedTuple):
    """Units, rising: whose first values are 0, and whose first values are those of another."""

    zero: tuple[int, ...]
    repeated: tuple[int, ...]


class UnitProbes:
    """Probes of the weights of which each unit is one run of values (output axis 0).

    units: for each tensor that is read, in the order of their numbers, how many units it has; 0
    where it has none, or none in one run. Safe to call from several threads, except `finish`.
    """

    def __init__(self, tensors: Sequence[Tensor], units: Sequence[int]) -> None:
        self._tensors = tensors
        self._units = units
        self._numbers: dict[int, np.ndarray] = {}
        self._cut: dict[int, list[int]] = {}

    def see(self, index: int, start: int, block: np.ndarray) -> None:
        """Probe the units that begin in a block: elements from `start` on of tensor `index`."""
        import numpy as np

        units = self._units[index]
        if not units:
            return
        inner = self._tensors[index].count // units
        width = min(PROBE, inner)
        first = -(-start // inner)
        last = (start + len(block) - width) // inner
        if start <= (last + 1) * inner < start + len(block):
            self._cut.setdefault(index, []).append(last + 1)  # its probe reaches into the next
        if last < first:
            return
        numbers = self._numbers.get(index)
        if numbers is None:
            numbers = self._numbers.setdefault(index, np.zeros(units, np.uint64))
        begin = block[first * inner - start :]
        steps = inner * block.itemsize, block.itemsize
        probes = np.lib.stride_tricks.as_strided(begin, (last - first + 1, width), steps)
        numbers[first : last + 1] = number_probes(probes)

    def finish(self, index: int) -> Suspects | None:
        """The suspects of a tensor of which every block was seen; None where it has no probes."""
        import numpy as np

        units = self._units[index]
        if not units:
            return None
        numbers = self._numbers.pop(index, np.zeros(units, np.uint64))
        inner = self._tensors[index].count // units
        for unit in self._cut.pop(index, ()):
            values = self._tensors[index].read(unit * inner, unit * inner + min(PROBE, inner))
            numbers[unit] = number_probes(values[None])[0]
        return find_suspects(numbers)


def probe(tensor: Tensor, axes: tuple[int, ...]) -> Suspects:
    """The suspects of a tensor by itself, along any axes: one read of a few values of each unit."""
    import numpy as np

    high = list(tensor.shape)
    room = PROBE
    for i in reversed(range(len(high))):
        if i not in axes:
            high[i] = min(high[i], max(1, room))
            room //= max(1, high[i])
    box = np.empty(high, tensor.dtype.carrier)
    tensor.extent.read_box([0] * len(high), high, box)
    units = math.prod(tensor.shape[axis] for axis in axes)
    rows = np.moveaxis(box, axes, range(len(axes))).reshape(units, -1)
    return find_suspects(number_probes(rows))


def number_probes(probes: np.ndarray) -> np.ndarray:
    """A number for each row of (units, values) floats: (units,) uint64; 0 where all values are 0.

    Equal rows have equal numbers; -0.0 is 0. Two rows that differ share one by chance at most.
    """
    import numpy as np

    words = np.ascontiguousarray(probes).view(f"u{probes.itemsize}").astype(np.uint64)
    words[probes == 0] = 0
    words *= _factors(words.shape[1])
    mixed: np.ndarray = (words ^ (words >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return mixed


def find_suspects(numbers: np.ndarray) -> Suspects:
    """The suspects by the numbers of all units, (units,) uint64; units of zeros may repeat too."""
    import numpy as np

    zero = np.flatnonzero(numbers == 0).tolist()
    order = np.argsort(numbers)
    ordered = numbers[order]
    same = ordered[1:] == ordered[:-1]
    repeated: list[int] = []
    if same.any():
        marks = np.zeros(len(numbers), bool)
        marks[order[1:][same]] = marks[order[:-1][same]] = True
        repeated = np.flatnonzero(marks).tolist()
    return Suspects(tuple(zero), tuple(repeated))


def units_in_one_run(shape: Sequence[int], axes: tuple[int, ...] | None) -> int:
    """How many units there are, 0 unless the values of each follow one another."""
    return shape[0] if axes == (0,) and math.prod(shape[1:]) > 0 else 0


@lru_cache(maxsize=PROBE)
def _factors(count: int) -> np.ndarray:
    """(count,) odd uint64 without pattern."""
    import numpy as np

    golden = np.uint64(0x9E3779B97F4A7C15)
    places: np.ndarray = np.arange(1, count + 1, dtype=np.uint64) * golden
    return places ^ (places >> np.uint64(32)) | np.uint64(1)
