"""How one value looks to a person: numbers with separators, six significant digits, safe names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import NoneType
from typing import Any

from wtool.errors import escape_controls
from wtool.report import Bins, Column, Index, Report

# Eight heights of a bar of a histogram.
SPARKS = "▁▂▃▄▅▆▇█"
_INTEGERS = frozenset((int,))


def visible(report: Report) -> list[Column]:
    """The columns for people: not hidden, and not empty in every row."""
    return [
        c
        for c in report.columns
        if not c.hidden and (not report.row_count or _is_filled(report, c))
    ]


def _is_filled(report: Report, column: Column) -> bool:
    return any(value not in (None, "") for value in report.cells(column.name))


def columns_of_text(report: Report, columns: list[Column]) -> list[tuple[Sequence[str], bool]]:
    """The cells of each column, top to bottom, and whether they are numbers, set flush right.

    Every value is looked at once: 100,000 rows take a fraction of a second.
    """
    found = []
    for column in columns:
        values = report.cells(column.name)
        kinds = set(map(type, values))
        found.append((_texts(values, kinds), _are_numeric(kinds)))
    return found


def _texts(values: Sequence[Any], kinds: set[type]) -> Sequence[str]:
    """`cell` of each value; what repeats is set once where values are of one `kind`."""
    if kinds == {str} and "".join(values).isprintable():
        return values
    if kinds in ({str}, {int}):
        text_of = {value: cell(value) for value in set(values)}
        return list(map(text_of.__getitem__, values))
    if kinds == {list}:
        keys = list(map(id, values))
        same = dict(zip(keys, values, strict=True))
        by_id = {key: cell(value) for key, value in same.items()}
        return list(map(by_id.__getitem__, keys))
    return [cell(value) for value in values]


def lines(report: Report, *, notes: bool = False) -> list[str]:
    """The footer, and the notes where asked, for people: no name in them drives a terminal."""
    said = [f"note: {note}" for note in report.notes] if notes else []
    return [escape_controls(line) for line in (*report.footer, *said)]


def is_number(value: Any) -> bool:
    """Whether `value` is set flush right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_numeric(report: Report, column: Column) -> bool:
    """Whether a column holds numbers only, and so is set flush right."""
    return _are_numeric(set(map(type, report.cells(column.name))))


def _are_numeric(kinds: set[type]) -> bool:
    numbers = (kind for kind in kinds if kind is not NoneType)
    return all(issubclass(kind, int | float) and kind is not bool for kind in numbers)


def cell(value: Any) -> str:
    """`value` as text: 1,234 and 0.00123457; a shape as 64x3x7x7; nothing for None."""
    if value is None:
        return ""
    if type(value) is list and _INTEGERS.issuperset(map(type, value)):
        return "x".join(map(str, value)) if value else "scalar"
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
    if isinstance(value, Index):
        return str(list(value))
    if isinstance(value, tuple) and _INTEGERS.issuperset(map(type, value)):
        return cell(list(value))
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(item)}" for key, item in value.items())
    return escape_controls(str(value))


def sparkline(counts: Bins) -> str:
    """One block a bin, as high as its count; what holds anything differs from what is empty."""
    most = max(counts, default=0)
    return "".join(SPARKS[-(-count * 7 // most)] if count else " " for count in counts)
