"""Which output units of a weight repeat: candidates from a few values each, then compared whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks.subject import Facts, Subject
from wtool.layers import output_axis

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

# Values of each unit that name the candidates.
PROBE = 16
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


def repeated(tensor: Tensor, axis: int) -> list[tuple[int, int]]:
    """(unit, earlier unit with exactly the same values) in order; units of zeros are left out."""
    import numpy as np

    probes = _probe(tensor, axis)
    earlier: dict[bytes, list[int]] = {}
    found = []
    for unit in range(tensor.shape[axis]):
        row = probes[unit]
        originals = earlier.setdefault(row.tobytes(), [])
        for original in originals:
            values = unit_values(tensor, axis, unit)
            if values.any() and np.array_equal(values, unit_values(tensor, axis, original)):
                found.append((unit, original))
                break
        else:
            originals.append(unit)
    return found


def dead(tensor: Tensor, axis: int) -> list[int]:
    """The units that hold nothing but zeros, in order."""
    probes = _probe(tensor, axis)
    return [
        unit
        for unit in range(tensor.shape[axis])
        if not probes[unit].any() and not unit_values(tensor, axis, unit).any()
    ]


def unit_values(tensor: Tensor, axis: int, unit: int) -> np.ndarray:
    """All values of one unit, in the type that carries them."""
    import numpy as np

    low = tuple(unit if i == axis else 0 for i in range(len(tensor.shape)))
    high = tuple(unit + 1 if i == axis else n for i, n in enumerate(tensor.shape))
    out = np.empty([b - a for a, b in zip(low, high, strict=True)], tensor.dtype.carrier)
    tensor.extent.read_box(low, high, out)
    return out


def _probe(tensor: Tensor, axis: int) -> np.ndarray:
    """A few values of every unit, (units, values), the same places of each."""
    import numpy as np

    span = tensor.extent.raw_span()
    units = tensor.shape[axis]
    inner = math.prod(tensor.shape[axis + 1 :])
    if axis == 0 and span is not None:
        source, offset, _ = span
        size = tensor.dtype.carrier.itemsize
        width = min(PROBE, inner)
        out = np.empty((units, width), tensor.dtype.carrier)
        raw = out.view(np.uint8)
        for unit in range(units):
            source.read_into(offset + unit * inner * size, raw[unit].data)
        return out
    high = list(tensor.shape)
    room = PROBE
    for i in reversed(range(len(high))):
        if i != axis:
            high[i] = min(high[i], max(1, room))
            room //= max(1, high[i])
    box = np.empty(high, tensor.dtype.carrier)
    tensor.extent.read_box([0] * len(high), high, box)
    return np.moveaxis(box, axis, 0).reshape(units, -1).copy()
