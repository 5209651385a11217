"""A Report as CSV (RFC 4180): a header line, raw numbers, shapes as 64x3x7x7, places as [3, 0]."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from typing import Any

from wtool.report import Bins, Index, Report

# Rows of one piece of the text.
STREAM_ROWS = 2_000
_AS_THEY_ARE = frozenset((str, int))


def render(report: Report) -> Iterator[str]:
    """Header and rows; totals, notes and footer belong to the other renderings."""
    names = [c.name for c in report.columns]
    # A field with a line end of any kind is quoted only if the row's own end has that character.
    writer = csv.writer(_Echo(), lineterminator="\r\n")
    yield _line(writer.writerow(names))
    for start in range(0, len(report.rows), STREAM_ROWS):
        rows = report.rows[start : start + STREAM_ROWS]
        yield "".join(
            _line(writer.writerow([_raw(row.get(name)) for name in names])) for row in rows
        )


class _Echo:
    """A file for `csv.writer`, whose `writerow` then gives the text of the row."""

    def write(self, text: str) -> str:
        return text


def _line(row: str) -> str:
    return row.removesuffix("\r\n") + "\n"


def _raw(value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return repr(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Bins):
        return " ".join(map(str, value))
    if isinstance(value, Index):
        return str(list(value))
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
