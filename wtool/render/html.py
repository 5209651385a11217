"""A Report as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from wtool.errors import escape_controls
from wtool.render.cells import cell, is_number, visible
from wtool.report import Report

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;color:#222}"
    "table{border-collapse:collapse}"
    "th,td{padding:.25em .75em;border-bottom:1px solid #ddd;text-align:left}"
    "th{position:sticky;top:0;background:#fff}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "p.note{color:#666}"
)


def render(report: Report) -> Iterator[str]:
    """The page: title, table, footer, notes."""
    title = _safe(report.title or f"wtool {report.command} {' '.join(report.sources)}")
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    columns = visible(report)
    if report.rows and columns:
        yield "<table><thead><tr>" + "".join(f"<th>{escape(c.name)}</th>" for c in columns)
        yield "</tr></thead><tbody>\n"
        for row in report.rows:
            values = [row.get(c.name) for c in columns]
            cells = "".join(
                f'<td class="n">{escape(cell(v))}</td>'
                if is_number(v)
                else f"<td>{escape(cell(v))}</td>"
                for v in values
            )
            yield f"<tr>{cells}</tr>\n"
        yield "</tbody></table>\n"
    for line in report.footer:
        yield f"<p>{_safe(line)}</p>\n"
    for note in report.notes:
        yield f'<p class="note">note: {_safe(note)}</p>\n'
    yield "</body></html>\n"


def _safe(text: str) -> str:
    return escape(escape_controls(text))
