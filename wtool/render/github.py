"""The findings of a check as GitHub annotations: one workflow command a line.

Source: GitHub, Workflow commands for GitHub Actions: `::error file=F,title=T::message`; in
properties `%`, CR, LF, `:` and `,` are escaped, in the message the first three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wtool.errors import escape_controls
from wtool.report import Report

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def render(report: Report) -> Iterator[str]:
    """A line for each finding that is not suppressed."""
    for row in report.rows:
        if "suppressed" not in row:
            yield _line(row)


def _line(row: Mapping[str, Any]) -> str:
    title = f"{row['rule']} {row['name']}"
    text = row["message"]
    if row.get("tensor"):
        place = "".join(f"[{i}]" for i in row.get("index", ()))
        text = f"{row['tensor']}{place}: {text}"
    properties = f"file={_property(row['file'])},title={_property(title)}"
    return f"::{_LEVELS[row['severity']]} {properties}::{_data(text)}\n"


def _data(text: str) -> str:
    return escape_controls(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
