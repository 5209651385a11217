"""A Report as CSV (RFC 4180): one header line, raw numbers, shapes as 64x3x7x7."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from wtool.report import Bins, Report


def render(report: Report) -> Iterator[str]:
    """Header and rows; totals, notes and footer belong to the other renderings."""
    names = [c.name for c in report.columns]
    yield _line(names)
    for row in report.rows:
        yield _line([_raw(row.get(name)) for name in names])


def _raw(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return repr(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Bins):
        return " ".join(map(str, value))
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


def _line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
