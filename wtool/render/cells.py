"""How one value looks to a person: numbers with separators, six significant digits, safe names."""

from __future__ import annotations

import math
from types import NoneType
from typing import Any

from wtool.errors import escape_controls
from wtool.report import Bins, Column, Report

# Eight heights of a bar of a histogram.
SPARKS = "▁▂▃▄▅▆▇█"
_INTEGERS = frozenset((int,))


def visible(report: Report) -> list[Column]:
    """The columns for people: not hidden, and not empty in every row."""
    return [
        c for c in report.columns if not c.hidden and (not report.rows or _is_filled(report, c))
    ]


def _is_filled(report: Report, column: Column) -> bool:
    name = column.name
    return any(row.get(name) not in (None, "") for row in report.rows)


def columns_of_text(report: Report, columns: list[Column]) -> list[list[str]]:
    """The cells of each column, top to bottom; 100,000 rows take a fraction of a second."""
    texts: list[list[str]] = []
    for column in columns:
        values: list[Any] = [row.get(column.name) for row in report.rows]
        kinds = set(map(type, values))
        if kinds == {str}:
            texts.append([v if v.isprintable() else escape_controls(v) for v in values])
        elif kinds == {int}:
            texts.append([f"{v:,}" for v in values])
        elif kinds == {NoneType}:
            texts.append([""] * len(values))
        else:
            texts.append([cell(v) for v in values])
    return texts


def is_number(value: Any) -> bool:
    """Whether `value` is set flush right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_numeric(report: Report, column: Column) -> bool:
    """Whether a column holds numbers only, and so is set flush right."""
    kinds = {type(row.get(column.name)) for row in report.rows}
    numbers = (kind for kind in kinds if kind is not NoneType)
    return all(issubclass(kind, int | float) and kind is not bool for kind in numbers)


def cell(value: Any) -> str:
    """`value` as text: 1,234 and 0.00123457; a shape as 64x3x7x7; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
            return f"{int(value):,}" if value or math.copysign(1, value) > 0 else "-0"
        return f"{value:.6g}"
    if isinstance(value, Bins):
        return sparkline(value)
    if isinstance(value, list | tuple):
        if _INTEGERS.issuperset(map(type, value)):
            return "x".join(map(str, value)) if value else "scalar"
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(item)}" for key, item in value.items())
    return escape_controls(str(value))


def sparkline(counts: Bins) -> str:
    """One block a bin, as high as its count; what holds anything differs from what is empty."""
    most = max(counts, default=0)
    return "".join(SPARKS[-(-count * 7 // most)] if count else " " for count in counts)
