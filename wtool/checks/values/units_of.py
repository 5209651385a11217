"""Which output units of a weight are zero or repeat: the suspects, compared whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks.subject import Facts, Subject
from wtool.checks.unit_probes import Suspects, probe
from wtool.layers import output_axis

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Tensor

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

    earlier: dict[bytes, int] = {}
    found = []
    for unit in _suspects(subject, tensor, axis).repeated:
        values = unit_values(tensor, axis, unit)
        if not values.any() or np.isnan(values).any():
            continue
        values[values == 0] = 0  # -0.0 equals 0.0
        original = earlier.setdefault(hashlib.sha256(values.tobytes()).digest(), unit)
        if original != unit:
            found.append((unit, original))
    return found


def dead(subject: Subject, tensor: Tensor, axis: int) -> list[int]:
    """The units that hold nothing but zeros, in order."""
    zero = _suspects(subject, tensor, axis).zero
    return [unit for unit in zero if not unit_values(tensor, axis, unit).any()]


def _suspects(subject: Subject, tensor: Tensor, axis: int) -> Suspects:
    """The units to be looked at whole: as the one reading saw them, else from a read of its own."""
    return subject.suspects.get(tensor.name) or probe(tensor, axis)


def unit_values(tensor: Tensor, axis: int, unit: int) -> np.ndarray:
    """All values of one unit, in the type that carries them."""
    import numpy as np

    low = tuple(unit if i == axis else 0 for i in range(len(tensor.shape)))
    high = tuple(unit + 1 if i == axis else n for i, n in enumerate(tensor.shape))
    out = np.empty([b - a for a, b in zip(low, high, strict=True)], tensor.dtype.carrier)
    tensor.extent.read_box(low, high, out)
    return out
