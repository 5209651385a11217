"""Units of two checkpoints that hold the same trained values, in whatever layout.

Signatures find them, the layer rules lay the one out as the other, and every bit is compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wtool.conversion.derived import same_bits
from wtool.conversion.layer_blocks import expand_layer
from wtool.conversion.layer_rules import TORCH_KERAS, Row
from wtool.conversion.operations import apply_all
from wtool.conversion.rules import Side
from wtool.conversion.signatures import Signature, add_signatures, measure_signature
from wtool.conversion.templates import Template
from wtool.errors import UnsupportedError, WtoolError
from wtool.extents import Absent

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor
    from wtool.conversion.units import Unit

Options = dict[str, object]
# Rows whose values are computed, not moved: their signatures say nothing.
_COMPUTED = ("sum", "shift", "fold-weight-norm")


@dataclass(frozen=True)
class ValuePair:
    """Labels of two units with the same values, the kind and options that lay one out as the
    other.
    """

    a: str
    b: str
    kind: str
    options: Options


def find_same_values(a: Sequence[Unit], b: Sequence[Unit]) -> list[ValuePair]:
    """The units of both sides whose values are the same and varied, each alone in that.

    Reads the values of units that some unit of the other side may be; bounded by one tensor.
    """
    wanted = {t for u in a for t in u.traits} & {t for u in b for t in u.traits}
    cache: dict[int, Signature | None] = {}
    found_a, found_b = ({}, {})  # type: tuple[dict[object, list[Unit]], dict[object, list[Unit]]]
    for units, found, side in ((a, found_a, 0), (b, found_b, 1)):
        for unit in units:
            for kind, shape in sorted(unit.traits & wanted):
                key = _key(unit, kind, side, cache)
                if key is not None:
                    found.setdefault((kind, shape, key), []).append(unit)
    pairs: dict[str, ValuePair] = {}
    for place, ones in found_a.items():
        others = found_b.get(place, [])
        if len(ones) == len(others) == 1 and ones[0].label not in pairs:
            pair = confirm(ones[0], others[0], place[0])  # type: ignore[index]
            if pair is not None:
                pairs[ones[0].label] = pair
    counts = Counter(pair.b for pair in pairs.values())
    return [pair for pair in pairs.values() if counts[pair.b] == 1]


def confirm(a: Unit, b: Unit, kind: str) -> ValuePair | None:
    """The pair, if laying out `a` as a layer of that kind gives every bit of `b`."""
    if a.is_tensor or b.is_tensor:
        (one,), (other,) = a.members.values(), b.members.values()
        same = same_bits(one.extent, other.extent)
        return ValuePair(a.label, b.label, "raw", {}) if same else None
    for tried, options in _layouts(a, b, kind):
        try:
            if _is_same(a, b, tried, options):
                return ValuePair(a.label, b.label, tried, options)
        except UnsupportedError:
            continue
    return None


def options_of(a: Unit, b: Unit, kind: str) -> Options:
    """What the layer rule of that kind needs to know, read from the two units."""
    if kind == "mha":
        return {"heads": b.members["query/kernel"].shape[1]}
    if kind == "depthwise":
        kernel = b.members.get("kernel") or b.members["depthwise_kernel"]
        return {"multiplier": kernel.shape[-1]} if kernel.shape[-1] != 1 else {}
    if kind == "prelu":
        return {"shape": list(b.members["alpha"].shape)}
    return {"suffix": a.cell} if a.cell and a.cell != "_l0" else {}


def _layouts(a: Unit, b: Unit, kind: str) -> Iterator[tuple[str, Options]]:
    """The kinds and options worth trying: a Linear may follow a Flatten of any
    (C, H, W), or come before a Reshape to it."""
    yield kind, options_of(a, b, kind)
    if kind == "linear":
        yield "conv1d_linear", {}
        for tried, width in zip(
            ("linear_unflatten", "linear_flatten"), a.members["weight"].shape, strict=True
        ):
            for channels in _divisors(width):
                area = width // channels
                # Only C and H x W matter here; pictures are square more often than not.
                height = max(n for n in _divisors(area) if n * n <= area)
                if area > 1 and channels > 1:
                    yield tried, {"chw": [channels, height, area // height]}


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _is_same(a: Unit, b: Unit, kind: str, options: Options) -> bool:
    keras = "tf_keras" if "depthwise_kernel" in b.members else "keras"
    block = expand_layer(
        kind,
        {"a": ["layer"], "b": ["layer"]},
        {"a": Side("torch", "."), "b": Side(keras, "/")},
        options=options,
        constants={},
        label=kind,
    )
    for part in block.parts:
        if part.only is not None:
            continue
        left, right = _named(a, part.names["a"]), _named(b, part.names["b"])
        steps = part.steps["b"]
        if None in left or None in right or steps is None:
            if part.required:
                return False
            continue
        made = apply_all(steps, tuple(t.extent for t in left if t is not None))
        if len(made) != len(right):
            return False
        if not all(
            same_bits(x, y.extent) for x, y in zip(made, right, strict=True) if y is not None
        ):
            return False
    return True


def _named(unit: Unit, templates: Sequence[Template]) -> list[Tensor | None]:
    """The members that a layer called "layer" names."""
    return [unit.members.get((t.literal or "")[len("layer") + 1 :]) for t in templates]


def _right(row: Row, unit: Unit) -> tuple[str, ...]:
    """The leaves of Keras 3, or of Keras 2 where the unit has those."""
    return row.legacy if row.legacy and row.legacy[0] in unit.members else row.right


def _tensors(unit: Unit, leaves: Sequence[str], options: Options) -> list[Tensor | None]:
    suffix = str(options.get("suffix", unit.cell or "_l0"))
    return [unit.members.get(leaf.replace("{suffix}", suffix)) for leaf in leaves]


def _key(
    unit: Unit, kind: str, side: int, cache: dict[int, Signature | None]
) -> tuple[Signature, ...] | None:
    """The signatures of the unit's required parts, None where values are missing or do not vary."""
    if unit.is_tensor:
        only = _signature(unit.members[""], cache)
        return (only,) if only is not None and only.varied else None
    parts = []
    for row in TORCH_KERAS[kind].rows:
        if not row.required or any(step.split()[0] in _COMPUTED for step in row.steps):
            continue
        leaves = row.left if side == 0 else _right(row, unit)
        tensors = _tensors(unit, leaves, {})
        signatures = [None if t is None else _signature(t, cache) for t in tensors]
        total = add_signatures(s for s in signatures if s is not None)
        if total is None or None in signatures:
            return None
        parts.append(total)
    return tuple(parts) if any(part.varied for part in parts) else None


def _signature(tensor: Tensor, cache: dict[int, Signature | None]) -> Signature | None:
    """The tensor's signature; None where it has no values of numbers."""
    if id(tensor) not in cache:
        known = not isinstance(tensor.extent, Absent) and tensor.dtype.kind != "string"
        try:
            cache[id(tensor)] = measure_signature(tensor) if known and tensor.count else None
        except WtoolError as error:
            raise error.locate(tensor=tensor.name) from error.__cause__
    return cache[id(tensor)]
