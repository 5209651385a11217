"""A Report as JSON, schema 1: raw numbers, full names, NaN and infinities as strings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from wtool.report import Report

SCHEMA = 1


def render(report: Report) -> Iterator[str]:
    """{"schema", "command", "ok", "sources", "columns", "rows", "totals", "notes"}; a row a
    line."""
    head = {
        "schema": SCHEMA,
        "command": report.command,
        "ok": report.ok,
        "sources": list(report.sources),
        "columns": [{"name": c.name, "unit": c.unit} for c in report.columns],
    }
    yield _dump(head)[:-1] + ', "rows": ['
    names = [c.name for c in report.columns]
    encode = json.JSONEncoder(allow_nan=False).encode
    separator = "\n"
    for row in report.rows:
        values = {name: row.get(name) for name in names}
        try:
            yield separator + encode(values)
        except ValueError:
            yield separator + _dump(values)
        separator = ",\n"
    tail = {"totals": dict(report.totals), "notes": list(report.notes)}
    yield "\n], " + _dump(tail)[1:] + "\n"


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_named(value), allow_nan=False)


def _named(value: Any) -> Any:
    """`value` with NaN and infinities as the strings "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return value
