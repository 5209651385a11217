"""Which output units of a weight are zero or repeat: the suspects, compared whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from wtool.checks.subject import Facts, Subject
from wtool.checks.unit_probes import Suspects, probe
from wtool.extents import boxes
from wtool.layers import output_axis

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

# Values in memory at a time.
BLOCK_BYTES = 8 << 20
# A unit of fewer values repeats by chance.
MIN_VALUES = 4


def weights(subject: Subject) -> Iterator[tuple[Tensor, Facts, int]]:
    """(weight, facts, output axis) of the layers that have units; embeddings have rows, not units.

    Weights that are one value everywhere are left to other rules.
    """
    for tensor, facts in subject.matrices():
        axis = output_axis(tensor, subject.checkpoint)
        flat = facts.moments.minimum == facts.moments.maximum
        inner = tensor.count // max(1, tensor.shape[axis]) if axis is not None else 0
        if axis is None or flat or tensor.kind == "embedding":
            continue
        if inner >= MIN_VALUES and tensor.shape[axis] > 1:
            yield tensor, facts, axis


def repeated(subject: Subject, tensor: Tensor, axis: int) -> list[tuple[int, int]]:
    """(unit, earlier unit with exactly the same values) in order; units of zeros are left out."""
    import numpy as np

    suspects = _suspects(subject, tensor, axis).repeated
    sums = {unit: hashlib.sha256() for unit in suspects}
    left_out = set(suspects)  # until a value is not 0
    unequal = set()  # NaN equals nothing
    for units, values in _runs(tensor, axis, suspects):
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


def dead(subject: Subject, tensor: Tensor, axis: int) -> list[int]:
    """The units that hold nothing but zeros, in order."""
    zero = _suspects(subject, tensor, axis).zero
    alive: set[int] = set()
    for units, values in _runs(tensor, axis, zero):
        alive.update(units[values.any(axis=1)].tolist())
    return [unit for unit in zero if unit not in alive]


def _suspects(subject: Subject, tensor: Tensor, axis: int) -> Suspects:
    """The units to be looked at whole: as the one reading saw them, else from a read of its own."""
    return subject.suspects.get(tensor.name) or probe(tensor, axis)


def _runs(
    tensor: Tensor, axis: int, wanted: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All values of the units `wanted`, rising, run by run: (units,) and (units, values), C order.

    Each unit's runs come in the order of its values. A unit that lies in one piece is read by
    itself; else the tensor is read once, for its values lie anywhere.
    """
    import numpy as np

    if axis == 0 and tensor.extent.raw_span() is not None:
        inner = tensor.count // tensor.shape[0]
        for unit in wanted:
            yield np.array([unit]), tensor.read(unit * inner, (unit + 1) * inner)[None]
        return
    chosen = np.array(wanted, np.int64)
    position = 0
    for block in tensor.blocks(BLOCK_BYTES) if wanted else ():
        for starts, stops, first, last in boxes(tensor.shape, position, position + len(block)):
            sides = [b - a for a, b in zip(starts, stops, strict=True)]
            rows = np.moveaxis(block[first - position : last - position].reshape(sides), axis, 0)
            low, high = np.searchsorted(chosen, (starts[axis], stops[axis]))
            if low < high:
                units = chosen[low:high]
                values = rows[units - starts[axis]].reshape(len(units), -1)
                yield units, np.ascontiguousarray(values)
        position += len(block)
