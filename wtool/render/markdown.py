"""A Report as a Markdown table, for a pull request or a changelog."""

from __future__ import annotations

from collections.abc import Iterator

from wtool.errors import escape_controls
from wtool.render.cells import cell, is_numeric, lines, visible
from wtool.report import Report


def render(report: Report) -> Iterator[str]:
    """Title, table, footer lines, notes; names cannot break out of their cell."""
    if report.title:
        yield f"**{_safe(escape_controls(report.title))}**\n\n"
    columns = visible(report)
    if report.rows and columns:
        numeric = [is_numeric(report, c) for c in columns]
        yield "| " + " | ".join(_safe(c.name) for c in columns) + " |\n"
        yield "|" + "|".join(" ---: " if n else " --- " for n in numeric) + "|\n"
        for row in report.rows:
            yield "| " + " | ".join(_safe(cell(row.get(c.name))) for c in columns) + " |\n"
        yield "\n" if report.footer or report.notes else ""
    for line in lines(report, notes=True):
        yield f"{_safe(line)}\n\n"


def _safe(text: str) -> str:
    for character in "\\|*_`<[":
        text = text.replace(character, f"\\{character}")
    return text
