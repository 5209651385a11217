"""What options and constants may be: sizes, names, switches. A wrong one is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Dict
from typing import Any

from wtool.conversion.layer_rules import CELLS, KERAS_TF1, NORMS, TORCH_KERAS, TORCH_TF1, Row
from wtool.dtypes import DType
from wtool.errors import MalformedInput, UsageError


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_sizes(value: Any, low: int, at_least: int) -> bool:
    is_list = isinstance(value, list | tuple) and at_least <= len(value) <= 8
    return is_list and all(type(item) is int and item >= low for item in value)


# Option -> (what it must be, whether a value is that).
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "chw": ("a list of sizes, [C, H, W], or a constant's name", lambda v: _are_sizes(v, 1, 2)),
    "shape": ("a list of sizes", lambda v: _is_size(v) or _are_sizes(v, -1, 0)),
    "heads": ("a whole number from 1", _is_size),
    "multiplier": ("a whole number from 1", _is_size),
    "forget_bias": ("a number", lambda v: type(v) in (int, float)),
    "suffix": ("a text", lambda v: isinstance(v, str)),
    "scale": ("true or false", lambda v: type(v) is bool),
    "center": ("true or false", lambda v: type(v) is bool),
    "weight_norm": ("a text", lambda v: isinstance(v, str)),
}


def check_value(name: str, value: object) -> None:
    """MalformedInput for a value that the option cannot have; constants are put in already."""
    expected, fits = _VALUES.get(name, ("", bool))
    if name in _VALUES and not fits(value):
        raise MalformedInput(f"option '{name}' cannot be that", expected=expected, found=value)


def check_names(side: str, names: Iterable[str], rows: Sequence[Row], *, left: bool) -> None:
    """MalformedInput where a table of names speaks of a leaf that the layer does not have there."""
    leaves = {
        leaf.partition(":")[2] or leaf
        for row in rows
        for leaf in (row.left if left else (*row.right, *row.legacy))
    }
    for name in names:
        if name not in leaves:
            raise MalformedInput(
                f"{side}_names has no leaf '{name}' to name", expected=", ".join(sorted(leaves))
            )


def refuse_unused(constants: Dict[str, object], kinds: Iterable[str], words: Iterable[str]) -> None:
    """UsageError for a constant that nothing takes: a misspelt one would change nothing.

    kinds: of the layers of a mapping. words: other names that it takes.
    """
    known = set(words)
    for kind in set(kinds):
        for table in (TORCH_KERAS, TORCH_TF1, KERAS_TF1):
            known |= {name for name, _ in table[kind].options} if kind in table else set()
        known |= {"chw"} if kind in (*NORMS, *CELLS) else set()
    for name in constants:
        if name not in known:
            raise UsageError(
                f"nothing takes the constant '{name}'", expected=", ".join(sorted(known)) or "none"
            )


def holds(dtype: DType, value: float) -> bool:
    """Whether the type has the value, but for the rounding of fractions; no NaN and no infinity."""
    import numpy

    if not math.isfinite(value):
        return False
    with numpy.errstate(over="ignore"):
        made = numpy.asarray(value, numpy.float64).astype(dtype.carrier).astype(numpy.float64)
    if dtype.kind == "float":
        return bool(numpy.isfinite(made))
    return bool(made == value)
