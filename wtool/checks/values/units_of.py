"""Which output units of a weight are zero or repeat: the suspects, compared whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from wtool.checks.subject import Facts, Subject
from wtool.checks.unit_probes import Suspects, probe
from wtool.extents import boxes
from wtool.layers import output_axes

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

# Values in memory at a time.
BLOCK_BYTES = 8 << 20
# A unit of fewer values repeats by chance.
MIN_VALUES = 4


def weights(subject: Subject) -> Iterator[tuple[Tensor, Facts, tuple[int, ...]]]:
    """(weight, facts, output axes) of the layers that have units; embeddings have rows, not units.

    Weights that are one value everywhere are left to other rules.
    """
    for tensor, facts in subject.matrices():
        axes = output_axes(tensor, subject.checkpoint)
        flat = facts.moments.minimum == facts.moments.maximum
        if axes is None or flat or tensor.kind == "embedding":
            continue
        units = count_units(tensor, axes)
        if units > 1 and tensor.count // units >= MIN_VALUES:
            yield tensor, facts, axes


def count_units(tensor: Tensor, axes: tuple[int, ...]) -> int:
    """How many output units there are along these axes."""
    return math.prod(tensor.shape[axis] for axis in axes)


def repeated(subject: Subject, tensor: Tensor, axes: tuple[int, ...]) -> list[tuple[int, int]]:
    """(unit, earlier unit with exactly the same values) in order; units of zeros are left out."""
    import numpy as np

    suspects = _suspects(subject, tensor, axes).repeated
    sums = {unit: hashlib.sha256() for unit in suspects}
    left_out = set(suspects)  # until a value is not 0
    unequal = set()  # NaN equals nothing
    for units, values in _runs(tensor, axes, suspects):
        left_out.difference_update(units[values.any(axis=1)].tolist())
        unequal.update(units[np.isnan(values).any(axis=1)].tolist())
        values[values == 0] = 0  # -0.0 equals 0.0
        for unit, run in zip(units.tolist(), values, strict=True):
            sums[unit].update(run.view(np.uint8).data)
    earlier: dict[bytes, int] = {}
    found = []
    for unit in suspects:
        if unit in left_out or unit in unequal:
            continue
        original = earlier.setdefault(sums[unit].digest(), unit)
        if original != unit:
            found.append((unit, original))
    return found


def dead(subject: Subject, tensor: Tensor, axes: tuple[int, ...]) -> list[int]:
    """The units that hold nothing but zeros, in order."""
    zero = _suspects(subject, tensor, axes).zero
    alive: set[int] = set()
    for units, values in _runs(tensor, axes, zero):
        alive.update(units[values.any(axis=1)].tolist())
    return [unit for unit in zero if unit not in alive]


def _suspects(subject: Subject, tensor: Tensor, axes: tuple[int, ...]) -> Suspects:
    """The units to be looked at whole: as the one reading saw them, else from a read of its own."""
    return subject.suspects.get(tensor.name) or probe(tensor, axes)


def _runs(
    tensor: Tensor, axes: tuple[int, ...], wanted: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All values of the units `wanted`, run by run: (units,) and (units, values), C order.

    Each unit's runs come in the order of its values. A unit that lies in one piece is read by
    itself; else the tensor is read once, for its values lie anywhere.
    """
    import numpy as np

    shape = tensor.shape
    if axes == (0,) and tensor.extent.raw_span() is not None:
        inner = tensor.count // shape[0]
        for unit in wanted:
            yield np.array([unit]), tensor.read(unit * inner, (unit + 1) * inner)[None]
        return
    position = 0
    for block in tensor.blocks(BLOCK_BYTES) if wanted else ():
        for starts, stops, first, last in boxes(shape, position, position + len(block)):
            sides = [b - a for a, b in zip(starts, stops, strict=True)]
            box = block[first - position : last - position].reshape(sides)
            numbers = np.zeros((), np.int64)
            for axis in axes:
                along = np.arange(starts[axis], stops[axis])
                numbers = np.add.outer(numbers * shape[axis], along)
            rows = np.moveaxis(box, axes, range(len(axes))).reshape(numbers.size, -1)
            chosen = np.isin(numbers, wanted).reshape(-1)
            if chosen.any():
                yield numbers.reshape(-1)[chosen], rows[chosen]
        position += len(block)
