"""Values of one table of a mapping file, each refused where it is not what it has to be."""

from __future__ import annotations

import math
from typing import Any

from wtool.conversion.layer_options import holds
from wtool.conversion.rules import SideName
from wtool.dtypes import DTYPES
from wtool.errors import MalformedInput

# Numbers of a tensor that a mapping file spells out.
MAX_ELEMENTS = 1 << 20


def check_keys(
    row: dict[str, Any], table: str, needed: set[str], optional: set[str] | None
) -> None:
    """MalformedInput where a key is missing, or there is another; optional: None allows all."""
    missing = sorted(needed - set(row))
    if missing:
        raise MalformedInput(f"[{table}] lacks '{missing[0]}'")
    if optional is not None:
        unknown = sorted(set(row) - needed - optional)
        if unknown:
            raise MalformedInput(
                f"[{table}] has no key '{unknown[0]}'",
                expected=", ".join(sorted(needed | optional)),
            )


def side_name(row: dict[str, Any]) -> SideName:
    """The side of a table."""
    if row["side"] not in ("a", "b"):
        raise MalformedInput("side is 'a' or 'b'", found=row["side"])
    return "a" if row["side"] == "a" else "b"


def text_of(value: Any, what: str) -> str:
    """A text; what: its name in the error."""
    if not isinstance(value, str):
        raise MalformedInput(f"{what} is a text", found=value)
    return value


def texts_of(value: Any, what: str) -> list[str]:
    """A text or several."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise MalformedInput(f"{what} is a text or a list of texts")
    return items


def switch_of(row: dict[str, Any], name: str, default: bool) -> bool:
    """A key that is true or false."""
    value = row.get(name, default)
    if type(value) is not bool:
        raise MalformedInput(f"{name} is true or false", found=value)
    return value


def made_values(
    row: dict[str, Any],
) -> tuple[str, tuple[int, ...], tuple[float, ...] | None]:
    """(dtype, shape, values) of a [[make]]: one value for all, or each in C order; None where the
    template has them.
    """
    shape = row.get("shape", [])
    values = [row["fill"]] if "fill" in row else row.get("values")
    dtype = row.get("dtype", "float32")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise MalformedInput("shape is a list of sizes", found=shape)
    if (
        not isinstance(dtype, str)
        or dtype not in DTYPES
        or DTYPES[dtype].kind not in ("float", "int", "uint", "bool")
    ):
        raise MalformedInput("no such type of numbers", found=dtype)
    count = math.prod(shape)
    if values is not None and (
        not isinstance(values, list)
        or not all(isinstance(v, int | float) for v in values)
        or len(values) not in (1, count)
        or count > MAX_ELEMENTS
    ):
        raise MalformedInput(f"values are {count} numbers, or one for all")
    for value in values or ():
        if not holds(DTYPES[dtype], value):
            raise MalformedInput(f"{dtype} does not hold the value", found=value)
    return dtype, tuple(shape), None if values is None else tuple(float(v) for v in values)
